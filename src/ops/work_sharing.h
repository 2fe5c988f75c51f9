// Shares many small pieces of work out among threads that wait for it.
//
// Decoding a token is some hundred steps of a few microseconds each. A thread pool that sleeps between them wakes up too late
// to help, and one whose every step waits for all threads is held up whenever the system takes a core away. So helpers spin
// for a moment before they sleep, whoever is free takes the next piece, and nobody waits for a helper that has not come.
#pragma once

#include <cstdint>

namespace mixwright::ops {

/// Calls work(context, piece) for every piece in [0, count), on this thread and on those of at::get_num_threads() that are
/// free; returns when all pieces are done. Results must not depend on who does what. Calls within a piece, and calls while
/// another thread shares out work, run where they are. The first exception of a piece is thrown again here.
void share_work(std::int64_t count, void (*work)(const void* context, std::int64_t piece), const void* context);

/// The same for anything that can be called with a piece.
template <class Work>
void share_work(std::int64_t count, const Work& work) {
    share_work(count, [](const void* context, std::int64_t piece) { (*static_cast<const Work*>(context))(piece); }, &work);
}

}  // namespace mixwright::ops
