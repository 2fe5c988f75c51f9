#include "checkpoint/gguf.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

#include "checkpoint/gguf_header.h"
#include "error.h"
#include "io/file.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr int max_split_files = 1024;
constexpr std::uint64_t decode_chunk_values = 64 * 1024;  // decoded at once while streaming

// The dtype of ggml types whose values are stored as they are.
std::optional<Dtype> plain_dtype(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F64: return Dtype::f64;
        case GGML_TYPE_F32: return Dtype::f32;
        case GGML_TYPE_F16: return Dtype::f16;
        case GGML_TYPE_BF16: return Dtype::bf16;
        case GGML_TYPE_I64: return Dtype::i64;
        case GGML_TYPE_I32: return Dtype::i32;
        case GGML_TYPE_I16: return Dtype::i16;
        case GGML_TYPE_I8: return Dtype::i8;
        default: return std::nullopt;
    }
}

// A tensor and the file that holds it. Bounds were checked by the header parser.
struct Entry {
    io::MappedFile file;
    ggml_type type;
    std::uint64_t offset, bytes;
};

class GgufSource final : public TensorSource {
public:
    void add(const io::MappedFile& file, const GgufTensor& tensor) {
        const auto type = static_cast<ggml_type>(tensor.type);
        const std::optional<Dtype> plain = plain_dtype(type);
        if (!plain && ggml_get_type_traits(type)->to_float == nullptr)
            throw Error(ErrorCode::unsupported, fmt::format("{}: tensor {}: {} is a type for computation, not for storage", file.path().string(),
                                                            printable(tensor.name), ggml_type_name(type)));
        pairs_.emplace_back(TensorInfo{tensor.name, plain.value_or(Dtype::f32), tensor.shape}, Entry{file, type, tensor.offset, tensor.bytes});
    }

    // Sorts by name; to be called once, after the last add().
    void finish() {
        std::ranges::sort(pairs_, {}, [](const auto& pair) -> const std::string& { return pair.first.name; });
        for (auto& [info, entry] : pairs_) {
            if (!infos_.empty() && infos_.back().name == info.name)
                throw Error(ErrorCode::malformed, fmt::format("{}: tensor {} is also in another file of the split", entry.file.path().string(), printable(info.name)));
            infos_.push_back(std::move(info));
            entries_.push_back(std::move(entry));
        }
        pairs_.clear();
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }

    TensorBytes bytes(const TensorInfo& info) const override {
        const Entry& entry = entry_of(info);
        if (!plain_dtype(entry.type)) return slice(info, 0, info.num_bytes());
        return {entry.file.bytes().subspan(entry.offset, entry.bytes), std::make_shared<io::MappedFile>(entry.file), true};
    }

    TensorBytes slice(const TensorInfo& info, std::uint64_t offset, std::uint64_t length) const override {
        if (plain_dtype(entry_of(info).type)) return TensorSource::slice(info, offset, length);
        const std::shared_ptr<std::byte[]> values(new std::byte[length]);
        read(info, offset, {values.get(), length});
        return {{values.get(), length}, values, false};
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Entry& entry = entry_of(info);
        if (offset > info.num_bytes() || out.size() > info.num_bytes() - offset)
            throw Error(ErrorCode::internal, fmt::format("{}: read past the end of the tensor", printable(info.name)));
        if (out.empty()) return;
        if (plain_dtype(entry.type)) {
            std::memcpy(out.data(), entry.file.bytes().data() + entry.offset + offset, out.size());
            entry.file.drop(entry.offset + offset, out.size());
            return;
        }
        const auto block = static_cast<std::uint64_t>(ggml_blck_size(entry.type));
        const std::uint64_t block_bytes = block * sizeof(float);
        const std::uint64_t last = (offset + out.size() + block_bytes - 1) / block_bytes;
        std::vector<float> values;
        for (std::uint64_t first = offset / block_bytes; first < last;) {
            const std::uint64_t blocks = std::min(last - first, std::max<std::uint64_t>(1, decode_chunk_values / block));
            values.resize(blocks * block);
            decode(entry, first, values);
            const std::uint64_t chunk_begin = first * block_bytes;
            const std::uint64_t begin = std::max(chunk_begin, offset);
            const std::uint64_t end = std::min(chunk_begin + blocks * block_bytes, offset + out.size());
            std::memcpy(out.data() + (begin - offset), reinterpret_cast<const std::byte*>(values.data()) + (begin - chunk_begin), end - begin);
            first += blocks;
        }
        const std::uint64_t stored_block = ggml_type_size(entry.type);
        entry.file.drop(entry.offset + offset / block_bytes * stored_block, (last - offset / block_bytes) * stored_block);
    }

