#include "io/staged_directory.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"
#include "io/system_call.h"
#include "progress.h"

namespace mixwright::io {
namespace {

namespace fs = std::filesystem;

int open_directory(const fs::path& path) {
    int fd;
    do fd = sys::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) fail(path, "open the directory", errno);
    return fd;
}

void sync_directory(const fs::path& path, int fd) {
    int status;
    do status = sys::sync(fd);
    while (status != 0 && errno == EINTR);
    // Some network file systems cannot sync a directory and say EINVAL.
    if (status != 0 && errno != EINVAL) fail(path, "sync", errno);
}

// Not a model from the first moment on.
int remove_model(const fs::path& directory) {
    std::error_code error;
    const bool linked = fs::is_symlink(fs::symlink_status(directory, error));  // then what it points to is not ours
    if (!linked && sys::unlink_at(AT_FDCWD, (directory / StagedDirectory::key_file).c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) return -1;
    return sys::remove_tree(directory);
}

}  // namespace

fs::path output_path(const fs::path& out) {
    std::error_code error;
    fs::path absolute = fs::absolute(out, error).lexically_normal();
    if (absolute.filename().empty()) absolute = absolute.parent_path();  // a trailing slash
    if (absolute.filename().empty()) throw Error(ErrorCode::usage, fmt::format("{}: not an output directory", shown(out)));
    const fs::path parent = fs::canonical(absolute.parent_path(), error);
    if (error)
        throw Error(ErrorCode::not_found, fmt::format("{}: its parent directory is not there", shown(out)),
                    fmt::format("make it first: mkdir -p {}", shown(absolute.parent_path())));
    return parent / absolute.filename();
}

fs::path StagedDirectory::staging_path(const fs::path& out) {
    fs::path path = out;
    path += ".partial";
    return path;
}

void StagedDirectory::discard(const fs::path& out) {
    if (remove_model(staging_path(out)) != 0) fail(staging_path(out), "remove", errno);
}

StagedDirectory::StagedDirectory(fs::path out) : out_(std::move(out)), staging_(staging_path(out_)) {
    if (sys::make_directory(staging_.c_str()) != 0 && errno != EEXIST) fail(staging_, "make the directory", errno);
    directory_ = open_directory(staging_);
    try {
        remove(key_file);
    } catch (...) {
        ::close(directory_);
        throw;
    }
}

StagedDirectory::~StagedDirectory() {
    if (directory_ >= 0) ::close(directory_);
}

File StagedDirectory::create(const std::string& name) {
    const std::string temporary = name + ".tmp";
    if (sys::unlink_at(directory_, temporary.c_str()) != 0 && errno != ENOENT) fail(staging_ / temporary, "remove", errno);
    return File::create(directory_, staging_, temporary);
}

void StagedDirectory::publish(File& file, const std::string& name) {
    file.sync();
    const std::string temporary = name + ".tmp";
    if (sys::rename_at(directory_, temporary.c_str(), name.c_str()) != 0) fail(staging_ / temporary, "rename", errno);
    sync_directory(staging_, directory_);
}

void StagedDirectory::write(const std::string& name, std::span<const std::byte> bytes) {
    File file = create(name);
    file.write_at(0, bytes);
    publish(file, name);
}

void StagedDirectory::remove(const std::string& name) {
    if (sys::unlink_at(directory_, name.c_str()) != 0 && errno != ENOENT) fail(staging_ / name, "remove", errno);
}

std::vector<std::string> StagedDirectory::entries() const {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(staging_, error), end; !error && it != end; it.increment(error)) names.push_back(it->path().filename().string());
    if (error) fail(staging_, "list", error.value());
    std::ranges::sort(names);
    return names;
}

void StagedDirectory::commit(bool replace) {
    sync_directory(staging_, directory_);
    bool exchanged = false;
    if (sys::rename_new(staging_.c_str(), out_.c_str()) != 0) {
        if (errno != EEXIST) fail(staging_, fmt::format("rename to {}", shown(out_)), errno);
        if (!replace)
            throw Error(ErrorCode::usage, fmt::format("{}: appeared while the output was written", shown(out_)),
                        "the output is complete in " + shown(staging_));
        if (sys::exchange(staging_.c_str(), out_.c_str()) != 0) fail(staging_, fmt::format("exchange with {}", shown(out_)), errno);
        exchanged = true;
    }
    const fs::path parent = out_.parent_path();
    const int parent_fd = open_directory(parent);
    try {
        sync_directory(parent, parent_fd);
    } catch (...) {
        ::close(parent_fd);
        throw;
    }
    ::close(parent_fd);
    if (exchanged && remove_model(staging_) != 0)
        warn(fmt::format("{}: what {} was before could not be removed: {}", shown(staging_), shown(out_), std::strerror(errno)));
}

}  // namespace mixwright::io
