// Healing: a model made out of another one by surgery learns from it (train/teacher.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/recipe.h"

namespace mixwright::verbs {

struct HealSettings {
    std::string heal;                  // a number of steps, or a file with keys of a training recipe
    std::string student, teacher;      // models as on the command line
    std::vector<std::string> data;
    std::int64_t context = 512;        // seq_len, when the file does not say
    std::int64_t hidden_size = 256;    // of the student: the rate of learning falls with it (arXiv 2203.03466)
    std::string dtype;                 // of computation, when the file does not say
};

/// The recipe that train/ runs: the settings' models and data, and what the file says; without one, the MLPs learn the teacher's
/// predictions and streams. Error(recipe) or Error(usage) when `heal` is neither a number nor such a file, or when the file names models or
/// data of its own.
train::TrainRecipe heal_recipe(const HealSettings& settings);

/// Where a student waits for being healed, beside the output it becomes.
std::filesystem::path unhealed_path(const std::filesystem::path& out);

}  // namespace mixwright::verbs
