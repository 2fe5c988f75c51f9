#include "checkpoint/plan_hash.h"

#include <fmt/format.h>

#include <set>

#include "io/json.h"
#include "io/sha256.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr int hash_version = 1;  // raise it when the same plan comes to mean other bytes

// Size and time of last change stand for the contents of an input.
io::Json file_identity(const fs::path& path) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    const auto time = fs::last_write_time(path, error).time_since_epoch().count();
    return {path.filename().string(), error ? 0 : bytes, error ? 0 : time};
}

// Files that models are made of: others in the same folder may change as they like.
bool is_model_file(const fs::path& path) {
    static const std::set<std::string> extensions{".safetensors", ".json", ".bin", ".gguf", ".model", ".jinja"};
    return extensions.contains(path.extension().string());
}

io::Json input_identity(const fs::path& path) {
    std::error_code error;
    if (!fs::is_directory(path, error)) return file_identity(path);
    std::set<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path, error))
        if (is_model_file(entry.path()) && entry.is_regular_file(error)) files.insert(entry.path());
    io::Json identity = io::Json::array();
    for (const fs::path& file : files) identity.push_back(file_identity(file));
    return identity;
}

io::Json info_identity(const TensorInfo& info) { return {info.name, torch_name(info.dtype), info.shape}; }

}  // namespace

std::string plan_hash(const OutputPlan& plan, const OutputLayout& layout) {
    io::Sha256 hash;
    // Names may be any bytes: dump() must not refuse them.
    const auto add = [&hash](const io::Json& json) { hash.update(json.dump(-1, ' ', false, io::Json::error_handler_t::replace) + "\n"); };
    add(hash_version);
    std::set<std::string> sources;
    for (const OutputTensor& tensor : plan.tensors) {
        add(info_identity(tensor.info));
        if (const auto* pieces = std::get_if<Pieces>(&tensor.content)) {
            for (const Piece& piece : *pieces) {
                std::string where = piece.source->where(piece.tensor);
                add({info_identity(piece.tensor), where, piece.scale, piece.noise, piece.seed});
                sources.insert(std::move(where));
            }
        } else if (const auto* owned = std::get_if<OwnedBytes>(&tensor.content)) {
            hash.update(*owned);
        } else {
            add(std::get<Generated>(tensor.content).identity);
        }
    }
    for (const std::string& source : sources) add(file_identity(source));
    for (const fs::path& input : plan.inputs) add(input_identity(input));
    for (const OutputFile& file : plan.files) {
        add(file.name);
        if (const auto* text = std::get_if<std::string>(&file.content))
            hash.update(*text);
        else
            add(file_identity(std::get<fs::path>(file.content)));
    }
    hash.update(plan.config);
    for (const PlannedShard& shard : layout.shards) add({shard.name, shard.bytes, io::sha256(shard.header)});
    return hash.hex();
}

}  // namespace mixwright::checkpoint
