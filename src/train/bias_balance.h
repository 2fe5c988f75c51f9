// Balance without a loss (arXiv 2408.15664): a bias of each expert, added to its score when experts are chosen and nowhere else, grows
// while the expert gets less than its share of the tokens and shrinks while it gets more.
#pragma once

#include <cstdint>
#include <vector>

#include "train/auxiliary.h"
#include "train/trained_model.h"

namespace mixwright::train {

/// Moves the biases that TrainedModel made movable by `rate` towards balance, after a step that sent tokens as `loads` say (of all
/// ranks and micro-batches): b_i += rate sign(mean load - load_i). Iterations of a chain that share a router count together.
void balance_biases(TrainedModel& model, const std::vector<RouterLoad>& loads, double rate);

}  // namespace mixwright::train
