#include "merge/neuron_selection.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"

namespace mixwright::merge {
namespace {

constexpr double selection_ridge = 1e-3;  // of the mean diagonal, while choosing; the refit chooses its own
constexpr std::int64_t panel = 48;        // steps between two updates of the full matrices
constexpr double dependent = 1e-9;        // a pivot below this share of its start is a combination of earlier ones

// Both directions are one recursion on two symmetric matrices S and T. Taking pivot k,
//     S -= s s^T / S_kk,   T -= (s t^T + t s^T) / S_kk - s s^T T_kk / S_kk^2,   s = S_:k, t = T_:k,
// and T_kk / S_kk is what the step is worth.
// Forward:  S = residual Gram matrix, T = M M^T with M the residual cross product; worth: the error explained.
// Backward: S = inverse Gram matrix, T = X X^T with X the least-squares maps; worth: the error caused.
// As in a blocked Cholesky the updates u u^T and u v^T + v u^T of a panel of steps wait and are then applied at once.
class Pivoting {
public:
    Pivoting(at::Tensor s, at::Tensor t)
        : s_(std::move(s)), t_(std::move(t)), size_(s_.size(0)), u_(at::zeros({panel, size_}, at::kDouble)), v_(at::zeros_like(u_)) {
        const at::Tensor ds = s_.diagonal().contiguous(), dt = t_.diagonal().contiguous();
        s_diagonal_.assign(ds.const_data_ptr<double>(), ds.const_data_ptr<double>() + size_);
        t_diagonal_.assign(dt.const_data_ptr<double>(), dt.const_data_ptr<double>() + size_);
        s_start_ = s_diagonal_;
        taken_.assign(static_cast<std::size_t>(size_), false);
    }

    double worth(std::size_t k) const { return std::max(0.0, t_diagonal_[k]) / s_diagonal_[k]; }
    bool usable(std::size_t k) const { return !taken_[k] && s_diagonal_[k] > dependent * s_start_[k] && s_diagonal_[k] > 0; }
    bool taken(std::size_t k) const { return taken_[k]; }
    void leave(std::size_t k) { taken_[k] = true; }

