// What this process has used of the machine.
#pragma once

#include <cstdint>

namespace mixwright::verbs {

/// The largest resident memory so far, mapped files included.
std::uint64_t peak_rss_bytes();

}  // namespace mixwright::verbs
