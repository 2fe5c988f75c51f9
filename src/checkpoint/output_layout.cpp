// The planning half of writer.h: which tensor goes into which shard, and what every file will be, to the byte.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <set>

#include "checked.h"
#include "checkpoint/convert.h"
#include "checkpoint/shard_index.h"
#include "checkpoint/writer.h"
#include "error.h"
#include "io/file.h"
#include "io/json.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t header_alignment = 8;
constexpr std::uint64_t max_header_bytes = 100'000'000;  // the format's own limit

[[noreturn]] void our_bug(const OutputTensor& tensor, const std::string& what) {
    throw Error(ErrorCode::internal, fmt::format("planned tensor {}: {}", printable(tensor.info.name), what));
}

void check_pieces(const OutputTensor& tensor, const Pieces& pieces) {
    std::int64_t elements = 0;
    for (const Piece& piece : pieces) {
        if (piece.source == nullptr) our_bug(tensor, "a piece has no source");
        elements = checked_add(elements, piece.tensor.numel(), "planned tensor");
        const bool computed = piece.scale != 1.0 || piece.noise != 0.0;
        if (!can_convert(piece.tensor.dtype, tensor.info.dtype) || (computed && !can_convert(Dtype::f32, tensor.info.dtype)))
            throw Error(ErrorCode::unsupported,
                        fmt::format("{}: tensor {}: cannot convert {} to {}", piece.source->where(piece.tensor), printable(piece.tensor.name),
                                    torch_name(piece.tensor.dtype), torch_name(tensor.info.dtype)));
    }
    if (elements != tensor.info.numel())
        our_bug(tensor, fmt::format("its pieces have {} elements, shape {} has {}", elements, shape_text(tensor.info.shape), tensor.info.numel()));
}

void check_content(const OutputTensor& tensor) {
    if (const auto* pieces = std::get_if<Pieces>(&tensor.content)) return check_pieces(tensor, *pieces);
    if (const auto* owned = std::get_if<OwnedBytes>(&tensor.content)) {
        if (!owned->empty() && owned->size() != tensor.info.num_bytes())
            our_bug(tensor, fmt::format("holds {} bytes, its shape takes {}", owned->size(), tensor.info.num_bytes()));
        return;
    }
    if (!std::get<Generated>(tensor.content).fill) our_bug(tensor, "has nothing that makes its bytes");
}

// Tensors in the order of the plan, wider elements first: each then begins at a multiple of its element size.
std::string header_text(const OutputPlan& plan, const std::vector<std::size_t>& order) {
    std::string json = R"({"__metadata__":{"format":"pt"})";
    std::uint64_t offset = 0;
    for (const std::size_t index : order) {
        const TensorInfo& info = plan.tensors[index].info;
        const std::uint64_t end = checked_add(offset, info.num_bytes(), "shard size");
        json += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", io::Json(info.name).dump(), safetensors_name(info.dtype),
                            io::Json(info.shape).dump(), offset, end);
        offset = end;
    }
    json += '}';
    json.append((header_alignment - json.size() % header_alignment) % header_alignment, ' ');
    if (json.size() > max_header_bytes)
        throw Error(ErrorCode::unsupported, "a shard's header would be over the format's 100 MB", "use a smaller --out-shard-size");
    std::string prefix;
    for (std::size_t i = 0; i < sizeof(std::uint64_t); ++i) prefix += static_cast<char>(json.size() >> (8 * i) & 0xFF);
    return prefix + json;
}

// Fills shards in the order of the plan, so that a layer's tensors stay together.
std::vector<PlannedShard> fill_shards(const OutputPlan& plan, std::uint64_t shard_bytes) {
    std::vector<PlannedShard> shards(1);
    for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
        const std::uint64_t bytes = plan.tensors[i].info.num_bytes();
        if (!shards.back().tensors.empty() && checked_add(shards.back().bytes, bytes, "shard size") > shard_bytes) shards.emplace_back();
        shards.back().tensors.push_back(i);
        shards.back().bytes += bytes;
    }
    for (std::size_t i = 0; i < shards.size(); ++i)
        shards[i].name = shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    return shards;
}

