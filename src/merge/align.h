// Which neuron of one expert answers to which of another: assignments of least cost.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mixwright::merge {

/// partner[i] = j: row i is assigned column j, every column once, the sum of cost[i][partner[i]] least. cost [n, n], finite.
/// Shortest augmenting paths (Jonker and Volgenant), O(n^3).
std::vector<std::int64_t> assign(const at::Tensor& cost);

/// The permutation p that best aligns neurons: neuron p[k] of `other` does what neuron k of `reference` does, judged by the
/// inner products of their features [n, features] after each feature row is brought to length one.
std::vector<std::int64_t> align(const at::Tensor& reference, const at::Tensor& other);

}  // namespace mixwright::merge
