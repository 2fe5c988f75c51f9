// The recursion under every greedy choice of neurons: what each candidate is worth once all chosen before it have done their best.
//
// Shape legend: n candidates, d outputs, m pivots taken.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace mixwright::merge {

// Both directions are one elimination on a symmetric matrix S [n, n] and the rows of X [n, d]. Taking pivot k,
//     X -= s X_k / S_kk,   S -= s s^T / S_kk,   s = S_:k,
// and ||X_k||^2 / S_kk is what the step is worth.
// Forward:  S = residual Gram matrix, X = residual cross product; worth: the error explained.
// Backward: S = inverse Gram matrix, X = the least-squares maps; worth: the error caused.
//
// As in a blocked, left-looking Cholesky nothing but the diagonal of S is kept up to date. A panel of steps is taken among a few
// open candidates, whose part of S and X X^T is made when they are opened; then all others follow at once. With n larger than
// `most_open` a step is therefore the best of those that were among the best when its panel began.
class Pivoting {
public:
    static constexpr std::int64_t panel = 64, most_open = 512;  // steps between two updates; candidates worth opening

    /// s [n, n] f64 is read until the end and not changed; x [n, d] f64 is overwritten.
    Pivoting(at::Tensor s, at::Tensor x);

    /// Begins a panel: until it is closed `worth`, `usable` and `take` are for these candidates alone.
    void open(std::vector<std::int64_t> candidates);
    const std::vector<std::int64_t>& opened() const noexcept { return open_; }
    /// No step is left in the panel.
    bool full() const { return std::ssize(steps_) == panel; }
    /// Ends the panel: everyone's worth is known again.
    void close();

    double worth(std::size_t k) const { return std::max(0.0, energies_[k]) / diagonal_[k]; }
    bool usable(std::size_t k) const { return !taken_[k] && diagonal_[k] > dependent * start_[k] && diagonal_[k] > 0; }
    bool taken(std::size_t k) const { return taken_[k]; }
    /// A step. `k` is open, the panel not full.
    void take(std::size_t k);

private:
    static constexpr double dependent = 1e-9;  // a pivot below this share of its start is a combination of earlier ones

    at::Tensor eliminated() const;  // U [m, n]: S is what was given less U^T U
    void eliminate(std::int64_t count);

    at::Tensor s_, x_, u_;          // u_ has room for more rows than are used
    std::int64_t size_, rows_ = 0;  // rows of u_ that are used
    std::vector<double> diagonal_, energies_, start_;  // of S, of X X^T, of S as it was
    std::vector<bool> taken_;

    std::vector<std::int64_t> open_, steps_;  // candidates of this panel, pivots taken in it
    std::vector<std::int64_t> place_;         // [n]: of an open candidate in open_
    at::Tensor open_s_, open_t_;              // [open, open] when the panel began
    at::Tensor panel_u_, panel_v_;            // [panel, open]
};

/// The candidates of 0 to size - 1 with the highest scores, at most Pivoting::most_open, ascending. score(k) -> optional<double>; those
/// without one are left out.
std::vector<std::int64_t> foremost(std::size_t size, const auto& score) {
    std::vector<std::pair<double, std::int64_t>> scored;
    for (std::size_t k = 0; k < size; ++k)
        if (const std::optional<double> s = score(k)) scored.emplace_back(-*s, static_cast<std::int64_t>(k));
    const std::size_t count = std::min(scored.size(), static_cast<std::size_t>(Pivoting::most_open));
    std::ranges::partial_sort(scored, scored.begin() + static_cast<std::ptrdiff_t>(count));
    std::vector<std::int64_t> best;
    for (std::size_t i = 0; i < count; ++i) best.push_back(scored[i].second);
    std::ranges::sort(best);
    return best;
}

}  // namespace mixwright::merge
