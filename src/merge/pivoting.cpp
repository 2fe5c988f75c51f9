#include "merge/pivoting.h"

#include <ATen/ATen.h>

#include <cmath>

namespace mixwright::merge {
namespace {

constexpr std::int64_t panel = 48;  // steps between two updates of the full matrices

}  // namespace

Pivoting::Pivoting(at::Tensor s, at::Tensor t)
    : s_(std::move(s)), t_(std::move(t)), size_(s_.size(0)), u_(at::zeros({panel, size_}, at::kDouble)), v_(at::zeros_like(u_)) {
    const at::Tensor ds = s_.diagonal().contiguous(), dt = t_.diagonal().contiguous();
    s_diagonal_.assign(ds.const_data_ptr<double>(), ds.const_data_ptr<double>() + size_);
    t_diagonal_.assign(dt.const_data_ptr<double>(), dt.const_data_ptr<double>() + size_);
    s_start_ = s_diagonal_;
    taken_.assign(static_cast<std::size_t>(size_), false);
}

void Pivoting::take(std::size_t pivot) {
    const auto k = static_cast<std::int64_t>(pivot);
    at::Tensor s = s_.select(0, k).clone(), t = t_.select(0, k).clone();
    if (waiting_ > 0) {
        const at::Tensor u = u_.narrow(0, 0, waiting_), v = v_.narrow(0, 0, waiting_);
        const at::Tensor uk = u.select(1, k), vk = v.select(1, k);
        s.sub_(at::mv(u.t(), uk));
        t.sub_(at::mv(u.t(), vk)).sub_(at::mv(v.t(), uk));
    }
    const double sigma = s_diagonal_[pivot], tau = t_diagonal_[pivot], root = std::sqrt(sigma);
    at::Tensor u_row = u_.select(0, waiting_), v_row = v_.select(0, waiting_);
    at::div_out(u_row, s, at::scalar_tensor(root, at::kDouble));
    v_row.copy_(t).div_(root).sub_(s, tau / (2 * sigma * root));
    const double* u = u_row.const_data_ptr<double>();
    const double* v = v_row.const_data_ptr<double>();
    for (std::size_t i = 0; i < s_diagonal_.size(); ++i) {
        s_diagonal_[i] -= u[i] * u[i];
        t_diagonal_[i] -= 2 * u[i] * v[i];
    }
    taken_[pivot] = true;
    if (++waiting_ == panel) apply();
}

void Pivoting::apply() {
    s_.addmm_(u_.t(), u_, 1, -1);
    t_.addmm_(u_.t(), v_, 1, -1);
    t_.addmm_(v_.t(), u_, 1, -1);
    waiting_ = 0;
}

}  // namespace mixwright::merge
