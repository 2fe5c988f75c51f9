// Shares many small pieces of work out among the threads of libtorch's pool.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>

namespace mixwright::ops {

/// Calls work(piece) for every piece in [0, count). Whoever is free takes the next one, so a thread that the system holds
/// up does not hold up the others; results must not depend on who does what.
template <class Work>
void share_work(std::int64_t count, const Work& work) {
    const std::int64_t threads = std::min<std::int64_t>(count, at::get_num_threads());
    if (threads <= 1 || at::in_parallel_region()) {
        for (std::int64_t piece = 0; piece < count; ++piece) work(piece);
        return;
    }
    std::atomic<std::int64_t> next = 0;
    at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
        for (std::int64_t piece = next++; piece < count; piece = next++) work(piece);
    });
}

}  // namespace mixwright::ops
