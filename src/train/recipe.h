// The recipe of a training run: one YAML file, every key known, every value in range.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "train/auxiliary.h"
#include "train/schedule.h"

namespace mixwright::train {

enum class Trainable { all, mlp, experts, router, lora };

struct LoraRecipe {
    std::int64_t rank = 16;
    double alpha = 32;
    std::vector<std::string> targets;   // "q_proj", "gate_proj", ...; empty: every linear map of a layer
};

/// What a model learns from another one (arXiv 1503.02531); see train/teacher.h.
struct Distillation {
    double logits = 1;             // of T^2 KL(teacher || student) between the predictions
    double temperature = 1;        // T
    double hidden = 0;             // of the relative squared error of the stream behind every layer
    double cross_entropy = 0;      // of the loss of the text itself
    std::string dtype;             // the teacher's type of computation; empty: the recipe's
};

struct TrainRecipe {
    std::string source, text;           // the file and what it says
    std::string model;                  // the model to train, or
    std::optional<io::Json> config;     // the config.json of a new one, whose weights start at random; `model` is empty
    std::string tokenizer;              // the model the tokenizer comes from
    std::string teacher;                // the model to learn from; empty: from the text alone
    Distillation distillation;
    std::vector<std::filesystem::path> data, eval_data;
    double held_out = 0;                // share of data kept for evaluation when there is no eval_data
    std::optional<std::int64_t> steps;  // else from epochs
    double epochs = 1;
    std::int64_t batch_size = 8, seq_len = 256, grad_accumulation = 1;
    double lr = 3e-4, min_lr = 0;
    Decay decay = Decay::cosine;
    std::int64_t warmup_steps = 0;
    double warmup_share = 0;            // of all steps; counts when it is not 0
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
    AuxiliaryWeights auxiliary;
    double balance_bias = 0;            // how far a step moves the biases of the routers towards balance (bias_balance.h); 0: not at all
    std::int64_t expert_parallel = 1;   // ranks among which the experts of a layer are divided
    double clip = 1.0;                  // largest norm of the gradient; 0: no limit
    std::vector<Trainable> trainable{Trainable::all};      // what one of them names is trained; `all` and `lora` stand alone
    std::int64_t first_layer = 0, last_layer = 1'000'000;  // only layers of this range are trained
    LoraRecipe lora;
    bool adapter = false;               // write the LoRA as a PEFT adapter, not merged
    std::string dtype = "bfloat16";     // of computation; masters are f32
    std::uint64_t seed = 0;
    bool shuffle = true;
    std::int64_t eval_every = 0;        // steps; 0: before and after only
    std::int64_t eval_tokens = 16'384;  // at most so many tokens of eval data an evaluation
    std::int64_t patience = 0;          // evaluations without a new best after which the run ends; 0: never
    bool checkpointing = false;         // activations of a layer are computed again for its gradient, not kept
    std::int64_t save_every = 500;      // steps; 0: only on interruption

    bool trains(Trainable part) const { return std::ranges::find(trainable, part) != trainable.end(); }
    /// "experts, router"
    std::string trained_parts() const;
    Schedule schedule(std::int64_t total_steps) const;
};

/// Error(recipe) names the line and what is wrong with it. Paths of data are looked for from the working directory, then
/// beside the recipe.
TrainRecipe read_train_recipe(const std::filesystem::path& path);
TrainRecipe parse_train_recipe(std::string_view text, std::string_view source);

}  // namespace mixwright::train
