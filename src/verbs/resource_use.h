// The memory of this process.
#pragma once

#include <cstdint>

namespace mixwright::verbs {

/// The largest resident memory so far, mapped files included.
std::uint64_t peak_rss_bytes();

/// Gives back what starting took and running does not need: freed memory that malloc keeps (a parsed tokenizer leaves much), and the pages of
/// libtorch's code, most of which only static constructors ran: it registers thousands of operators. What of it is needed after all comes back from the file cache.
void release_startup_memory();

/// Lets malloc keep what is freed and will be asked for again, activations of megabytes at every layer, and libtorch ask for it such that it is
/// found: pages that go back to the system come back as zeros, each by a fault, which costs more than what is computed on them.
void keep_freed_memory();

}  // namespace mixwright::verbs
