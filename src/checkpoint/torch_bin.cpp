#include "checkpoint/torch_bin.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "checked.h"
#include "checkpoint/shard_index.h"
#include "checkpoint/unpickler.h"
#include "checkpoint/zip_directory.h"
#include "error.h"
#include "io/file.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_pickle_bytes = 128u << 20;
constexpr std::int64_t legacy_protocol = 1001;

// Where storages lie in a file, by key.
using Storages = std::map<std::string, ZipEntry, std::less<>>;

struct Contents {
    std::vector<PickledTensor> tensors;
    Storages storages;
};

// archive/data.pkl, archive/data/KEY, and perhaps archive/byteorder, under any prefix.
Contents read_zip_form(std::span<const std::byte> file, const std::string& source) {
    const auto entries = read_zip_directory(file, source);
    constexpr std::string_view pickle_name = "data.pkl";
    std::optional<std::string> prefix;
    for (const auto& [name, entry] : entries) {
        if (!name.ends_with(pickle_name) || (name.size() > pickle_name.size() && name[name.size() - pickle_name.size() - 1] != '/')) continue;
        if (prefix) throw Error(ErrorCode::malformed, fmt::format("{}: the archive holds data.pkl twice", source));
        prefix = name.substr(0, name.size() - pickle_name.size());
    }
    if (!prefix)
        throw Error(ErrorCode::malformed, fmt::format("{}: the archive holds no data.pkl", source), "this zip was not written by torch.save");
    if (const auto order = entries.find(*prefix + "byteorder"); order != entries.end()) {
        ByteReader reader(file.first(order->second.offset + order->second.bytes), source, order->second.offset);
        if (reader.text(reader.remaining(), "the byte order") != "little")
            throw Error(ErrorCode::unsupported, fmt::format("{}: the values are not little-endian", source));
    }
    const ZipEntry& pickle = entries.find(*prefix + std::string(pickle_name))->second;
    if (pickle.bytes > max_pickle_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: data.pkl is too large (got {} bytes, limit {})", source, pickle.bytes, max_pickle_bytes));
    ByteReader reader(file.first(pickle.offset + pickle.bytes), source, pickle.offset);
    Contents contents{Pickle::read(reader).tensors(), {}};
    const std::string data = *prefix + "data/";
    for (auto it = entries.lower_bound(data); it != entries.end() && it->first.starts_with(data); ++it)
        contents.storages.emplace(it->first.substr(data.size()), it->second);
    return contents;
}

// Five pickles (magic, protocol, system, object, storage keys), then each storage: its number of values and their bytes.
Contents read_legacy_form(std::span<const std::byte> file, const std::string& source) {
    ByteReader reader(file, source);
    if (!Pickle::read(reader).is_legacy_magic())
        throw Error(ErrorCode::malformed, fmt::format("{}: not a file of torch.save (neither a zip archive nor torch's magic number)", source));
    if (const auto protocol = Pickle::read(reader).integer_or(0); protocol != legacy_protocol)
        throw Error(ErrorCode::unsupported, fmt::format("{}: version {} of torch.save's form (expected {})", source, protocol, legacy_protocol));
    if (!Pickle::read(reader).boolean_or("little_endian", true))
        throw Error(ErrorCode::unsupported, fmt::format("{}: the values are not little-endian", source));
    Contents contents{Pickle::read(reader).tensors(), {}};
    std::map<std::string, std::uint64_t, std::less<>> value_bytes;  // a storage's size is counted in values of its own type
    for (const PickledTensor& tensor : contents.tensors) value_bytes.emplace(tensor.storage, tensor.storage_value_bytes);
    for (const std::string& key : Pickle::read(reader).texts()) {
        const std::uint64_t start = reader.offset();
        const auto count = reader.number<std::int64_t>("the size of a storage");
        const auto known = value_bytes.find(key);
        if (known == value_bytes.end()) reader.fail_at(start, fmt::format("storage {} belongs to no tensor", printable(key)));
        if (count < 0) reader.fail_at(start, fmt::format("storage {} has a negative size", printable(key)));
        const std::uint64_t bytes = checked_mul(static_cast<std::uint64_t>(count), known->second, "size of a storage");
        const std::uint64_t offset = reader.offset();
        reader.take(bytes, "a storage");
        if (!contents.storages.emplace(key, ZipEntry{offset, bytes}).second) reader.fail_at(start, fmt::format("storage {} occurs twice", printable(key)));
    }
    return contents;
}

struct Entry {
    io::MappedFile file;
    std::uint64_t offset = 0;            // of the first value in the file
    std::vector<std::int64_t> strides;   // in values; empty when the values lie in row-major order
};

bool row_major(const PickledTensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t i = tensor.shape.size(); i-- > 0; expected *= tensor.shape[i])
        if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return std::ranges::find(tensor.shape, 0) != tensor.shape.end();
    return true;
}

