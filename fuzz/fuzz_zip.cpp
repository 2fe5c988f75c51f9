// A zip archive: refused with an Error, or every entry lies inside it.
#include <cstdlib>

#include "checkpoint/zip_directory.h"
#include "error.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        for (const auto& [name, entry] : checkpoint::read_zip_directory(std::as_bytes(std::span(data, size)), "fuzz"))
            if (entry.bytes > size || entry.offset > size - entry.bytes) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
