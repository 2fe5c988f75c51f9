// Which neurons two models (here: experts) that often run together should have in common. Every candidate is a neuron of one of
// them; its owner may keep it, and then the other may use it too, which costs a column of its down projection and no rows.
//
// Shape legend: n candidates, those of the first model before those of the second.
#pragma once

#include <cstdint>
#include <vector>

#include "merge/least_squares.h"

namespace mixwright::merge {

/// What storing a neuron costs, in rows or columns of the hidden size.
constexpr double private_cost = 3;  // its rows of gate and up, its owner's column of down
constexpr double shared_cost = 1;   // the other's column

/// Candidates that both models should use, ascending: a greedy forward choice over both residuals at once, by the error explained
/// per unit of cost, that ends where nothing is worth `price` any more. A neuron is taken for its owner alone, for both, or for
/// the other when its owner has it; what it explains is counted for each model on the residual of its own output. The gain of
/// a foreign neuron counts only beyond what fitting a column that means nothing would seem to gain (Mallows' C_p).
/// `a` and `b` are the equations of each model's output against all n candidates; the first `own_a` are those of a. No model
/// gets more than `widest` columns. Memory beside the equations: see Pivoting, twice.
std::vector<std::int64_t> shared_neurons(const NormalEquations& a, const NormalEquations& b, std::int64_t own_a, double price, std::int64_t widest);

}  // namespace mixwright::merge
