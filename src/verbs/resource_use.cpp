#include "verbs/resource_use.h"

#include <sys/resource.h>

namespace mixwright::verbs {

std::uint64_t peak_rss_bytes() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

}  // namespace mixwright::verbs
