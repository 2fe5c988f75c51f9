// An output directory that appears whole or not at all: it is filled as OUT.partial beside OUT and renamed into place.
// Knows nothing of models but the file by which they are known; what may be kept of an interrupted run is the caller's to
// decide (see journal.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/file.h"

namespace mixwright::io {

/// OUT as an absolute path without dots, links in its parents resolved. Error(not_found) when the parent is not there.
std::filesystem::path output_path(const std::filesystem::path& out);

class StagedDirectory {
public:
    /// What a directory is taken for a model by: to be written last, and removed before anything else is.
    static constexpr const char* key_file = "config.json";

    /// Opens OUT.partial, made when it is not there; a key file that an interrupted run left goes. `out` comes from output_path().
    explicit StagedDirectory(std::filesystem::path out);
    StagedDirectory(const StagedDirectory&) = delete;
    StagedDirectory& operator=(const StagedDirectory&) = delete;
    ~StagedDirectory();

    static std::filesystem::path staging_path(const std::filesystem::path& out);
    /// Removes OUT.partial with all in it.
    static void discard(const std::filesystem::path& out);

    const std::filesystem::path& path() const noexcept { return staging_; }
    /// A new file, called NAME.tmp until publish(); one that an interrupted run left is replaced.
    File create(const std::string& name);
    /// Syncs `file` (from create(name)), gives it its name and syncs the directory: it is there after a power failure.
    void publish(File& file, const std::string& name);
    /// create, write, publish.
    void write(const std::string& name, std::span<const std::byte> bytes);
    void remove(const std::string& name);
    /// Names of all entries, sorted.
    std::vector<std::string> entries() const;

    /// Renames OUT.partial to OUT. When OUT is there: Error(usage), or with `replace` both change places in one step and
    /// the old OUT is removed.
    void commit(bool replace);

private:
    std::filesystem::path out_, staging_;
    int directory_ = -1;
};

}  // namespace mixwright::io
