#include "checkpoint/safetensors_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "checkpoint/shard_index.h"
#include "error.h"
#include "io/file.h"
#include "progress.h"

namespace mixwright::checkpoint {
namespace {

SafetensorsHeader read_header(const io::File& file) {
    const std::string source = io::shown(file.path());
    const std::uint64_t file_bytes = file.size();
    std::array<std::byte, safetensors_prefix_bytes> prefix{};
    if (file_bytes >= prefix.size()) file.read_at(0, prefix);
    std::string json(safetensors_json_bytes(prefix, file_bytes, source), '\0');
    file.read_at(prefix.size(), std::as_writable_bytes(std::span(json)));
    return parse_safetensors_json(json, file_bytes, source);
}

// One file, kept open: what it holds cannot be swapped under us by a rename.
struct Shard {
    explicit Shard(const std::filesystem::path& path) : file(io::File::open(path)) {}

    const io::MappedFile& mapping() {
        std::scoped_lock lock(mutex);
        if (!mapped) mapped = io::MappedFile::open(file.path());
        return *mapped;
    }
    std::optional<io::MappedFile> mapping_if_any() {
        std::scoped_lock lock(mutex);
        return mapped;
    }

    io::File file;

private:
    std::mutex mutex;
    std::optional<io::MappedFile> mapped;
};

class SafetensorsSource final : public TensorSource {
public:
    // Adds the tensors of a file, all of them or those that the index places there.
    void add(const std::filesystem::path& path, const ShardIndex* index) {
        auto& shard = *shards_.emplace_back(std::make_unique<Shard>(path));
        SafetensorsHeader header = read_header(shard.file);
        const std::string file_name = path.filename().string();
        std::size_t unlisted = 0;
        for (SafetensorsEntry& entry : header.entries) {
            if (index != nullptr) {
                const auto listed = index->weight_map.find(entry.info.name);
                if (listed == index->weight_map.end() || listed->second != file_name) {
                    ++unlisted;
                    continue;
                }
            }
            places_.push_back({std::move(entry), &shard});
        }
        if (unlisted > 0)
            warn(fmt::format("{}: {} tensors are not in the index (or stand there with another file) and are left out", io::shown(path), unlisted));
    }

    void finish() {
        std::ranges::sort(places_, {}, [](const Placed& p) -> const std::string& { return p.entry.info.name; });
        infos_.reserve(places_.size());
        for (const Placed& placed : places_) infos_.push_back(placed.entry.info);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }

    TensorBytes bytes(const TensorInfo& info) const override {
        const Placed& placed = place(info);
        const io::MappedFile& mapped = placed.shard->mapping();
        if (placed.entry.end > mapped.bytes().size())
            throw Error(ErrorCode::io, fmt::format("{}: the file was cut short while it was in use", where(info)));
        const auto span = mapped.bytes().subspan(placed.entry.begin, placed.entry.end - placed.entry.begin);
        return {span, std::make_shared<io::MappedFile>(mapped), true};
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Placed& placed = place(info);
        const std::uint64_t size = placed.entry.end - placed.entry.begin;
        if (offset > size || out.size() > size - offset)
            throw Error(ErrorCode::internal, fmt::format("{}: read past the end of the tensor", printable(info.name)));
        placed.shard->file.read_at(placed.entry.begin + offset, out);
    }

    void drop(const TensorInfo& info) const override {
        const Placed& placed = place(info);
        if (const auto mapped = placed.shard->mapping_if_any()) mapped->drop(placed.entry.begin, placed.entry.end - placed.entry.begin);
    }

    std::string where(const TensorInfo& info) const override { return place(info).shard->file.path().string(); }

private:
    struct Placed {
        SafetensorsEntry entry;
        Shard* shard;
    };

    const Placed& place(const TensorInfo& info) const {
        const auto it = std::ranges::lower_bound(places_, info.name, {}, [](const Placed& p) -> const std::string& { return p.entry.info.name; });
        if (it == places_.end() || it->entry.info.name != info.name)
            throw Error(ErrorCode::internal, fmt::format("tensor {} is not of this source", printable(info.name)));
        return *it;
    }

    std::vector<std::unique_ptr<Shard>> shards_;
    std::vector<Placed> places_;  // sorted by name
    std::vector<TensorInfo> infos_;
};

}  // namespace

SafetensorsHeader read_safetensors_header(const std::filesystem::path& path) { return read_header(io::File::open(path)); }

std::shared_ptr<const TensorSource> open_safetensors_file(const std::filesystem::path& path) {
    auto source = std::make_shared<SafetensorsSource>();
    source->add(path, nullptr);
    source->finish();
    return source;
}

std::shared_ptr<const TensorSource> open_safetensors(const std::filesystem::path& directory) {
    const auto index_path = directory / "model.safetensors.index.json";
    // Loaders look for the single file first; so do we.
    if (!std::filesystem::exists(index_path) || std::filesystem::exists(directory / "model.safetensors"))
        return open_safetensors_file(directory / "model.safetensors");

    const ShardIndex index = read_shard_index(index_path);
    auto source = std::make_shared<SafetensorsSource>();
    for (const std::string& file : index.files) {
        try {
            source->add(directory / file, &index);
        } catch (const Error& e) {
            if (e.code() != ErrorCode::not_found) throw;
            throw Error(ErrorCode::not_found, fmt::format("{}: shard {} is missing", io::shown(index_path), printable(file)),
                        "the download may be incomplete");
        }
    }
    source->finish();
    // Every tensor taken over stands in the index, each once: so equal counts mean that none is missing.
    if (source->tensors().size() != index.weight_map.size())
        for (const auto& [tensor, file] : index.weight_map)
            if (source->find(tensor) == nullptr)
                throw Error(ErrorCode::malformed, fmt::format("{}: tensor {} is not in {}, where the index places it", io::shown(index_path),
                                                              printable(tensor), printable(file)));
    return source;
}

}  // namespace mixwright::checkpoint
