// What a template may cost. Templates come with models, so they are code of strangers: every step they take, every
// byte they hold and every level they nest is counted here, and the render ends with an error when one runs out.
// Knows nothing of templates: it counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace mixwright::jinja {

struct Limits {
    std::size_t template_bytes = 1u << 20;
    std::size_t steps = 10'000'000;       // nodes executed; work on long values counts as more than one
    std::size_t memory = 64u << 20;       // bytes alive at one time
    std::size_t output = 4u << 20;        // bytes rendered
    std::size_t call_depth = 200;         // macros in macros
    std::size_t stack = 2u << 20;         // bytes of the machine's stack
};

constexpr int kMaxNesting = 64;       // brackets in brackets, blocks in blocks
constexpr int kMaxHeight = 200;       // of an expression: a.b.c.d...
constexpr int kMaxValueDepth = 100;   // lists in lists

/// Why a template cannot go on. `line` is 0 until the statement that failed adds it.
struct Failure : std::runtime_error {
    enum class Reason { raised, syntax, runtime, budget };

    explicit Failure(const std::string& message, Reason reason = Reason::runtime, int line = 0)
        : std::runtime_error(message), reason(reason), line(line) {}

    Reason reason;
    int line;
};

/// The account of one compilation or one render; active on its thread for as long as it lives. What is still alive at
/// its end goes to the account that was active before.
class Budget {
public:
    explicit Budget(const Limits& limits);
    Budget(const Budget&) = delete;
    Budget& operator=(const Budget&) = delete;
    ~Budget();

    static Budget* current() noexcept { return current_; }
    const Limits& limits() const noexcept { return limits_; }
    std::size_t live_bytes() const noexcept { return live_; }

    void step(std::size_t count = 1) {
        steps_ += count;
        if (steps_ > limits_.steps) fail_steps();
    }
    void allocate(std::size_t bytes) {
        step(bytes >> 8);
        if (bytes > limits_.memory - live_) fail_memory();
        live_ += bytes;
    }
    void release(std::size_t bytes) noexcept { live_ -= bytes < live_ ? bytes : live_; }
    /// Fails when the machine's stack has grown too far since the budget was opened.
    void check_stack() const;

private:
    [[noreturn]] void fail_steps() const;
    [[noreturn]] void fail_memory() const;

    static thread_local Budget* current_;
    Limits limits_;
    std::size_t steps_ = 0;
    std::size_t live_ = 0;
    const char* stack_base_;
    Budget* outer_;
};

/// Charges the active budget for reading `bytes` bytes: comparisons and searches allocate nothing and yet take time.
inline void charge_work(std::size_t bytes) {
    if (Budget* budget = Budget::current()) budget->step(bytes >> 6);
}

/// The allocator of everything a template can make grow.
template <class T>
struct Counted {
    using value_type = T;
    Counted() = default;
    template <class U>
    Counted(const Counted<U>&) noexcept {}

    T* allocate(std::size_t count) {
        if (count > SIZE_MAX / 2 / sizeof(T)) throw std::bad_alloc();
        if (Budget* budget = Budget::current()) budget->allocate(count * sizeof(T));
        return static_cast<T*>(::operator new(count * sizeof(T)));
    }
    void deallocate(T* memory, std::size_t count) noexcept {
        if (Budget* budget = Budget::current()) budget->release(count * sizeof(T));
        ::operator delete(memory);
    }
    template <class U>
    bool operator==(const Counted<U>&) const noexcept {
        return true;
    }
};

using String = std::basic_string<char, std::char_traits<char>, Counted<char>>;
template <class T>
using Vector = std::vector<T, Counted<T>>;
template <class T>
using Ref = std::shared_ptr<T>;

template <class T, class... Arguments>
Ref<T> make(Arguments&&... arguments) {
    return std::allocate_shared<T>(Counted<T>(), std::forward<Arguments>(arguments)...);
}

}  // namespace mixwright::jinja
