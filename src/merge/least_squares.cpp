#include "merge/least_squares.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "error.h"
#include "ops/product.h"

namespace mixwright::merge {
namespace {

constexpr std::array strengths{10.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6};
constexpr double unchosen_strength = 1e-2;  // when nothing was held out to choose it by

at::Tensor indices(std::span<const std::int64_t> values) {
    return at::tensor(at::ArrayRef<std::int64_t>(values.data(), values.size()), at::kLong);
}

constexpr double infinite = std::numeric_limits<double>::infinity();

at::Tensor prior_or_zeros(const at::Tensor& prior, const NormalEquations& equations) {
    return prior.defined() ? prior.to(at::kDouble) : at::zeros_like(equations.cross());
}

}  // namespace

NormalEquations::NormalEquations(std::int64_t features, std::int64_t outputs)
    : gram_(at::zeros({features, features}, at::kDouble)), cross_(at::zeros({features, outputs}, at::kDouble)) {}

void NormalEquations::add(const at::Tensor& a, const at::Tensor& y) {
    // Products of a chunk in the data's precision (f32 at least), sums over chunks in f64. Of the Gram matrix blocks on and above the
    // diagonal are computed: half the work, and no second matrix of its size.
    constexpr std::int64_t chunk = 4096, block = 1024;
    for (std::int64_t begin = 0; begin < a.size(0); begin += chunk) {
        const std::int64_t count = std::min(chunk, a.size(0) - begin);
        const auto part = [&](const at::Tensor& t) {
            const at::Tensor rows = t.narrow(0, begin, count);
            return rows.scalar_type() == at::kDouble ? rows : rows.to(at::kFloat);
        };
        const at::Tensor a_part = part(a), y_part = part(y), transposed = a_part.t();
        const auto size = [&](std::int64_t first) { return std::min(block, features() - first); };
        for (std::int64_t i = 0; i < features(); i += block)
            for (std::int64_t j = i; j < features(); j += block) {
                const at::Tensor product = ops::matrix_product(transposed.narrow(0, i, size(i)), a_part.narrow(1, j, size(j))).to(at::kCPU, at::kDouble);
                gram_.narrow(0, i, size(i)).narrow(1, j, size(j)).add_(product);
                if (i != j) gram_.narrow(0, j, size(j)).narrow(1, i, size(i)).add_(product.t());
            }
        cross_.add_(ops::matrix_product(transposed, y_part).to(at::kCPU, at::kDouble));
        energy_ += y_part.to(at::kDouble).square().sum().item<double>();
    }
    rows_ += a.size(0);
    if (!std::isfinite(energy_) || !std::isfinite(gram_.trace().item<double>()))
        throw Error(ErrorCode::failed, "activations or outputs of the calibration text are not finite",
                    "compute in another type (--dtype float32 or bfloat16), or check the weights: mixwright inspect MODEL --verify");
}

void NormalEquations::add(const NormalEquations& other) {
    gram_ = gram_ + other.gram_;
    cross_ = cross_ + other.cross_;
    energy_ += other.energy_;
    rows_ += other.rows_;
}

double NormalEquations::explained(const at::Tensor& x) const {
    const at::Tensor x64 = x.to(at::kDouble);
    return (x64 * (2 * cross_ - at::mm(gram_, x64))).sum().item<double>();
}

double NormalEquations::squared_error(const at::Tensor& x) const { return std::max(0.0, energy_ - explained(x)); }

double NormalEquations::relative_error(const at::Tensor& x) const { return energy_ > 0 ? squared_error(x) / energy_ : 0; }

NormalEquations NormalEquations::of(std::span<const std::int64_t> features) const {
    const at::Tensor index = indices(features);
    NormalEquations some(0, 0);
    some.gram_ = gram_.index_select(0, index).index_select(1, index);
    some.cross_ = cross_.index_select(0, index);
    some.energy_ = energy_;
    some.rows_ = rows_;
    return some;
}

NormalEquations NormalEquations::mixed(const at::Tensor& mix) const {
    NormalEquations others = *this;
    others.cross_ = at::mm(cross_, mix);
    others.energy_ = 0;
    return others;
}

NormalEquations NormalEquations::pulled_to(const at::Tensor& prior, double lambda) const& {
    NormalEquations copy = *this;
    copy.gram_ = gram_.clone();
    return std::move(copy).pulled_to(prior, lambda);
}

NormalEquations NormalEquations::pulled_to(const at::Tensor& prior, double lambda) && {
    const double mean = features() > 0 ? gram_.diagonal().mean().item<double>() : 0;
    const double strength = mean > 0 ? lambda * mean : 1.0;
    NormalEquations pulled = std::move(*this);
    if (pulled.gram_.use_count() > 1) pulled.gram_ = pulled.gram_.clone();  // a copy of these equations still wants it as it is
    pulled.gram_.diagonal().add_(strength);
    if (prior.defined()) {
        const at::Tensor prior64 = prior.to(at::kDouble);
        pulled.cross_ = pulled.cross_ + strength * prior64;
        pulled.energy_ += strength * prior64.square().sum().item<double>();
    }
    return pulled;
}

at::Tensor jittered_cholesky(const at::Tensor& a) {
    const double mean = std::max(a.diagonal().mean().item<double>(), std::numeric_limits<double>::min());
    double jitter = 0;
    for (int attempt = 0; attempt < 12; ++attempt) {
        at::Tensor shifted = a;
        if (jitter > 0) {
            shifted = a.clone();
            shifted.diagonal().add_(jitter * mean);
        }
        const auto [factor, failed] = at::linalg_cholesky_ex(shifted);
        if (failed.item<int>() == 0 && std::isfinite(factor.diagonal().sum().item<double>())) return factor;
        jitter = jitter > 0 ? 10 * jitter : 1e-12;
    }
    throw Error(ErrorCode::failed, "the Gram matrix of the activations is indefinite", "give more calibration text (--tokens)");
}

at::Tensor solve(const NormalEquations& equations) {
    if (equations.features() == 0) return equations.cross().clone();
    return at::cholesky_solve(equations.cross(), jittered_cholesky(equations.gram()));
}

std::span<const double> ridge_strengths() { return strengths; }

void try_ridges(const RidgeSearch& search, const std::function<bool(double)>& better) {
    if (search.near > 0) {
        auto at = std::ranges::find_if(strengths, [&](double lambda) { return lambda <= search.near; });
        if (at == strengths.end()) --at;
        better(*at);
        auto weaker = at + 1;
        while (weaker != strengths.end() && *weaker >= search.weakest && better(*weaker)) ++weaker;
        if (weaker == at + 1)
            while (at != strengths.begin() && better(*--at)) {}
        return;
    }
    bool improved = false;
    for (int misses = 0; const double lambda : strengths) {
        if (lambda < search.weakest || misses == 2) break;
        if (better(lambda))
            improved = true, misses = 0;
        else if (improved)
            ++misses;
    }
}

namespace {

// The strength that does best on held-out rows; infinite if that is `start` itself. Of many outputs a few random mixtures say as well which it is
// (Johnson and Lindenstrauss: squared errors keep their order), and the time goes into outputs.
double choose_ridge(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& start, const RidgeSearch& search) {
    constexpr std::int64_t mixtures = 64;
    const bool many = fit.outputs() > 2 * mixtures;
    const at::Tensor mix = many ? at::randn({fit.outputs(), mixtures}, at::detail::createCPUGenerator(0), at::TensorOptions(at::kDouble)) : at::Tensor();
    const NormalEquations fitting = many ? fit.mixed(mix) : fit, judging = many ? held_out.mixed(mix) : held_out;
    const at::Tensor from = many ? at::mm(start, mix) : start;
    double best = infinite, most = judging.explained(from);
    try_ridges(search, [&](double lambda) {
        const double explained = judging.explained(solve(fitting.pulled_to(from, lambda)));
        if (!(explained > most)) return false;
        best = lambda, most = explained;
        return true;
    });
    return best;
}

}  // namespace

RidgeFit fit_ridge(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& prior, HeldOut then, const RidgeSearch& search) {
    NormalEquations rows = fit;
    if (then == HeldOut::join) rows.add(held_out);
    RidgeFit best{.lambda = unchosen_strength, .held_out_error = std::numeric_limits<double>::quiet_NaN()};
    if (held_out.rows() > 0 && held_out.energy() > 0) {
        best.solution = prior_or_zeros(prior, fit);
        best.held_out_error = held_out.relative_error(best.solution);
        best.lambda = choose_ridge(fit, held_out, best.solution, search);
        if (!std::isinf(best.lambda)) {
            const at::Tensor solution = solve(fit.pulled_to(best.solution, best.lambda));
            const double error = held_out.relative_error(solution);
            if (error < best.held_out_error)
                best.solution = solution, best.held_out_error = error;
            else
                best.lambda = infinite;
        }
    }
    const bool as_fitted = std::isinf(best.lambda) || (best.solution.defined() && then == HeldOut::stay);
    if (!as_fitted) best.solution = solve(rows.pulled_to(prior, best.lambda));
    best.error = rows.relative_error(best.solution);
    return best;
}

}  // namespace mixwright::merge