    void take(std::size_t pivot) {
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

private:
    void apply() {
        s_.addmm_(u_.t(), u_, 1, -1);
        t_.addmm_(u_.t(), v_, 1, -1);
        t_.addmm_(v_.t(), u_, 1, -1);
        waiting_ = 0;
    }

    at::Tensor s_, t_;  // [n, n], as of the last panel
    std::int64_t size_, waiting_ = 0;
    at::Tensor u_, v_;  // [panel, n]
    std::vector<double> s_diagonal_, t_diagonal_, s_start_;
    std::vector<bool> taken_;
};

std::vector<std::int64_t> indices_where(std::int64_t size, const auto& keep) {
    std::vector<std::int64_t> kept;
    for (std::int64_t k = 0; k < size; ++k)
        if (keep(static_cast<std::size_t>(k))) kept.push_back(k);
    return kept;
}

Selection forward(const NormalEquations& equations, std::int64_t count) {
    Pivoting pivoting(equations.gram().clone(), at::mm(equations.cross(), equations.cross().t()));
    const std::int64_t size = equations.features();
    Selection selection;
    selection.errors.push_back(equations.energy());
    std::vector<bool> chosen(static_cast<std::size_t>(size), false);
    const auto record = [&](std::size_t k, double gain) {
        chosen[k] = true;
        selection.order.push_back(static_cast<std::int64_t>(k));
        selection.errors.push_back(std::max(0.0, selection.errors.back() - gain));
    };
    while (std::ssize(selection.order) < count) {
        std::size_t best = 0;
        double worth = -1;
        for (std::size_t k = 0; k < chosen.size(); ++k)
            if (pivoting.usable(k) && pivoting.worth(k) > worth) best = k, worth = pivoting.worth(k);
        if (worth < 0) break;  // the rest are combinations of the chosen
        pivoting.take(best);
        record(best, worth);
    }
    for (std::size_t k = 0; k < chosen.size() && std::ssize(selection.order) < count; ++k)
        if (!chosen[k]) record(k, 0);
    selection.kept = indices_where(size, [&](std::size_t k) { return static_cast<bool>(chosen[k]); });
    return selection;
}

Selection backward(const NormalEquations& equations, std::int64_t count) {
    const at::Tensor factor = jittered_cholesky(equations.gram());
    const at::Tensor maps = at::cholesky_solve(equations.cross(), factor);
    Pivoting pivoting(at::cholesky_inverse(factor), at::mm(maps, maps.t()));
    const std::int64_t size = equations.features();
    Selection selection;
    selection.errors.push_back(equations.squared_error(maps));
    for (std::int64_t left = size; left > count; --left) {
        std::size_t best = 0;
        double worth = std::numeric_limits<double>::infinity();
        for (std::size_t k = 0; k < static_cast<std::size_t>(size); ++k)
            if (!pivoting.taken(k) && pivoting.worth(k) < worth) best = k, worth = pivoting.worth(k);
        pivoting.take(best);
        selection.order.push_back(static_cast<std::int64_t>(best));
        selection.errors.push_back(selection.errors.back() + worth);
    }
    selection.kept = indices_where(size, [&](std::size_t k) { return !pivoting.taken(k); });
    return selection;
}

at::Tensor prior_of(const at::Tensor& down) { return down.defined() ? down.t() : at::Tensor(); }

}  // namespace

Selection select_neurons(const NormalEquations& equations, std::int64_t count, Greedy greedy) {
    const std::int64_t size = equations.features();
    if (count < 0 || count > size) throw Error(ErrorCode::usage, fmt::format("cannot keep {} of {} neurons", count, size));
    if (greedy == Greedy::automatic) greedy = count > size / 2 ? Greedy::backward : Greedy::forward;
    return greedy == Greedy::forward ? forward(equations, count) : backward(equations, count);
}

std::vector<std::int64_t> largest(const at::Tensor& scores, std::int64_t count) {
    const at::Tensor order = std::get<1>(scores.sort(/*stable=*/true, 0, /*descending=*/true)).narrow(0, 0, count).to(at::kCPU).contiguous();
    std::vector<std::int64_t> kept(order.const_data_ptr<std::int64_t>(), order.const_data_ptr<std::int64_t>() + count);
    std::ranges::sort(kept);
    return kept;
}

at::Tensor output_energy(const at::Tensor& gram_diagonal, const at::Tensor& down) {
    return gram_diagonal.to(at::kDouble) * down.to(at::kDouble).square().sum(0);
}

RefitNeurons refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::vector<std::int64_t> kept) {
    const NormalEquations fit_kept = fit.of(kept), held_out_kept = held_out.of(kept);
    at::Tensor prior;
    if (down.defined()) prior = prior_of(down).index_select(0, at::tensor(kept, at::kLong));
    const RidgeFit ridge = fit_ridge(fit_kept, held_out_kept, prior);
    RefitNeurons result{.kept = std::move(kept),
                        .down = ridge.solution.t().contiguous(),
                        .lambda = ridge.lambda,
                        .error = ridge.error,
                        .held_out_error = ridge.held_out_error,
                        .unfitted_error = 1};
    if (prior.defined()) {
        NormalEquations both = fit_kept;
        both.add(held_out_kept);
        result.unfitted_error = both.relative_error(prior);
    }
    return result;
}

RefitNeurons select_and_refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::int64_t count,
                              Greedy greedy) {
    NormalEquations both = fit;
    both.add(held_out);
    Selection selection = select_neurons(both.pulled_to(prior_of(down), selection_ridge), count, greedy);
    return refit(fit, held_out, down, std::move(selection.kept));
}

}  // namespace mixwright::merge
