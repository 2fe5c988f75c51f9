#include "merge/pivoting.h"

#include <ATen/ATen.h>

#include <cmath>

namespace mixwright::merge {
namespace {

at::Tensor indices(const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong); }

std::vector<double> values_of(const at::Tensor& vector) {
    const at::Tensor dense = vector.contiguous();
    return {dense.const_data_ptr<double>(), dense.const_data_ptr<double>() + dense.numel()};
}

}  // namespace

Pivoting::Pivoting(at::Tensor s, at::Tensor x)
    : s_(std::move(s)), x_(std::move(x)), u_(at::empty({0, s_.size(0)}, at::kDouble)), size_(s_.size(0)), diagonal_(values_of(s_.diagonal())),
      energies_(values_of(x_.square().sum(1))), start_(diagonal_), taken_(static_cast<std::size_t>(size_), false), place_(static_cast<std::size_t>(size_), -1) {}

at::Tensor Pivoting::eliminated() const { return u_.narrow(0, 0, rows_); }

void Pivoting::open(std::vector<std::int64_t> candidates) {
    open_ = std::move(candidates);
    steps_.clear();
    for (std::size_t i = 0; i < open_.size(); ++i) place_[static_cast<std::size_t>(open_[i])] = static_cast<std::int64_t>(i);
    const at::Tensor index = indices(open_), u = eliminated().index_select(1, index), x = x_.index_select(0, index);
    open_s_ = s_.index_select(0, index).index_select(1, index).addmm_(u.t(), u, 1, -1);
    open_t_ = at::mm(x, x.t());
    panel_u_ = at::zeros({panel, std::ssize(open_)}, at::kDouble);
    panel_v_ = at::zeros_like(panel_u_);
}

// In the panel T = X X^T takes the place of X: T -= u v^T + v u^T, v = (t - s T_kk / (2 S_kk)) / sqrt(S_kk).
void Pivoting::take(std::size_t k) {
    const std::int64_t place = place_[k], step = std::ssize(steps_);
    at::Tensor s = open_s_.select(0, place).clone(), t = open_t_.select(0, place).clone();
    if (step > 0) {
        const at::Tensor u = panel_u_.narrow(0, 0, step), v = panel_v_.narrow(0, 0, step);
        const at::Tensor uk = u.select(1, place), vk = v.select(1, place);
        s.sub_(at::mv(u.t(), uk));
        t.sub_(at::mv(u.t(), vk)).sub_(at::mv(v.t(), uk));
    }
    const double sigma = diagonal_[k], tau = energies_[k], root = std::sqrt(sigma);
    at::Tensor u_row = panel_u_.select(0, step), v_row = panel_v_.select(0, step);
    at::div_out(u_row, s, at::scalar_tensor(root, at::kDouble));
    v_row.copy_(t).div_(root).sub_(s, tau / (2 * sigma * root));
    const double* u = u_row.const_data_ptr<double>();
    const double* v = v_row.const_data_ptr<double>();
    for (std::size_t i = 0; i < open_.size(); ++i) {
        const auto candidate = static_cast<std::size_t>(open_[i]);
        diagonal_[candidate] -= u[i] * u[i];
        energies_[candidate] -= 2 * u[i] * v[i];
    }
    taken_[k] = true;
    steps_.push_back(static_cast<std::int64_t>(k));
}

void Pivoting::close() {
    const std::int64_t count = std::ssize(steps_);
    if (count > 0) eliminate(count);
    for (const std::int64_t k : open_) place_[static_cast<std::size_t>(k)] = -1;
    open_.clear();
    steps_.clear();
}

void Pivoting::eliminate(std::int64_t count) {
    if (rows_ + count > u_.size(0)) u_ = at::cat({eliminated(), at::empty({std::max(8 * panel, rows_ / 2), size_}, at::kDouble)});
    const at::Tensor pivots = indices(steps_), before = eliminated();
    at::Tensor rows = s_.index_select(0, pivots).addmm_(before.index_select(1, pivots).t(), before, 1, -1);
    // The Cholesky factor of the pivots' own block, as the steps found it.
    std::vector<std::int64_t> places;
    for (const std::int64_t k : steps_) places.push_back(place_[static_cast<std::size_t>(k)]);
    const at::Tensor factor = panel_u_.narrow(0, 0, count).index_select(1, indices(places)).t().tril();
    const auto without_pivots = [&](const at::Tensor& right) { return at::linalg_solve_triangular(factor, right, /*upper=*/false); };
    rows = without_pivots(rows);
    u_.narrow(0, rows_, count).copy_(rows);
    rows_ += count;
    x_.addmm_(rows.t(), without_pivots(x_.index_select(0, pivots)), 1, -1);

    const std::vector<double> gone = values_of(rows.square().sum(0));
    energies_ = values_of(x_.square().sum(1));
    for (std::size_t k = 0; k < diagonal_.size(); ++k)
        if (place_[k] < 0) diagonal_[k] -= gone[k];  // the open ones followed step by step
}

}  // namespace mixwright::merge
