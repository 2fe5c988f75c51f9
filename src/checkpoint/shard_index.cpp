#include "checkpoint/shard_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "error.h"
#include "io/file.h"
#include "io/json.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t max_bytes = 64u << 20;  // 500,000 tensors of 100-byte names
constexpr std::size_t max_files = 10'000;     // each is opened
constexpr std::size_t max_name_bytes = 255;   // of a file on Linux

}  // namespace

bool is_plain_file_name(std::string_view name) noexcept {
    return !name.empty() && name.size() <= max_name_bytes && name.front() != '.' &&
           std::ranges::none_of(name, [](char c) { return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

ShardIndex parse_shard_index(std::string_view text, std::string_view source) {
    const auto fail = [&](const std::string& what, std::string hint = {}) {
        throw Error(ErrorCode::malformed, fmt::format("{}: {}", source, what), std::move(hint));
    };
    const io::Json json = io::parse_json(text, source, {.bytes = max_bytes, .depth = 16});
    if (!json.is_object()) fail("not an object");
    const auto map = json.find("weight_map");
    if (map == json.end()) fail("\"weight_map\" is missing");
    if (!map->is_object()) fail("\"weight_map\" is not an object");

    ShardIndex index;
    std::set<std::string> files;
    for (const auto& [tensor, file] : map->items()) {
        if (!file.is_string()) fail(fmt::format("weight_map: the file of {} is not a string", printable(tensor)));
        const auto& name = file.get_ref<const std::string&>();
        if (!is_plain_file_name(name))
            fail(fmt::format("weight_map: tensor {}: \"{}\" is not a plain file name", printable(tensor), printable(name)),
                 "shards lie in the model's own directory; a path in their name can only be an attack or a mistake");
        files.insert(name);
        if (files.size() > max_files) fail(fmt::format("weight_map names more than {} files", max_files));
        index.weight_map.emplace(tensor, name);
    }
    index.files.assign(files.begin(), files.end());
    return index;
}

ShardIndex read_shard_index(const std::filesystem::path& path) {
    return parse_shard_index(io::read_file(path, max_bytes), io::shown(path));
}

}  // namespace mixwright::checkpoint
