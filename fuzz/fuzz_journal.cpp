// The journal of an interrupted output: opened, it holds whole lines; what is appended stands behind them when it is opened
// again.
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "error.h"
#include "io/journal.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::filesystem::path path = std::filesystem::temp_directory_path() / ("mixwright-fuzz-journal-" + std::to_string(::getpid()));
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    std::vector<io::Json> lines;
    {
        io::Journal journal = io::Journal::open(path);
        journal.append({{"shard", "é"}});
        lines = journal.lines();
    }
    io::Journal again = io::Journal::open(path);
    if (again.lines() != lines || lines.empty()) std::abort();
    again.remove();
    return 0;
}
