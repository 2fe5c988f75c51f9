// The recursion under every greedy choice of neurons: what each candidate is worth once all chosen before it have done their best.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mixwright::merge {

constexpr double selection_ridge = 1e-3;  // of the mean diagonal, while choosing; the refit chooses its own

// Both directions are one recursion on two symmetric matrices S and T. Taking pivot k,
//     S -= s s^T / S_kk,   T -= (s t^T + t s^T) / S_kk - s s^T T_kk / S_kk^2,   s = S_:k, t = T_:k,
// and T_kk / S_kk is what the step is worth.
// Forward:  S = residual Gram matrix, T = M M^T with M the residual cross product; worth: the error explained.
// Backward: S = inverse Gram matrix, T = X X^T with X the least-squares maps; worth: the error caused.
// As in a blocked Cholesky the updates u u^T and u v^T + v u^T of a panel of steps wait and are then applied at once.
class Pivoting {
public:
    /// s and t [n, n] f64; both are overwritten.
    Pivoting(at::Tensor s, at::Tensor t);

    double worth(std::size_t k) const { return std::max(0.0, t_diagonal_[k]) / s_diagonal_[k]; }
    bool usable(std::size_t k) const { return !taken_[k] && s_diagonal_[k] > dependent * s_start_[k] && s_diagonal_[k] > 0; }
    bool taken(std::size_t k) const { return taken_[k]; }
    void take(std::size_t pivot);

private:
    static constexpr double dependent = 1e-9;  // a pivot below this share of its start is a combination of earlier ones

    void apply();

    at::Tensor s_, t_;  // [n, n], as of the last panel
    std::int64_t size_, waiting_ = 0;
    at::Tensor u_, v_;  // [panel, n]
    std::vector<double> s_diagonal_, t_diagonal_, s_start_;
    std::vector<bool> taken_;
};

}  // namespace mixwright::merge
