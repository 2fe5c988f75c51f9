// Which neurons to keep when the maps from them to the outputs are then fitted anew by least squares. The neurons stay
// exact; the choice is greedy in the error of the outputs, not of the activations.
//
// Shape legend: N tokens, n candidate neurons, d outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "merge/least_squares.h"

namespace mixwright::merge {

/// The pull towards the prior while choosing, of the mean diagonal (NormalEquations::pulled_to); the refit chooses its own.
constexpr double selection_ridge = 1e-3;

struct Selection {
    std::vector<std::int64_t> kept;  // ascending
    /// Squared error of the outputs with best fitted maps: [0] before the first step, then after each. Steps add neurons
    /// (forward: falling) or remove them (backward: rising).
    std::vector<double> errors;
    /// The neurons in the order in which they were added or removed.
    std::vector<std::int64_t> order;
};

enum class Greedy {
    automatic,  // whichever takes fewer steps
    forward,    // adds the neuron that explains most of what is left: orthogonal matching pursuit, pivoted Cholesky
    backward    // removes the neuron that the others replace best: optimal brain surgeon
};

/// Keeps `count` of the features of `equations`, each weighed by what it does to the outputs Y, which may be any: the sum
/// of their own old outputs, or those of a larger layer. Pull the equations towards a prior first (pulled_to) when there
/// is little text: it also makes a neuron with large old weights dearer. O(n^3) in blocks; 2 n^2 doubles of memory.
/// Error(usage) unless 0 <= count <= n.
Selection select_neurons(const NormalEquations& equations, std::int64_t count, Greedy greedy = Greedy::automatic);

/// The same by removal alone, down to `count`; those in `always` are never removed. Error(usage) unless always <= count <= n.
Selection remove_neurons(const NormalEquations& equations, std::int64_t count, std::span<const std::int64_t> always);

/// For candidates too many for select_neurons(): the `count` largest scores, ascending indices. scores [n].
std::vector<std::int64_t> largest(const at::Tensor& scores, std::int64_t count);

/// The energy each neuron brings to the outputs on its own, E[a_k^2] ||D_:,k||^2 (CAMERA-P's score with alpha = 0, arXiv
/// 2508.02322): gram_diagonal [n], down [d, n] -> [n] f64.
at::Tensor output_energy(const at::Tensor& gram_diagonal, const at::Tensor& down);

struct RefitNeurons {
    std::vector<std::int64_t> kept;
    at::Tensor down;            // [d, kept] f64
    double lambda = 0;
    double error = 0;           // relative, on all rows
    double held_out_error = 0;  // relative, on rows the fit had not seen; NaN without any
    double unfitted_error = 0;  // relative, on all rows: the same neurons with their columns of `down` as they were
};

/// Selection and refit in one: D' = (Y^T A_S + lambda D_S) (A_S^T A_S + lambda I)^-1. `down` [d, n] is what the neurons were
/// multiplied with before, the prior; undefined when they never had a map of their own.
RefitNeurons select_and_refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::int64_t count,
                              Greedy greedy = Greedy::automatic);

/// The refit alone, of neurons chosen otherwise.
RefitNeurons refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::vector<std::int64_t> kept);

}  // namespace mixwright::merge
