// The report as one page: data, style and drawing in a single file that works without a network.
#include <string>

#include "calibrate/profile.h"
#include "calibrate/report/report_files.h"

namespace mixwright::calibrate {

std::string profile_page(const Profile& profile, std::string_view model_name, const io::Json& zip) {
    io::Json data = profile_json(profile, true);
    data["model"] = model_name;
    if (!zip.is_null()) data["zip"] = zip;
    // A file name must not be able to close the script element.
    std::string json;
    for (const char c : data.dump(-1, ' ', false, io::Json::error_handler_t::replace)) json += c == '<' ? std::string("\\u003c") : std::string(1, c);

    std::string page = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                       "<title>Routing profile</title>\n<style>\n";
    page.append(report::report_style).append("</style></head><body>\n").append(report::report_body);
    page.append("<script id=\"data\" type=\"application/json\">").append(json).append("</script>\n<script>\n");
    return page.append(report::report_script).append("</script></body></html>\n");
}

}  // namespace mixwright::calibrate
