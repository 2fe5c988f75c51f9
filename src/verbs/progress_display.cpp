#include "verbs/progress_display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "progress.h"

namespace mixwright::verbs {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string amount_text(double amount, const std::string& unit) {
    if (unit != "B") return fmt::format("{:.0f} {}", amount, unit);
    if (amount >= 1e9) return fmt::format("{:.2f} GB", amount / 1e9);
    return fmt::format("{:.1f} MB", amount / 1e6);
}

std::string duration_text(double seconds) {
    const auto whole = static_cast<long>(seconds + 0.5);
    if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
    return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

// Start times of the tasks under way, one within the other as evaluation is within training, and times of their last updates: shared by all sinks.
class TimedSink : public ProgressSink {
public:
    explicit TimedSink(double interval) : interval_(interval) {}

    void show(const ProgressState& state, bool finished) final {
        const auto known = std::ranges::find(tasks_, state.title, &Task::title);
        if (known == tasks_.end())
            tasks_.push_back({state.title, Clock::now(), {}});
        else
            tasks_.erase(known + 1, tasks_.end());
        Task& task = tasks_.back();
        if (!finished && task.last != Clock::time_point{} && seconds_since(task.last) < interval_) return;
        task.last = Clock::now();
        draw(state, seconds_since(task.start), finished);
        if (finished) tasks_.pop_back();
    }

protected:
    virtual void draw(const ProgressState& state, double elapsed, bool finished) = 0;

    static std::string rate_text(const ProgressState& state, double elapsed) {
        if (elapsed <= 0) return "";
        const double rate = static_cast<double>(state.done) / elapsed;
        if (rate < 10 && state.unit != "B") return fmt::format("{:.1f} {}/s", rate, state.unit);
        return amount_text(rate, state.unit) + "/s";
    }
    static double remaining(const ProgressState& state, double elapsed) {
        return static_cast<double>(state.total - state.done) * elapsed / static_cast<double>(state.done);
    }

private:
    struct Task {
        std::string title;
        Clock::time_point start, last;
    };

    double interval_;
    std::vector<Task> tasks_;
};

class BarSink final : public TimedSink {
public:
    BarSink() : TimedSink(0.1) {}

    void warn(const std::string& message) override { line("\033[33mwarning:\033[0m " + message); }
    void info(const std::string& message) override { line(message); }

private:
    void line(const std::string& text) {
        fmt::print(stderr, "\r\033[K{}\n", text);
        std::fflush(stderr);
    }

    void draw(const ProgressState& state, double elapsed, bool finished) override {
        winsize window{};
        const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
        const std::size_t columns = known ? window.ws_col : 80;

        std::string text = fmt::format("{:<24} ", state.title);
        if (state.total > 0) {
            const double part = static_cast<double>(state.done) / static_cast<double>(state.total);
            constexpr int width = 24;
            const int filled = static_cast<int>(part * width + 0.5);
            for (int i = 0; i < width; ++i) text += i < filled ? "\u2588" : "\u2591";
            text += fmt::format(" {:3.0f}% ", 100 * part);
        }
        text += amount_text(static_cast<double>(state.done), state.unit) + "  " + rate_text(state, elapsed);
        if (finished)
            text += "  in " + duration_text(elapsed);
        else if (state.total > state.done && state.done > 0)
            text += "  ETA " + duration_text(remaining(state, elapsed));
        if (!state.note.empty()) text += "  " + state.note;
        // Each bar cell is three bytes of UTF-8 but one column.
        const std::size_t limit = columns + (state.total > 0 ? 48 : 0);
        if (text.size() > limit) text.resize(limit);
        fmt::print(stderr, "\r\033[K{}{}", text, finished ? "\n" : "");
        std::fflush(stderr);
    }
};

class PlainSink final : public TimedSink {
public:
    PlainSink() : TimedSink(10) {}

    void warn(const std::string& message) override { fmt::print(stderr, "warning: {}\n", message); }
    void info(const std::string& message) override { fmt::print(stderr, "{}\n", message); }

private:
    void draw(const ProgressState& state, double elapsed, bool finished) override {
        if (!finished && state.done == 0) return;
        if (finished && elapsed < 0.5) return;  // over before anyone could wonder
        std::string text = fmt::format("{}: {}", state.title, amount_text(static_cast<double>(state.done), state.unit));
        if (state.total > 0) text += " of " + amount_text(static_cast<double>(state.total), state.unit);
        text += ", " + rate_text(state, elapsed);
        text += finished ? ", in " + duration_text(elapsed) : "";
        if (!finished && state.total > state.done) text += ", ETA " + duration_text(remaining(state, elapsed));
        if (!state.note.empty()) text += ", " + state.note;
        fmt::print(stderr, "{}\n", text);
    }
};

class JsonSink final : public TimedSink {
public:
    JsonSink() : TimedSink(1) {}

    void warn(const std::string& message) override { print({{"warning", message}}); }
    void info(const std::string& message) override { print({{"info", message}}); }

private:
    static void print(const io::Json& json) {
        fmt::print(stderr, "{}\n", json.dump(-1, ' ', false, io::Json::error_handler_t::replace));
    }

    void draw(const ProgressState& state, double elapsed, bool finished) override {
        print({{"task", state.title}, {"done", state.done}, {"total", state.total}, {"unit", state.unit},
               {"seconds", elapsed}, {"finished", finished}, {"note", state.note}});
    }
};

// Warnings only.
class QuietSink final : public ProgressSink {
public:
    void show(const ProgressState&, bool) override {}
    void warn(const std::string& message) override { fmt::print(stderr, "warning: {}\n", message); }
    void info(const std::string&) override {}
};

}  // namespace

void install_progress_display(const CommonOptions& common) {
    if (common.quiet || common.progress == "none")
        set_progress_sink(std::make_unique<QuietSink>());
    else if (common.progress == "json")
        set_progress_sink(std::make_unique<JsonSink>());
    else if (common.progress == "auto" && ::isatty(STDERR_FILENO))
        set_progress_sink(std::make_unique<BarSink>());
    else
        set_progress_sink(std::make_unique<PlainSink>());
}

}  // namespace mixwright::verbs