std::string index_text(const OutputPlan& plan, const OutputLayout& layout) {
    io::Json json;
    json["metadata"]["total_size"] = layout.tensor_bytes;
    io::Json& map = json["weight_map"] = io::Json::object();
    for (const PlannedShard& shard : layout.shards)
        for (const std::size_t index : shard.tensors) map[plan.tensors[index].info.name] = shard.name;
    return json.dump(2) + "\n";
}

std::uint64_t content_bytes(const OutputFile& file) {
    if (const auto* text = std::get_if<std::string>(&file.content)) return text->size();
    return io::File::open(std::get<std::filesystem::path>(file.content)).size();
}

}  // namespace

OutputTensor copy_tensor(std::string name, std::shared_ptr<const TensorSource> source, const TensorInfo& tensor, std::optional<Dtype> dtype) {
    return {{std::move(name), dtype.value_or(tensor.dtype), tensor.shape}, Pieces{{std::move(source), tensor}}};
}

OutputLayout plan_layout(const OutputPlan& plan, std::uint64_t shard_bytes) {
    std::set<std::string> names;
    for (const OutputTensor& tensor : plan.tensors) {
        check_content(tensor);
        if (tensor.info.name.empty() || tensor.info.name == "__metadata__") our_bug(tensor, "not a name for a tensor");
        if (!names.insert(tensor.info.name).second)
            throw Error(ErrorCode::malformed, fmt::format("two tensors of the output are called {}", printable(tensor.info.name)));
    }

    OutputLayout layout;
    layout.shards = fill_shards(plan, shard_bytes);
    std::set<std::string> files{"config.json"};
    for (PlannedShard& shard : layout.shards) {
        layout.tensor_bytes = checked_add(layout.tensor_bytes, shard.bytes, "output size");
        std::ranges::stable_sort(shard.tensors, std::ranges::greater(), [&](std::size_t i) { return dtype_bytes(plan.tensors[i].info.dtype); });
        shard.header = header_text(plan, shard.tensors);
        shard.bytes = checked_add<std::uint64_t>(shard.bytes, shard.header.size(), "shard size");
        layout.bytes = checked_add(layout.bytes, shard.bytes, "output size");
        files.insert(shard.name);
    }
    if (layout.shards.size() > 1) {
        layout.index = index_text(plan, layout);
        files.insert("model.safetensors.index.json");
    }
    layout.bytes += layout.index.size() + plan.config.size();
    for (const OutputFile& file : plan.files) {
        if (!is_plain_file_name(file.name)) throw Error(ErrorCode::internal, fmt::format("\"{}\" is no name for an output file", printable(file.name)));
        if (!files.insert(file.name).second) throw Error(ErrorCode::internal, fmt::format("two output files are called {}", printable(file.name)));
        layout.bytes = checked_add(layout.bytes, content_bytes(file), "output size");
    }
    return layout;
}

std::uint64_t parse_byte_size(std::string_view text) {
    struct Unit {
        std::string_view name;
        std::uint64_t bytes;
    };
    static constexpr Unit units[] = {{"", 1},         {"B", 1},         {"KB", 1'000},         {"MB", 1'000'000},    {"GB", 1'000'000'000},
                                     {"TB", 1'000'000'000'000}, {"KiB", 1u << 10}, {"MiB", 1u << 20}, {"GiB", 1u << 30}, {"TiB", 1ull << 40}};
    std::uint64_t count = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    const std::string_view unit(rest, static_cast<std::size_t>(text.data() + text.size() - rest));
    for (const Unit& known : units)
        if (error == std::errc() && unit == known.name && count > 0 && count <= (1ull << 60) / known.bytes) return count * known.bytes;
    throw Error(ErrorCode::usage, fmt::format("\"{}\" is not a size", printable(text)), "write it like 5GB, 500MB or 2GiB");
}

}  // namespace mixwright::checkpoint
