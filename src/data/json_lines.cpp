#include "data/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "io/file.h"
#include "progress.h"

namespace mixwright::data {

void for_each_json_line(const std::filesystem::path& path, std::size_t file_bytes, io::JsonLimits limits,
                        const std::function<bool(const io::Json&, const std::string&)>& visit) {
    const std::string content = io::read_file(path, file_bytes);
    std::size_t number = 0;
    for (std::size_t begin = 0; begin < content.size();) {
        const std::size_t end = std::min(content.find('\n', begin), content.size());
        const std::string_view line(content.data() + begin, end - begin);
        begin = end + 1;
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        const std::string place = fmt::format("{}:{}", io::shown(path), number);
        if (!visit(io::parse_json(line, place, limits), place)) return;
        if (number % 1024 == 0) check_interrupted();
    }
}

}  // namespace mixwright::data