class TorchBinSource final : public TensorSource {
public:
    void add_file(const fs::path& path) {
        const auto file = io::MappedFile::open(path);
        const std::string source = printable(path.string(), 1000);
        const Contents contents = looks_like_zip(file.bytes()) ? read_zip_form(file.bytes(), source) : read_legacy_form(file.bytes(), source);
        for (const PickledTensor& tensor : contents.tensors) {
            const auto storage = contents.storages.find(tensor.storage);
            if (storage == contents.storages.end())
                throw Error(ErrorCode::malformed, fmt::format("{}: tensor {}: storage {} is not in the file", source, printable(tensor.name), printable(tensor.storage)));
            if (storage->second.bytes < tensor.storage_bytes)
                throw Error(ErrorCode::malformed, fmt::format("{}: tensor {}: storage {} is shorter than the pickle says (got {} bytes, expected {})", source,
                                                              printable(tensor.name), printable(tensor.storage), storage->second.bytes, tensor.storage_bytes));
            Entry entry{file, storage->second.offset + static_cast<std::uint64_t>(tensor.offset) * dtype_bytes(tensor.dtype), {}};
            if (!row_major(tensor)) entry.strides = tensor.strides;
            if (!entries_.emplace(tensor.name, std::move(entry)).second)
                throw Error(ErrorCode::malformed, fmt::format("{}: tensor {} occurs twice", source, printable(tensor.name)));
            infos_.push_back({tensor.name, tensor.dtype, tensor.shape});
        }
    }

    void finish() { std::ranges::sort(infos_, {}, &TensorInfo::name); }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo& info) const override { return entry(info).file.path().string(); }

    TensorBytes bytes(const TensorInfo& info) const override {
        const Entry& e = entry(info);
        const std::byte* first = e.file.bytes().data() + e.offset;
        const std::uint64_t size = info.num_bytes();
        // The old form aligns nothing; values must lie where they can be read as what they are.
        if (e.strides.empty() && reinterpret_cast<std::uintptr_t>(first) % dtype_bytes(info.dtype) == 0)
            return {{first, size}, std::make_shared<io::MappedFile>(e.file), true};
        const std::shared_ptr<std::byte[]> buffer(new std::byte[size]);
        if (e.strides.empty())
            std::memcpy(buffer.get(), first, size);
        else if (std::byte* out = buffer.get(); size > 0)
            gather(info, e, 0, first, out);
        return {{buffer.get(), size}, buffer, false};
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Entry& e = entry(info);
        if (!e.strides.empty()) return TensorSource::read(info, offset, out);
        if (offset > info.num_bytes() || out.size() > info.num_bytes() - offset)
            throw Error(ErrorCode::internal, fmt::format("{}: read past the end of the tensor", printable(info.name)));
        if (!out.empty()) std::memcpy(out.data(), e.file.bytes().data() + e.offset + offset, out.size());
        e.file.drop(e.offset + offset, out.size());
    }

    void drop(const TensorInfo& info) const override {
        const Entry& e = entry(info);
        if (e.strides.empty()) e.file.drop(e.offset, info.num_bytes());
    }

private:
    const Entry& entry(const TensorInfo& info) const {
        const auto it = entries_.find(info.name);
        if (it == entries_.end()) throw Error(ErrorCode::internal, fmt::format("{} is not of this model", printable(info.name)));
        return it->second;
    }

    // Copies the values of dimension `dim` and the ones behind it, from `in` on, to `out`, which moves along.
    static void gather(const TensorInfo& info, const Entry& e, std::size_t dim, const std::byte* in, std::byte*& out) {
        const std::size_t size = dtype_bytes(info.dtype);
        if (dim == info.shape.size()) {
            std::memcpy(out, in, size);
            out += size;
            return;
        }
        for (std::int64_t i = 0; i < info.shape[dim]; ++i) gather(info, e, dim + 1, in + static_cast<std::size_t>(i * e.strides[dim]) * size, out);
    }

    std::map<std::string, Entry, std::less<>> entries_;
    std::vector<TensorInfo> infos_;
};

void check_index(const ShardIndex& index, const TensorSource& source, const fs::path& path) {
    for (const auto& [name, file] : index.weight_map) {
        const TensorInfo* info = source.find(name);
        if (info == nullptr || fs::path(source.where(*info)).filename() != file)
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} is not in {}, where the index puts it", printable(path.string(), 1000), printable(name), printable(file)));
    }
}

}  // namespace

std::shared_ptr<const TensorSource> open_torch_bin(const fs::path& path) {
    auto source = std::make_shared<TorchBinSource>();
    const fs::path index_path = path / "pytorch_model.bin.index.json";
    if (!fs::is_directory(path) || !fs::exists(index_path)) {
        source->add_file(fs::is_directory(path) ? path / "pytorch_model.bin" : path);
        source->finish();
        return source;
    }
    const ShardIndex index = read_shard_index(index_path);
    for (const std::string& file : index.files) source->add_file(path / file);
    source->finish();
    check_index(index, *source, index_path);
    return source;
}

}  // namespace mixwright::checkpoint
