// A model directory, planned to the byte and then written: safetensors shards, their index, metadata files, config.json
// last. An output tensor says where its bytes come from; nothing is read before the plan is complete and checked.
// Knows nothing of architectures: names, shapes and layouts are the caller's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "dtype.h"

namespace mixwright::checkpoint {

/// One source tensor, whole: value * scale + noise * N(0, 1), converted to the output's dtype. With scale 1 and
/// noise 0 a floating value is converted once, and copied bit for bit when the dtypes agree.
struct Piece {
    std::shared_ptr<const TensorSource> source;
    TensorInfo tensor;        // one of source->tensors()
    double scale = 1.0;
    double noise = 0.0;       // standard deviation
    std::uint64_t seed = 0;   // of the noise, which depends on seed, output name and element, on nothing else
};

/// Pieces one after another in row-major order: one for a copy, several for a concatenation or stack along dimension 0.
using Pieces = std::vector<Piece>;

/// The bytes themselves, in the output's dtype. For what is small: routers, norms.
using OwnedBytes = std::vector<std::byte>;

/// Bytes made when they are needed.
struct Generated {
    /// Fills bytes [offset, offset + out.size()) of the tensor; called in ascending order, on the thread that called
    /// write_model. `out` holds whole elements.
    std::function<void(std::uint64_t offset, std::span<std::byte> out)> fill;
    /// Changes whenever the bytes would: a hash of whatever they are made from. Resuming relies on it.
    std::string identity;
};

struct OutputTensor {
    TensorInfo info;  // as it will stand in the file
    std::variant<Pieces, OwnedBytes, Generated> content;
};

/// `tensor` of `source` under another name, converted when `dtype` is given.
OutputTensor copy_tensor(std::string name, std::shared_ptr<const TensorSource> source, const TensorInfo& tensor,
                         std::optional<Dtype> dtype = std::nullopt);

/// A metadata file: its text, or the file whose bytes it takes over.
struct OutputFile {
    std::string name;  // plain: "tokenizer.json"
    std::variant<std::string, std::filesystem::path> content;
};

struct OutputPlan {
    std::vector<OutputTensor> tensors;          // in order of computation: shards are filled in this order
    std::vector<OutputFile> files;              // without config.json and the index
    std::string config;                         // text of config.json, written last
    std::vector<std::filesystem::path> inputs;  // directories and files read: the output is never put inside one
};

struct WriteOptions {
    std::uint64_t shard_bytes = 5'000'000'000;
    bool force = false;   // replace an output that exists, once the new one is complete
    bool resume = false;  // keep the finished shards of an interrupted run of the same plan
};

/// One safetensors file of the output.
struct PlannedShard {
    std::string name;
    std::string header;                // length prefix, JSON and padding: the bytes before the data
    std::vector<std::size_t> tensors;  // indices into OutputPlan::tensors, in the order of the file
    std::uint64_t bytes = 0;           // of the file
};

struct OutputLayout {
    std::vector<PlannedShard> shards;
    std::string index;                 // text of model.safetensors.index.json; empty with a single shard
    std::uint64_t tensor_bytes = 0;
    std::uint64_t bytes = 0;           // of all files, to the byte
};

/// Which tensor goes where. Error(internal) when pieces do not add up to their tensor, Error(malformed) when two outputs
/// share a name. Reads no weights; OwnedBytes may still be empty (for a dry run).
OutputLayout plan_layout(const OutputPlan& plan, std::uint64_t shard_bytes);

/// Whether `out` may be written: it is not there (or `force` and it is a model), lies in no input and holds none (but may
/// be one), and its file system has room for `bytes`. write_model() checks it too; this is for a verb that computes for a
/// while before it writes. Error(usage), Error(not_found) or Error(out_of_disk).
void check_output(const std::filesystem::path& out, const std::vector<std::filesystem::path>& inputs, std::uint64_t bytes,
                  const WriteOptions& options);

struct WriteResult {
    std::filesystem::path out;
    std::uint64_t bytes = 0;
    std::uint64_t resumed_bytes = 0;  // of shards kept from an interrupted run
    double seconds = 0;
};

/// Writes `plan` to `out`, or leaves no `out` behind: everything is staged in `out`.partial, synced, verified by
/// reopening it, then renamed. Memory: four buffers of 8 MiB beside what the sources themselves decode.
WriteResult write_model(const OutputPlan& plan, const std::filesystem::path& out, const WriteOptions& options);

/// "5GB", "500MB", "2GiB", "123456" in bytes; Error(usage) otherwise.
std::uint64_t parse_byte_size(std::string_view text);

}  // namespace mixwright::checkpoint
