#include "progress.h"

#include <atomic>
#include <utility>

#include "error.h"

namespace mixwright {
namespace {

std::unique_ptr<ProgressSink> sink;
std::atomic<bool> interrupted{false};
std::atomic<int> holds{0};

}  // namespace

void set_progress_sink(std::unique_ptr<ProgressSink> new_sink) { sink = std::move(new_sink); }

Progress::Progress(std::string title, std::uint64_t total, std::string unit)
    : state_{std::move(title), std::move(unit), total, 0, {}} {
    if (sink) sink->show(state_, false);
}

Progress::~Progress() {
    if (sink) sink->show(state_, true);
}

void Progress::advance(std::uint64_t amount) {
    state_.done += amount;
    if (sink) sink->show(state_, false);
    check_interrupted();
}

void warn(const std::string& message) {
    if (sink) sink->warn(message);
}

void info(const std::string& message) {
    if (sink) sink->info(message);
}

void request_interrupt() noexcept { interrupted.store(true, std::memory_order_relaxed); }

InterruptHold::InterruptHold() noexcept { ++holds; }
InterruptHold::~InterruptHold() { --holds; }

void check_interrupted() {
    if (interrupted.load(std::memory_order_relaxed) && holds.load() == 0)
        throw Error(ErrorCode::interrupted, "interrupted", "run the same command with --resume to go on, where the verb has it");
}

}  // namespace mixwright
