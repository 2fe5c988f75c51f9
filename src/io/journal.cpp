#include "io/journal.h"

#include <fmt/format.h>

#include <cerrno>

#include "error.h"
#include "io/system_call.h"

namespace mixwright::io {
namespace {

constexpr std::size_t max_bytes = 64u << 20;  // a line a shard: far more than any model has

}  // namespace

Journal Journal::open(const std::filesystem::path& path) {
    Journal journal(File::open_or_create(path));
    if (!journal.file_.try_lock())
        throw Error(ErrorCode::usage, fmt::format("{}: another process is writing this output", shown(path)),
                    "wait for it, or choose another output");
    const std::string text = read_file(path, max_bytes);
    for (std::size_t begin = 0;;) {
        const std::size_t end = text.find('\n', begin);
        if (end == std::string::npos) break;
        try {
            journal.lines_.push_back(parse_json(std::string_view(text).substr(begin, end - begin), path.string()));
        } catch (const Error&) {
            break;  // torn by a power failure: it and what follows was never promised
        }
        begin = journal.end_ = end + 1;
    }
    return journal;
}

void Journal::append(const Json& line) {
    const std::string text = line.dump() + "\n";
    file_.truncate(end_);
    file_.write_at(end_, std::as_bytes(std::span(text)));
    file_.sync();
    end_ += text.size();
    lines_.push_back(line);
}

void Journal::clear() {
    file_.truncate(0);
    file_.sync();
    lines_.clear();
    end_ = 0;
}

void Journal::remove() {
    if (sys::unlink(file_.path().c_str()) != 0 && errno != ENOENT) fail(file_.path(), "remove", errno);
}

}  // namespace mixwright::io
