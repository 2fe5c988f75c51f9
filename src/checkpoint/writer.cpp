// The writing half of writer.h. What is on the disk at any moment:
//
//   OUT.partial.journal   a line with the plan's hash, then one for each finished shard: name, bytes, hash
//   OUT.partial/          finished shards, NAME.tmp for the one in work; index and metadata after the last shard
//   OUT                   nothing, or what was there before, until OUT.partial is complete and checked
//
// A shard is synced before it gets its name and its line, so a line is proof that the shard was whole. Against what may
// have happened to it since, resuming compares copied tensors with their sources, byte for byte, and the rest (computed
// tensors, headers) with the hash in the line: hashing what is only copied would cost more than the copy.
#include "checkpoint/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "checkpoint/plan_hash.h"
#include "checkpoint/safetensors_source.h"
#include "checkpoint/shard_stream.h"
#include "checkpoint/tensor_bytes.h"
#include "error.h"
#include "io/file.h"
#include "io/journal.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "progress.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

class ModelWriter {
public:
    ModelWriter(const OutputPlan& plan, const fs::path& out, const WriteOptions& options)
        : plan_(plan), options_(options), out_(io::output_path(out)), layout_(plan_layout(plan, options.shard_bytes)) {
        check_output(out, plan.inputs, layout_.bytes, options);
    }

    WriteResult write() {
        const auto start = std::chrono::steady_clock::now();
        io::Journal journal = open_journal();
        io::StagedDirectory staged(out_);
        try {
            write_shards(staged, journal);
            write_metadata(staged);
            verify(staged);
            staged.write(io::StagedDirectory::key_file, std::as_bytes(std::span(plan_.config)));
            staged.commit(options_.force);
        } catch (...) {
            std::error_code error;
            fs::remove(staged.path() / io::StagedDirectory::key_file, error);
            throw;
        }
        journal.remove();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        return {out_, layout_.bytes, kept_bytes_, seconds.count()};
    }

private:
    // The journal with this plan's hash as its first line, and OUT.partial ready to be filled: what can be kept of an
    // interrupted run is in finished_.
    io::Journal open_journal() {
        const fs::path staging = io::StagedDirectory::staging_path(out_);
        fs::path path = staging;
        path += ".journal";
        if (fs::exists(fs::symlink_status(staging)) && !fs::exists(path))
            throw Error(ErrorCode::usage, fmt::format("{}: is in the way, and was not left by an interrupted run", io::shown(staging)), "move or remove it");

        io::Journal journal = io::Journal::open(path);
        const std::string hash = plan_hash(plan_, layout_);
        const auto& lines = journal.lines();
        if (!lines.empty()) {
            if (options_.resume && lines.front() == io::Json{{"plan", hash}}) {
                keep_finished(staging, lines);
                return journal;
            }
            info(fmt::format("{}: starting again ({})", io::shown(staging),
                             options_.resume ? "the interrupted run was of another plan: an input, option or recipe has changed"
                                             : "an interrupted run is there; --resume would go on with it"));
        } else if (options_.resume) {
            info(fmt::format("{}: nothing to resume, starting at the beginning", io::shown(out_)));
        }
        io::StagedDirectory::discard(out_);
        journal.clear();
        journal.append({{"plan", hash}});
        return journal;
    }

    void keep_finished(const fs::path& staging, const std::vector<io::Json>& lines) {
        std::map<std::string, io::Json> journaled;
        for (const io::Json& line : lines)
            if (line.is_object() && line.contains("shard") && line["shard"].is_string()) journaled[line["shard"].get<std::string>()] = line;
        std::uint64_t total = 0;
        for (const PlannedShard& shard : layout_.shards)
            if (journaled.contains(shard.name)) total += shard.bytes;
        Progress progress("checking finished shards", total, "B");
        for (const PlannedShard& shard : layout_.shards) {
            const auto line = journaled.find(shard.name);
            std::error_code error;
            if (line == journaled.end() || fs::file_size(staging / shard.name, error) != shard.bytes || error) continue;
            if (line->second.value("sha256", io::Json()) == io::Json(checked_sha256(shard, io::File::open(staging / shard.name), progress))) {
                finished_.insert(shard.name);
                kept_bytes_ += shard.bytes;
            } else {
                warn(fmt::format("{}: changed since it was written, writing it again", io::shown(staging / shard.name)));
            }
        }
    }

