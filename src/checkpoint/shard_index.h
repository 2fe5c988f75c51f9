// model.safetensors.index.json and its torch sibling: which file of the directory holds which tensor. File names in it
// are untrusted: only plain names of files in the same directory are accepted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mixwright::checkpoint {

struct ShardIndex {
    std::map<std::string, std::string, std::less<>> weight_map;  // tensor -> file
    std::vector<std::string> files;                              // sorted, each once
};

/// Error(malformed), naming `source`, for anything but an object whose "weight_map" maps strings to plain file names.
ShardIndex parse_shard_index(std::string_view text, std::string_view source);
ShardIndex read_shard_index(const std::filesystem::path& path);

/// Whether `name` can only mean a file in the directory it is looked up in.
bool is_plain_file_name(std::string_view name) noexcept;

}  // namespace mixwright::checkpoint
