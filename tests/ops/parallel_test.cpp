#include "ops/parallel.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace mixwright::ops {
namespace {

TEST(ParallelFor, VisitsEverythingOnceOnSeveralThreads) {
    const int before = at::get_num_threads();
    at::set_num_threads(2);
    std::vector<std::thread::id> thread_of(1000);
    std::vector<std::atomic<int>> visits(1000);
    parallel_for(0, 1000, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            thread_of[static_cast<std::size_t>(i)] = std::this_thread::get_id();
            ++visits[static_cast<std::size_t>(i)];
        }
    });
    at::set_num_threads(before);
    for (const auto& count : visits) EXPECT_EQ(count, 1);
    EXPECT_EQ(std::set(thread_of.begin(), thread_of.end()).size(), 2u);
}

TEST(ParallelFor, PassesOnWhatIsThrown) {
    EXPECT_THROW(parallel_for(0, 8, 1, [](std::int64_t, std::int64_t) { throw std::runtime_error("no"); }), std::runtime_error);
}

}  // namespace
}  // namespace mixwright::ops
