// A training run from its recipe to the model it leaves: that of `train`, and of verbs that heal what they have made.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "checkpoint/writer.h"
#include "data/packing.h"
#include "distributed/ranks.h"
#include "train/loop.h"
#include "verbs/verb.h"

namespace mixwright::verbs {

/// Sequences to learn from and to judge by; the latter may be none.
struct TrainingData {
    data::PackedSequences learn, judge;
};

struct TrainingOutcome {
    train::TrainResult result;
    std::string base;                     // the name of the model that was trained; empty for a new one
    std::int64_t parameters = 0, active_parameters = 0, trained_parameters = 0;
    std::uint64_t bytes = 0;              // of the output; 0 on a rank that does not write
};

/// A table of losses before and after, in markdown.
std::string loss_table(const train::TrainResult& result);

struct TrainingSettings {
    std::filesystem::path out;            // from io::output_path()
    checkpoint::WriteOptions write;
    std::optional<TrainingData> data;     // in place of what the recipe names
    std::function<std::string(const TrainingOutcome&)> card;  // README.md, none when empty; by default that of `train`
    std::vector<checkpoint::OutputFile> files;  // more that go with a model that is written whole
};

/// Trains and writes `settings.out`: whole, or not at all. The state is kept beside it meanwhile (train/run_files.h), and a run that was
/// interrupted goes on from there with `write.resume`. Of several ranks the first writes.
TrainingOutcome run_training(const train::TrainRecipe& recipe, const TrainingSettings& settings, const std::string& device, const distributed::Ranks& ranks = {});

}  // namespace mixwright::verbs
