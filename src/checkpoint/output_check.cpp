// check_output() of writer.h: everything that can be said against an output before a byte of it is written.
#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/writer.h"
#include "error.h"
#include "io/file.h"
#include "io/staged_directory.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

// Whether `path` lies somewhere below `directory`.
bool lies_inside(const fs::path& path, const fs::path& directory) {
    const auto [end, at] = std::ranges::mismatch(directory, path);
    return end == directory.end() && at != path.end();
}

void check_replaceable(const fs::path& out, bool force) {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(out, error);
    if (!fs::exists(status)) return;
    if (!force)
        throw Error(ErrorCode::usage, fmt::format("{}: is there already", io::shown(out)),
                    "choose another name, or replace it with --force once the new one is complete");
    if (!fs::is_directory(status)) throw Error(ErrorCode::usage, fmt::format("{}: is no directory, --force does not replace it", io::shown(out)));
    // A mistyped OUT must not cost a home directory.
    if (!fs::exists(out / "config.json") && !fs::is_empty(out))
        throw Error(ErrorCode::usage, fmt::format("{}: is no model, --force does not replace it", io::shown(out)), "remove it yourself if it is in the way");
}

void check_inputs(const fs::path& out, const std::vector<fs::path>& inputs) {
    for (const fs::path& input : inputs) {
        std::error_code error;
        const fs::path real = fs::canonical(input, error);
        if (error) continue;
        if (fs::is_directory(real) && lies_inside(out, real))
            throw Error(ErrorCode::usage, fmt::format("{}: lies inside the input {}", io::shown(out), io::shown(input)), "choose an output outside of it");
        if (lies_inside(real, out))
            throw Error(ErrorCode::usage, fmt::format("{}: holds the input {}", io::shown(out), io::shown(input)), "replacing it would remove the input");
    }
}

std::uint64_t staged_bytes(const fs::path& staging) {
    std::uint64_t bytes = 0;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(staging, error))
        if (const auto size = entry.file_size(error); !error) bytes += size;
    return bytes;
}

void check_space(const fs::path& out, std::uint64_t bytes) {
    std::error_code error;
    const fs::space_info space = fs::space(out.parent_path(), error);
    if (error) return;
    // What an interrupted run left is kept or removed: either way its space is ours.
    const std::uint64_t free = space.available + staged_bytes(io::StagedDirectory::staging_path(out));
    const std::uint64_t needed = bytes + bytes / 100;
    if (needed > free)
        throw Error(ErrorCode::out_of_disk, fmt::format("{}: the output takes {} bytes and 1 % to spare, {} are free", io::shown(out), bytes, free),
                    fmt::format("free {} bytes more, or write to another disk", needed - free));
}

}  // namespace

void check_output(const fs::path& out, const std::vector<fs::path>& inputs, std::uint64_t bytes, const WriteOptions& options) {
    const fs::path path = io::output_path(out);
    check_replaceable(path, options.force);
    check_inputs(path, inputs);
    check_space(path, bytes);
}

}  // namespace mixwright::checkpoint
