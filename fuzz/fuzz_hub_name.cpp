// A model's name on the command line of a server or script: no part of it may climb out of the cache.
#include <cstdlib>

#include "checkpoint/hub_cache.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (const auto name = checkpoint::parse_hub_name({reinterpret_cast<const char*>(data), size})) {
        for (const std::string& part : {name->repository, name->revision})
            if (part.empty() || part.front() == '/' || part.find("..") != std::string::npos || part.find('\0') != std::string::npos) std::abort();
    }
    return 0;
}
