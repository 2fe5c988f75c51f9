#include "verbs/resource_use.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace mixwright::verbs {

std::uint64_t peak_rss_bytes() {
    constexpr std::uint64_t kibi = 1024;
    // getrusage() begins with the memory of the process that started this one, which may be far larger.
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (std::uint64_t kib = 0; word == "VmHWM:" && status >> kib) return kib * kibi;
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::uint64_t>(usage.ru_maxrss) * kibi;
}

}  // namespace mixwright::verbs
