// Which experts belong together: groups of items with the largest total weight between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mixwright::merge {

using Groups = std::vector<std::vector<std::int64_t>>;  // each ascending, in the order of their first members

/// Pairs with the largest sum of weights among all pairings that leave at most one item over, who is a group of their own:
/// weights [n, n] symmetric, finite. Exact up to 18 items; beyond, a pairing that no exchange among three pairs improves.
/// (Boost 1.74's maximum_weighted_matching does not end on some graphs of 21 items.)
Groups match_pairs(const at::Tensor& weights);

/// Groups of `size` (the last one may be smaller): pairs as above; larger groups grow greedily by the weight to their members,
/// then items are exchanged between groups while that gains.
Groups match_groups(const at::Tensor& weights, std::int64_t size);

/// Random groups of `size`, the same for a seed everywhere.
Groups random_groups(std::int64_t count, std::int64_t size, std::uint64_t seed);

/// Sum of the weights inside the groups.
double weight_inside(const at::Tensor& weights, const Groups& groups);

}  // namespace mixwright::merge
