#include "io/json.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "error.h"
#include "io/file.h"

namespace mixwright::io {

Json parse_json(std::string_view text, std::string_view source, JsonLimits limits) {
    if (text.size() > limits.bytes)
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: the JSON is too large (got {} bytes, limit {})", source, text.size(), limits.bytes));

    // The parser takes a null byte for the end of its input and skips a byte order mark; JSON knows neither.
    if (text.find('\0') != std::string_view::npos || text.starts_with("\xEF\xBB\xBF"))
        throw Error(ErrorCode::malformed, fmt::format("{}: not valid JSON: it holds a null byte or a byte order mark", source));

    std::vector<std::set<std::string, std::less<>>> open_objects;
    const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
        using Event = Json::parse_event_t;
        if (event == Event::object_start || event == Event::array_start) {
            if (static_cast<std::size_t>(depth) >= limits.depth)
                throw Error(ErrorCode::malformed, fmt::format("{}: nested deeper than {} levels", source, limits.depth));
            if (event == Event::object_start) open_objects.emplace_back();
        } else if (event == Event::key) {
            if (!open_objects.back().insert(value.get<std::string>()).second)
                throw Error(ErrorCode::malformed, fmt::format("{}: key \"{}\" occurs twice in one object", source,
                                                              printable(value.get<std::string>())));
        } else if (event == Event::object_end) {
            open_objects.pop_back();
        }
        return true;
    };
    try {
        return Json::parse(text.begin(), text.end(), check);
    } catch (const Json::exception& e) {
        throw Error(ErrorCode::malformed, fmt::format("{}: not valid JSON: {}", source, printable(e.what(), 300)),
                    "the file may be truncated or a download may have been cut off");
    }
}

Json read_json(const std::filesystem::path& path, JsonLimits limits) {
    return parse_json(read_file(path, limits.bytes), path.string(), limits);
}

}  // namespace mixwright::io
