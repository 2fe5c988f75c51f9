// An append-only file of JSON lines: what append() returned from is on the disk. A line that a kill cut off is not there
// when the journal is opened again. Only one process at a time holds a journal.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/file.h"
#include "io/json.h"

namespace mixwright::io {

class Journal {
public:
    /// Opens or makes the journal at `path` and reads what it holds. Error(usage) when another process holds it.
    static Journal open(const std::filesystem::path& path);

    /// The whole lines, oldest first.
    const std::vector<Json>& lines() const noexcept { return lines_; }
    void append(const Json& line);
    /// Empties the journal.
    void clear();
    /// Removes the file.
    void remove();

private:
    explicit Journal(File file) : file_(std::move(file)) {}

    File file_;
    std::vector<Json> lines_;
    std::uint64_t end_ = 0;  // behind the last whole line
};

}  // namespace mixwright::io
