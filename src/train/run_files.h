// The folder OUT.training beside an output that is being trained: the state to go on from, and the metrics.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

#include "distributed/ranks.h"
#include "io/json.h"
#include "train/adamw.h"

namespace mixwright::train {

class RunFiles {
public:
    /// `out` comes from io::output_path(). Without `resume` an earlier run's folder is refused with Error(usage), or
    /// removed with `force`. `identity` tells runs apart (training_state.h). Only the leading rank changes
    /// anything on disk; the others read what it keeps. `ranks` must outlive the object.
    RunFiles(const std::filesystem::path& out, std::string identity, bool resume, bool force, const distributed::Ranks& ranks);

    struct Restored {
        std::int64_t steps_done = 0;
        std::vector<double> eval_losses;   // of the evaluations so far
    };
    /// Loads the state, when there is one.
    Restored restore(std::vector<Parameter>& parameters);
    /// All ranks call it together.
    void save(const std::vector<Parameter>& parameters, std::int64_t steps_done) const;
    /// Appends a line of metrics.
    void log(const io::Json& line);
    /// The metrics so far, as JSON lines.
    std::string metrics() const;
    /// Removes the folder.
    void remove();

private:
    std::filesystem::path folder_, state_, metrics_;
    std::string identity_;
    const distributed::Ranks& ranks_;
    std::ofstream stream_;
};

}  // namespace mixwright::train
