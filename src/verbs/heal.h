// Healing: a model made out of another one by surgery learns from it (train/teacher.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/writer.h"
#include "data/packing.h"
#include "io/json.h"
#include "train/recipe.h"
#include "verbs/training_run.h"
#include "verbs/verb.h"

namespace mixwright::verbs {

struct HealSettings {
    std::string heal;                  // a number of steps, or a file with keys of a training recipe
    std::string student, teacher;      // models as on the command line
    std::vector<std::string> data;
    std::string trainable = "mlp";     // when the file does not say
    std::int64_t context = 512;        // seq_len, when the file does not say
    std::int64_t hidden_size = 256;    // of the student: the rate of learning falls with it (arXiv 2203.03466)
    std::string dtype;                 // of computation, when the file does not say
};

/// The recipe that train/ runs: the settings' models and data, and what the file says; without one, what is trainable learns the teacher's
/// predictions and streams. Error(recipe) or Error(usage) when `heal` is neither a number nor such a file, or when the file names models or
/// data of its own.
train::TrainRecipe heal_recipe(const HealSettings& settings);

/// How many tokens of text that recipe reads; none when there is no healing.
std::int64_t heal_tokens(const HealSettings& settings);

/// Where a student waits for being healed, beside the output it becomes.
std::filesystem::path unhealed_path(const std::filesystem::path& out);

struct Healing {
    HealSettings settings;                        // but for the student, which waits in unhealed_path(out)
    std::filesystem::path out;
    data::TokenStream text, judge;                // to learn from; to judge by, not among it
    std::string card;                             // README.md of the student; empty for none
    std::vector<checkpoint::OutputFile> files;    // more that belong to it, beside weights, config and tokenizer
    checkpoint::WriteOptions write;
};

/// Heals the student: `out` appears when all is done, and its card says so. The student stays. Error(mismatch) on too little text.
TrainingOutcome heal(const Healing& healing, const CommonOptions& common);

/// What --json says of it.
io::Json heal_json(const train::TrainResult& run);

}  // namespace mixwright::verbs
