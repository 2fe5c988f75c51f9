// Strict, bounded JSON. Every JSON file a model brings along is read through here.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace mixwright::io {

using Json = nlohmann::json;

struct JsonLimits {
    std::size_t bytes = 4u << 20;  // config.json and its like are a few kB
    std::size_t depth = 64;        // deeper nesting is an attack on the stack, not a model
};

/// Parses `text`. Error(malformed), naming `source`, on bad syntax, excess size or depth, or a key that occurs twice in an object.
Json parse_json(std::string_view text, std::string_view source, JsonLimits limits = {});

/// Reads and parses a file; Error(not_found) when it is not there.
Json read_json(const std::filesystem::path& path, JsonLimits limits = {});

}  // namespace mixwright::io
