#include "merge/row_ridge.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "error.h"
#include "ops/product.h"

namespace mixwright::merge {
namespace {

// Accurate enough for the ridges that are tried: below that share of the mean diagonal the products' own rounding rules.
constexpr double weakest = 1e-6;

double energy(const at::Tensor& x) { return x.square().sum().item<double>(); }

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

// With x = prior + a^T z the penalised problem is (a a^T + strength I) z = y - a prior.
RidgeFit fit_ridge_by_rows(const Rows& fit, const Rows& held_out, const at::Tensor& prior, double near) {
    const at::Tensor a = fit.a.to(at::kFloat), held_a = held_out.a.to(at::kFloat), start = prior.to(at::kFloat);
    const at::Tensor left = (fit.y.to(at::kFloat) - ops::matrix_product(a, start)).to(at::kDouble), held_left = (held_out.y.to(at::kFloat) - ops::matrix_product(held_a, start)).to(at::kDouble);
    const at::Tensor products = ops::matrix_product(a, a.t()).to(at::kDouble), held_products = ops::matrix_product(held_a, a.t()).to(at::kDouble);
    const double trace = products.diagonal().sum().item<double>(), whole = energy(fit.y.to(at::kDouble)), held_whole = energy(held_out.y.to(at::kDouble));
    if (!std::isfinite(trace + whole + held_whole)) throw Error(ErrorCode::failed, "activations of the calibration text are no finite numbers", "check the weights: mixwright inspect MODEL --verify");

    RidgeFit best{.solution = prior.to(at::kDouble), .lambda = std::numeric_limits<double>::infinity(), .error = share(energy(left), whole),
                  .held_out_error = share(energy(held_left), held_whole)};
    if (trace <= 0) return best;
    at::Tensor best_z, pulled = at::empty_like(products);
    try_ridges({.weakest = weakest, .near = near}, [&](double lambda) {
        const double strength = lambda * trace / static_cast<double>(a.size(1));
        pulled.copy_(products).diagonal().add_(strength);
        const at::Tensor z = at::cholesky_solve(left, jittered_cholesky(pulled));
        const double held_error = share(energy(held_left - at::mm(held_products, z)), held_whole);
        if (!(held_error < best.held_out_error)) return false;
        best.lambda = lambda;
        best.held_out_error = held_error;
        best.error = share(energy(left - at::mm(products, z)), whole);
        best_z = z;
        return true;
    });
    if (best_z.defined()) best.solution = (start + at::mm(a.t(), best_z.to(at::kFloat))).to(at::kDouble);
    return best;
}

}  // namespace mixwright::merge
