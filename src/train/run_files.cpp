#include "train/run_files.h"

#include <fmt/format.h>

#include <cerrno>

#include "error.h"
#include "io/file.h"
#include "io/system_call.h"
#include "train/training_state.h"

namespace mixwright::train {

namespace fs = std::filesystem;

RunFiles::RunFiles(const fs::path& out, std::string identity, bool resume, bool force, const distributed::Ranks& ranks)
    : folder_(out.string() + ".training"), state_(folder_ / "state.safetensors"), metrics_(folder_ / "metrics.jsonl"), identity_(std::move(identity)), ranks_(ranks) {
    if (!ranks_.leads()) return;
    if (fs::exists(folder_) && !resume) {
        if (!force && fs::exists(state_))
            throw Error(ErrorCode::usage, fmt::format("{}: an interrupted run is kept there", io::shown(folder_)),
                        "go on with --resume, or start anew with --force");
        remove();
    }
    if (io::sys::make_directory(folder_.c_str()) != 0 && errno != EEXIST) io::fail(folder_, "make the directory", errno);
}

RunFiles::Restored RunFiles::restore(std::vector<Parameter>& parameters) {
    if (!fs::exists(state_)) return {};
    Restored restored{.steps_done = load_state(state_, parameters, identity_, ranks_)};
    // Steps behind the saved state are run again, and logged again.
    std::string kept;
    if (fs::exists(metrics_)) {
        std::ifstream lines(metrics_);
        for (std::string line; std::getline(lines, line);) {
            const io::Json json = io::Json::parse(line, nullptr, false);
            if (!json.is_object() || json.value("step", restored.steps_done + 1) > restored.steps_done) continue;
            kept += line + "\n";
            if (json.contains("eval_loss")) restored.eval_losses.push_back(json.value("eval_loss", 0.0));
        }
    }
    if (!ranks_.leads()) return restored;
    stream_.open(metrics_, std::ios::trunc);
    stream_ << kept << std::flush;
    return restored;
}

void RunFiles::save(const std::vector<Parameter>& parameters, std::int64_t steps_done) const { save_state(state_, parameters, steps_done, identity_, ranks_); }

void RunFiles::log(const io::Json& line) {
    if (!stream_.is_open()) stream_.open(metrics_, std::ios::trunc);
    stream_ << line.dump() << "\n" << std::flush;
    if (!stream_) io::fail(metrics_, "write", errno);
}

std::string RunFiles::metrics() const {
    constexpr std::size_t limit = 1u << 30;
    return fs::exists(metrics_) ? io::read_file(metrics_, limit) : std::string();
}

void RunFiles::remove() {
    stream_.close();
    if (io::sys::remove_tree(folder_) != 0) io::fail(folder_, "remove", errno);
}

}  // namespace mixwright::train
