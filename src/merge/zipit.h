// ZipIt!'s greedy feature matching (arXiv 2305.03053, section 4 and appendix): features of several models (here: experts)
// are merged pair by pair, most similar first, also within one model. It knows similarities only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "merge/least_squares.h"

namespace mixwright::merge {

struct ZipItOptions {
    std::int64_t models = 2;   // the features are those of `models` models, equally many of each, in order
    double alpha = 0.3;        // similarities of a merged feature are multiplied by it; <= 0: it merges with its own models no more
    double beta = 0.125;       // share of the merges that may happen inside one model
};

/// groups[g] lists the original features merged into feature g, ascending; `count` groups in the order of their first members.
/// similarity [O, O], symmetric, the diagonal is not read. O^2 memory, O^2 log O time on the whole.
/// Differs from the authors' code where that slips: the number of models is given, not guessed from the share removed; beta = 0
/// allows no merge inside a model; alpha <= 0 looks at the models a feature really holds.
/// Error(failed) when alpha and beta forbid so many merges.
std::vector<std::vector<std::int64_t>> zipit_groups(const at::Tensor& similarity, std::int64_t count, const ZipItOptions& options);

/// Correlation of features: E[z z^T] - mean mean^T over the product of standard deviations. second_moment [n, n], mean [n].
/// A feature that never moves correlates with nothing.
at::Tensor correlation(const at::Tensor& second_moment, const at::Tensor& mean);

/// [count, O] f64: row g takes the mean of the features of group g (ZipIt!'s merge matrix).
at::Tensor merge_matrix(const std::vector<std::vector<std::int64_t>>& groups, std::int64_t features);
/// [O, count] f64: every feature is restored as a copy of its group's (ZipIt!'s unmerge matrix).
at::Tensor unmerge_matrix(const std::vector<std::vector<std::int64_t>>& groups, std::int64_t features);

}  // namespace mixwright::merge