    // The hash that write_shard() returns, or nothing when a copied tensor differs from its source.
    std::string checked_sha256(const PlannedShard& shard, const io::File& file, Progress& progress) {
        const auto advanced = [&progress](std::uint64_t bytes) { progress.advance(bytes); };
        io::Sha256 hash;
        std::vector<std::byte> header(shard.header.size());
        file.read_at(0, header);
        hash.update(header);
        std::uint64_t offset = header.size();
        for (const std::size_t index : shard.tensors) {
            const OutputTensor& tensor = plan_.tensors[index];
            if (!check_tensor(tensor, file, offset, hash, advanced)) return {};
            offset += tensor.info.num_bytes();
        }
        return hash.hex();
    }

    void write_shards(io::StagedDirectory& staged, io::Journal& journal) {
        std::uint64_t total = 0;
        for (const PlannedShard& shard : layout_.shards) total += shard.bytes;
        Progress progress("writing tensors", total - kept_bytes_, "B");
        const auto advanced = [&progress](std::uint64_t bytes) { progress.advance(bytes); };
        for (const PlannedShard& shard : layout_.shards) {
            if (finished_.contains(shard.name)) continue;
            io::File file = staged.create(shard.name);
            file.reserve(shard.bytes);
            const std::string sha256 = write_shard(shard, file, advanced);
            staged.publish(file, shard.name);
            journal.append({{"shard", shard.name}, {"bytes", shard.bytes}, {"sha256", sha256}});
            check_interrupted();
        }
    }

    std::string write_shard(const PlannedShard& shard, io::File& file, const Advanced& advanced) {
        ShardStream stream(file);
        stream.append(std::as_bytes(std::span(shard.header)));
        advanced(shard.header.size());
        for (const std::size_t index : shard.tensors) send_tensor(plan_.tensors[index], stream, advanced);
        return stream.finish();
    }

    void write_metadata(io::StagedDirectory& staged) {
        if (!layout_.index.empty()) staged.write("model.safetensors.index.json", std::as_bytes(std::span(layout_.index)));
        for (const OutputFile& file : plan_.files) {
            if (const auto* text = std::get_if<std::string>(&file.content)) {
                staged.write(file.name, std::as_bytes(std::span(*text)));
                continue;
            }
            const io::File input = io::File::open(std::get<fs::path>(file.content));
            io::File output = staged.create(file.name);
            std::vector<std::byte> buffer(1u << 20);
            const std::uint64_t size = input.size();
            for (std::uint64_t offset = 0; offset < size;) {
                const auto part = std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), size - offset)));
                input.read_at(offset, part);
                output.write_at(offset, part);
                offset += part.size();
            }
            staged.publish(output, file.name);
            check_interrupted();
        }
    }

    // Reads back what was written: every planned tensor in its file, with its shape, and no file that was not planned.
    void verify(io::StagedDirectory& staged) {
        std::set<std::string> names;
        for (const OutputFile& file : plan_.files) names.insert(file.name);
        if (!layout_.index.empty()) names.insert("model.safetensors.index.json");
        for (const PlannedShard& shard : layout_.shards) {
            names.insert(shard.name);
            const SafetensorsHeader header = read_safetensors_header(staged.path() / shard.name);
            std::map<std::string_view, const TensorInfo*> written;
            for (const SafetensorsEntry& entry : header.entries) written.emplace(entry.info.name, &entry.info);
            for (const std::size_t index : shard.tensors) {
                const TensorInfo& planned = plan_.tensors[index].info;
                const auto found = written.find(planned.name);
                if (found == written.end() || *found->second != planned)
                    throw Error(ErrorCode::failed, fmt::format("{}: tensor {} is not as it was planned", io::shown(staged.path() / shard.name), printable(planned.name)));
            }
        }
        // An interrupted run of the same plan leaves nothing else but what a killed write left behind.
        for (const std::string& entry : staged.entries())
            if (!names.contains(entry)) staged.remove(entry);
    }

    const OutputPlan& plan_;
    const WriteOptions& options_;
    fs::path out_;
    OutputLayout layout_;
    std::set<std::string> finished_;  // shards kept from an interrupted run
    std::uint64_t kept_bytes_ = 0;
};

}  // namespace

WriteResult write_model(const OutputPlan& plan, const fs::path& out, const WriteOptions& options) {
    return ModelWriter(plan, out, options).write();
}

}  // namespace mixwright::checkpoint
