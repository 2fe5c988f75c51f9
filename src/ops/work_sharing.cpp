#include "ops/work_sharing.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mixwright::ops {
namespace {

// How often a helper looks for work before it sleeps: some 50 to 100 microseconds, longer than what lies between two steps
// of a token and too short to be felt by others on the machine.
constexpr int looks_before_sleep = 2000;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

thread_local bool inside_piece = false;

class Team {
public:
    explicit Team(std::size_t helpers) {
        for (std::size_t i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
    }
    ~Team() {
        leaving_ = true;
        ++calls_;
        calls_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    std::size_t helpers() const noexcept { return threads_.size(); }

    void run(std::int64_t count, void (*work)(const void*, std::int64_t), const void* context) {
        count_ = count;
        work_ = work;
        context_ = context;
        error_ = nullptr;
        next_.store(0, std::memory_order_relaxed);
        open_ = true;
        ++calls_;
        if (sleeping_ > 0) calls_.notify_all();
        take_pieces();
        // From here on no helper enters; those inside finish the pieces they have.
        open_ = false;
        for (int looks = 0; inside_ > 0; ++looks) {
            pause();
            if (looks > looks_before_sleep) std::this_thread::yield();
        }
        if (error_) std::rethrow_exception(error_);
    }

private:
    void take_pieces() {
        inside_piece = true;
        for (std::int64_t piece = next_++; piece < count_; piece = next_++) {
            try {
                work_(context_, piece);
            } catch (...) {
                const std::lock_guard lock(error_guard_);
                if (!error_) error_ = std::current_exception();
                next_ = count_;
            }
        }
        inside_piece = false;
    }

    void help() {
        std::uint32_t seen = 0;
        for (;;) {
            for (int looks = 0; calls_ == seen && looks < looks_before_sleep; ++looks) pause();
            if (calls_ == seen) {
                ++sleeping_;
                calls_.wait(seen);
                --sleeping_;
            }
            seen = calls_;
            if (leaving_) return;
            ++inside_;
            if (open_) take_pieces();
            --inside_;
        }
    }

    std::int64_t count_ = 0;
    void (*work_)(const void*, std::int64_t) = nullptr;
    const void* context_ = nullptr;
    std::exception_ptr error_;
    std::mutex error_guard_;

    // Each on a line of its own: helpers look at one while the others change.
    alignas(64) std::atomic<std::uint32_t> calls_ = 0;
    alignas(64) std::atomic<std::int64_t> next_ = 0;
    alignas(64) std::atomic<int> inside_ = 0;
    std::atomic<int> sleeping_ = 0;
    std::atomic<bool> open_ = false, leaving_ = false;
    std::vector<std::thread> threads_;
};

std::mutex team_guard;

// The team of the threads that libtorch was told to use.
Team& team(std::size_t helpers) {
    static std::unique_ptr<Team> current;
    if (!current || current->helpers() != helpers) {
        current.reset();
        current = std::make_unique<Team>(helpers);
    }
    return *current;
}

}  // namespace

void share_work(std::int64_t count, void (*work)(const void*, std::int64_t), const void* context) {
    const std::int64_t threads = std::min<std::int64_t>(count, at::get_num_threads());
    std::unique_lock<std::mutex> lock(team_guard, std::defer_lock);
    if (threads <= 1 || inside_piece || at::in_parallel_region() || !lock.try_lock()) {
        for (std::int64_t piece = 0; piece < count; ++piece) work(context, piece);
        return;
    }
    team(static_cast<std::size_t>(at::get_num_threads()) - 1).run(count, work, context);
}

}  // namespace mixwright::ops
