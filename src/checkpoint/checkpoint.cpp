#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include "checkpoint/gguf.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/lora.h"
#include "checkpoint/safetensors_source.h"
#include "checkpoint/torch_bin.h"
#include "error.h"
#include "io/file.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

// "model+adapter": the plus parts them unless a path of that whole name is there.
std::pair<std::string_view, std::string_view> split_adapter(std::string_view model) {
    std::error_code error;
    const std::size_t plus = model.rfind('+');
    if (plus == std::string_view::npos || fs::exists(fs::path(model), error)) return {model, {}};
    return {model.substr(0, plus), model.substr(plus + 1)};
}

Format detect_format(const fs::path& path) {
    if (!fs::is_directory(path)) {
        if (path.extension() == ".gguf") return Format::gguf;
        throw Error(ErrorCode::unsupported, fmt::format("{}: not a model directory and not a .gguf file", io::shown(path)));
    }
    const auto has = [&](const char* name) { return fs::exists(path / name); };
    if (has("model.safetensors") || has("model.safetensors.index.json")) return Format::safetensors;
    if (has("pytorch_model.bin") || has("pytorch_model.bin.index.json")) return Format::torch_bin;
    throw Error(ErrorCode::not_found, fmt::format("{}: no weights in this directory", io::shown(path)),
                "expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json");
}

io::Json read_config(const fs::path& directory) {
    const fs::path path = directory / "config.json";
    if (!fs::exists(path))
        throw Error(ErrorCode::not_found, fmt::format("{}: config.json is missing", io::shown(directory)), "the directory may not be a model, or be an unfinished one");
    io::Json config = io::read_json(path);
    if (!config.is_object()) throw Error(ErrorCode::malformed, fmt::format("{}: not an object", io::shown(path)));
    return config;
}

// Fills in config and tensors: the one place where a format is added.
void open_format(Checkpoint& checkpoint) {
    switch (checkpoint.format) {
        case Format::safetensors:
            checkpoint.config = read_config(checkpoint.path);
            checkpoint.tensors = open_safetensors(checkpoint.path);
            return;
        case Format::gguf: {
            GgufModel model = open_gguf(checkpoint.path);
            checkpoint.config = without_vocabulary(model.metadata);
            checkpoint.tensors = std::move(model.tensors);
            return;
        }
        case Format::torch_bin:
            checkpoint.config = read_config(checkpoint.path);
            checkpoint.tensors = open_torch_bin(checkpoint.path);
            return;
    }
}

fs::path resolve_one(std::string_view model) {
    if (model.empty()) throw Error(ErrorCode::usage, "the name of the model is empty");
    const fs::path path(model);
    std::error_code error;
    if (fs::exists(path, error)) return path;
    const auto name = parse_hub_name(model);
    if (!name)
        throw Error(ErrorCode::not_found, fmt::format("{}: no such file or directory", printable(model, 1000)),
                    "a model is a directory, a .gguf file, or org/name[@rev] in the hub cache");
    try {
        return find_in_hub_cache(*name, hub_cache_directory());
    } catch (const Error& e) {
        if (e.code() != ErrorCode::not_found) throw;
        throw Error(ErrorCode::not_found, fmt::format("{}: no such path, and {}", printable(model, 1000), e.message()), e.hint());
    }
}

}  // namespace

fs::path resolve_model(std::string_view model) { return resolve_one(split_adapter(model).first); }

Checkpoint open_checkpoint(std::string_view model) {
    const auto [base, adapter] = split_adapter(model);
    Checkpoint checkpoint;
    checkpoint.name = model;
    checkpoint.path = resolve_one(base);
    checkpoint.format = detect_format(checkpoint.path);
    open_format(checkpoint);
    if (!adapter.empty()) checkpoint.tensors = merge_lora(checkpoint.tensors, resolve_one(adapter));
    return checkpoint;
}

}  // namespace mixwright::checkpoint
