// A shard index: refused with an Error, or every file it names is a plain name.
#include <cstdlib>

#include "checkpoint/shard_index.h"
#include "error.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto index = checkpoint::parse_shard_index({reinterpret_cast<const char*>(data), size}, "fuzz");
        for (const std::string& file : index.files)
            if (file.empty() || file.find('/') != std::string::npos || file.find('\0') != std::string::npos || file[0] == '.') std::abort();
        for (const auto& [tensor, file] : index.weight_map)
            if (!checkpoint::is_plain_file_name(file)) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