    void drop(const TensorInfo& info) const override {
        const Entry& entry = entry_of(info);
        entry.file.drop(entry.offset, entry.bytes);
    }

    std::string where(const TensorInfo& info) const override { return entry_of(info).file.path().string(); }

private:
    const Entry& entry_of(const TensorInfo& info) const { return entries_[static_cast<std::size_t>(&at(info.name) - infos_.data())]; }

    // Decodes whole blocks from `first_block` on into `values`.
    static void decode(const Entry& entry, std::uint64_t first_block, std::span<float> values) {
        const std::byte* blocks = entry.file.bytes().data() + entry.offset + first_block * ggml_type_size(entry.type);
        ggml_get_type_traits(entry.type)->to_float(blocks, values.data(), static_cast<std::int64_t>(values.size()));
    }

    std::vector<std::pair<TensorInfo, Entry>> pairs_;  // until finish()
    std::vector<TensorInfo> infos_;
    std::vector<Entry> entries_;                       // parallel to infos_
};

struct SplitName {
    std::string prefix;
    int count = 0;
};

// NAME of NAME-00002-of-00003.gguf.
std::optional<SplitName> split_name(const fs::path& path) {
    constexpr std::size_t tail = std::string_view("-00001-of-00003").size();
    const std::string stem = path.stem().string();
    if (path.extension() != ".gguf" || stem.size() <= tail || stem.substr(stem.size() - tail + 6, 4) != "-of-") return std::nullopt;
    const auto number = [&](std::size_t from_end) {
        int value = -1;
        const char* begin = stem.data() + stem.size() - from_end;
        const auto [end, error] = std::from_chars(begin, begin + 5, value);
        return error == std::errc{} && end == begin + 5 ? value : -1;
    };
    const int part = number(tail - 1), count = number(5);
    if (stem[stem.size() - tail] != '-' || part < 1 || count < part) return std::nullopt;
    return SplitName{stem.substr(0, stem.size() - tail), count};
}

std::uint64_t unsigned_or(const io::Json& metadata, const char* key, std::uint64_t otherwise) {
    const auto it = metadata.find(key);
    return it != metadata.end() && it->is_number_integer() && *it >= 0 ? it->get<std::uint64_t>() : otherwise;
}

GgufHeader read_header(const io::MappedFile& file) { return parse_gguf_header(file.bytes(), printable(file.path().string(), 1000)); }

void check_split(const io::Json& metadata, const fs::path& path, std::uint64_t part, std::uint64_t count) {
    const std::uint64_t says_part = unsigned_or(metadata, "split.no", 0), says_count = unsigned_or(metadata, "split.count", 1);
    if (says_part != part || says_count != count)
        throw Error(ErrorCode::malformed, fmt::format("{}: the file says it is part {} of {}, its name part {} of {}", printable(path.string(), 1000),
                                                      says_part + 1, says_count, part + 1, count),
                    "the parts of a split model must keep the names they were made with");
}

}  // namespace

GgufModel open_gguf(const fs::path& path) {
    const std::optional<SplitName> split = split_name(path);
    const int count = split ? split->count : 1;
    if (count > max_split_files)
        throw Error(ErrorCode::malformed, fmt::format("{}: split into too many files (got {}, limit {})", printable(path.string(), 1000), count, max_split_files));
    auto source = std::make_shared<GgufSource>();
    GgufModel model;
    std::uint64_t tensors = 0;
    for (int i = 0; i < count; ++i) {
        const fs::path part = split ? path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", split->prefix, i + 1, count) : path;
        const auto file = io::MappedFile::open(part);
        GgufHeader header = read_header(file);
        check_split(header.metadata, part, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(count));
        for (const GgufTensor& tensor : header.tensors) {
            source->add(file, tensor);
            StoredType& stored = model.stored[ggml_type_name(static_cast<ggml_type>(tensor.type))];
            ++stored.tensors;
            stored.bytes += tensor.bytes;
        }
        tensors += header.tensors.size();
        if (i == 0) model.metadata = std::move(header.metadata);
    }
    source->finish();
    if (const std::uint64_t expected = unsigned_or(model.metadata, "split.tensors.count", tensors); split && expected != tensors)
        throw Error(ErrorCode::malformed, fmt::format("{}: the parts hold {} tensors together (expected {})", printable(path.string(), 1000), tensors, expected));
    model.tensors = std::move(source);
    return model;
}

io::Json without_vocabulary(const io::Json& metadata) {
    io::Json result = metadata;
    std::erase_if(result.get_ref<io::Json::object_t&>(), [](const auto& item) { return item.first.starts_with("tokenizer.") && item.second.is_array(); });
    return result;
}

}  // namespace mixwright::checkpoint
