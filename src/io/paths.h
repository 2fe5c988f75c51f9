// Where a path that a person wrote leads.
#pragma once

#include <filesystem>
#include <optional>

namespace mixwright::io {

/// Whether there is such a file or folder. Never throws: a name that no file can have is not there.
bool is_there(const std::filesystem::path& path) noexcept;

/// `path` from the working directory, else from `folder`; nothing where it is in neither.
std::optional<std::filesystem::path> find_path(const std::filesystem::path& path, const std::filesystem::path& folder);

}  // namespace mixwright::io
