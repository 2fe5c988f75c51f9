#include "ops/work_sharing.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace mixwright::ops {
namespace {

// As many threads as asked for while it lives.
struct Threads {
    explicit Threads(int count) : before(at::get_num_threads()) { at::set_num_threads(count); }
    ~Threads() { at::set_num_threads(before); }
    int before;
};

TEST(WorkSharing, DoesEveryPieceOnce) {
    for (const int threads : {1, 2, 4}) {
        const Threads guard(threads);
        for (const std::int64_t count : {0, 1, 2, 3, 100, 5000}) {
            std::vector<std::atomic<int>> done(static_cast<std::size_t>(count));
            share_work(count, [&](std::int64_t piece) { ++done[static_cast<std::size_t>(piece)]; });
            for (const auto& times : done) ASSERT_EQ(times, 1);
        }
    }
}

TEST(WorkSharing, OneCallAfterAnotherSeesItsOwnWork) {
    const Threads guard(3);
    std::int64_t total = 0;
    for (int call = 0; call < 20000; ++call) {
        std::array<std::int64_t, 4> parts{};
        share_work(4, [&](std::int64_t piece) { parts[static_cast<std::size_t>(piece)] = call + piece; });
        for (const std::int64_t part : parts) total += part;
    }
    EXPECT_EQ(total, 4 * (20000LL * 19999 / 2) + 6 * 20000);
}

TEST(WorkSharing, CallsWithinAPieceAndFromOtherThreadsRunWhereTheyAre) {
    const Threads guard(2);
    std::atomic<int> done = 0;
    const auto nested = [&] {
        for (int i = 0; i < 200; ++i) share_work(8, [&](std::int64_t) { share_work(3, [&](std::int64_t) { ++done; }); });
    };
    std::thread other(nested);
    nested();
    other.join();
    EXPECT_EQ(done, 2 * 200 * 8 * 3);
}

TEST(WorkSharing, ThrowsWhatAPieceThrowsAndGoesOnWorking) {
    const Threads guard(2);
    for (int i = 0; i < 50; ++i)
        EXPECT_THROW(share_work(64, [](std::int64_t piece) { if (piece == 17) throw std::runtime_error("17"); }), std::runtime_error);
    std::atomic<int> done = 0;
    share_work(64, [&](std::int64_t) { ++done; });
    EXPECT_EQ(done, 64);
}

}  // namespace
}  // namespace mixwright::ops
