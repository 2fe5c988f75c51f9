#include "jinja/budget.h"

namespace mixwright::jinja {

thread_local Budget* Budget::current_ = nullptr;

Budget::Budget(const Limits& limits)
    : limits_(limits), stack_base_(static_cast<const char*>(__builtin_frame_address(0))), outer_(current_) {
    current_ = this;
}

Budget::~Budget() {
    current_ = outer_;
    if (outer_) outer_->live_ += live_;  // what outlives this account
}

void Budget::check_stack() const {
    // The stack grows downwards on every machine we build for.
    const char* here = static_cast<const char*>(__builtin_frame_address(0));
    if (static_cast<std::size_t>(stack_base_ - here) > limits_.stack)
        throw Failure("the template recurses too deeply", Failure::Reason::budget);
}

void Budget::fail_steps() const {
    throw Failure("the template does too much work (limit: " + std::to_string(limits_.steps) + " steps)",
                  Failure::Reason::budget);
}

void Budget::fail_memory() const {
    throw Failure("the template needs too much memory (limit: " + std::to_string(limits_.memory >> 20) + " MB)",
                  Failure::Reason::budget);
}

}  // namespace mixwright::jinja
