#include "io/paths.h"

#include <system_error>

namespace mixwright::io {

bool is_there(const std::filesystem::path& path) noexcept {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

std::optional<std::filesystem::path> find_path(const std::filesystem::path& path, const std::filesystem::path& folder) {
    if (is_there(path)) return path;
    if (std::filesystem::path beside = folder / path; is_there(beside)) return beside;
    return std::nullopt;
}

}  // namespace mixwright::io
