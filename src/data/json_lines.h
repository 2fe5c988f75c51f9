// The lines of a .jsonl file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

#include "io/json.h"

namespace mixwright::data {

/// Calls visit(line, "corpus.jsonl:12") for every line that is not blank, in order, until it returns false. Error(not_found); Error(malformed)
/// naming file and line, also for a file of more than `file_bytes` and a line beyond `limits`.
void for_each_json_line(const std::filesystem::path& path, std::size_t file_bytes, io::JsonLimits limits,
                        const std::function<bool(const io::Json& line, const std::string& place)>& visit);

}  // namespace mixwright::data
