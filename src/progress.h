// The one way to report progress, warnings and interruption. The library never prints: a verb installs a
// sink that draws a bar, writes lines or JSON; without one, reports go nowhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mixwright {

struct ProgressState {
    std::string title;         // "writing tensors"
    std::string unit;          // "B" (shown as MB, GB), "tokens", "layers"
    std::uint64_t total = 0;   // 0 when unknown
    std::uint64_t done = 0;
    std::string note;          // free text behind the bar: "loss 2.31"
};

class ProgressSink {
public:
    virtual ~ProgressSink() = default;
    /// Called at the start of a task, after each advance, and with `finished` at its end.
    virtual void show(const ProgressState& state, bool finished) = 0;
    virtual void warn(const std::string& message) = 0;
    /// A line of information about a step just done.
    virtual void info(const std::string& message) = 0;
};

/// Installs the sink of the process; null silences it. Not thread-safe: call it once at start-up.
void set_progress_sink(std::unique_ptr<ProgressSink> sink);

/// One task with a bar. Reports from the thread that owns it; advance() throws Error(interrupted) after Ctrl-C.
class Progress {
public:
    Progress(std::string title, std::uint64_t total, std::string unit);
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress();

    void advance(std::uint64_t amount = 1);
    void note(std::string text) { state_.note = std::move(text); }

private:
    ProgressState state_;
};

void warn(const std::string& message);
void info(const std::string& message);

/// Async-signal-safe: called by the SIGINT handler.
void request_interrupt() noexcept;
/// While one lives, an interrupt waits: for saving what it must not lose.
class InterruptHold {
public:
    InterruptHold() noexcept;
    InterruptHold(const InterruptHold&) = delete;
    InterruptHold& operator=(const InterruptHold&) = delete;
    ~InterruptHold();
};

/// Throws Error(interrupted) once an interrupt was requested. Call it in every long loop that has no Progress.
void check_interrupted();

}  // namespace mixwright
