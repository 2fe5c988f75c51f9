// The training loop: batches in a fixed order, gradient, update, and everything a person wants to know meanwhile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "data/packing.h"
#include "distributed/ranks.h"
#include "io/json.h"
#include "train/teacher.h"
#include "train/trained_model.h"

namespace mixwright::train {

struct TrainResult {
    std::int64_t steps = 0;
    std::int64_t tokens = 0;                      // read by this run, a resumed one's earlier steps not counted
    double first_loss = 0, last_loss = 0;         // of this run's first and last step
    std::optional<double> eval_before, eval_after;  // mean loss of the evaluation data, in nats a token
    double seconds = 0;                           // of the steps alone

    double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

/// Mean loss of the tokens that count in `sequences`, `batch_size` sequences at a time, up to about `max_tokens` tokens. Several ranks
/// divide them and learn the same result.
double mean_loss(const model::Decoder& decoder, const model::ModelWeights& weights, const data::PackedSequences& sequences,
                 std::int64_t batch_size, std::int64_t max_tokens, const distributed::Ranks& ranks = {});

struct TrainHooks {
    std::int64_t first_step = 0;                                // steps a resumed run has behind it
    std::vector<double> eval_losses;                            // of a resumed run's earlier evaluations, in order
    std::function<void(const io::Json& line)> log;              // a line of metrics
    std::function<void(std::int64_t steps_done)> save;          // keeps the state; called with interrupts held, on all ranks together
};

/// Runs steps [first_step, total_steps). Data order, and with it the result, depends on the recipe alone: running in
/// pieces gives the same bits as running through. On Ctrl-C the state is saved, then Error(interrupted). A loss or
/// gradient that is no number ends the run with Error(failed) before the weights are touched; the state before it is saved.
/// Of several ranks, each computes its share of every micro-batch and takes the step of what it owns (ownership.h).
/// With a `teacher` the loss of a step is what the recipe's `distill` makes of the two; evaluations stay those of the text.
TrainResult train(TrainedModel& model, const TrainRecipe& recipe, const data::PackedSequences& sequences,
                  const data::PackedSequences& eval_sequences, std::int64_t total_steps, const TrainHooks& hooks, const distributed::Ranks& ranks = {},
                  const Teacher* teacher = nullptr);

/// The steps a recipe asks for, given how many sequences an epoch has.
std::int64_t total_steps(const TrainRecipe& recipe, std::size_t num_sequences);

}  // namespace mixwright::train
