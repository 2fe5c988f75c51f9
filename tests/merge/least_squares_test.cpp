#include "merge/least_squares.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "error.h"

namespace mixwright::merge {
namespace {

struct Data {
    at::Tensor a, y;
    NormalEquations equations() const {
        NormalEquations e(a.size(1), y.size(1));
        e.add(a, y);
        return e;
    }
};

Data noisy(std::int64_t rows, std::int64_t features, std::int64_t outputs, double noise, std::uint64_t seed) {
    at::manual_seed(seed);
    const at::Tensor a = at::randn({rows, features}), map = at::randn({features, outputs});
    return {a, at::mm(a, map) + noise * at::randn({rows, outputs})};
}

TEST(LeastSquares, FindsTheMapThatMadeTheData) {
    at::manual_seed(1);
    const at::Tensor a = at::randn({500, 20}), map = at::randn({20, 7});
    const Data data{a, at::mm(a, map)};
    EXPECT_LT((solve(data.equations()) - map).abs().max().item<double>(), 1e-5);
}

TEST(LeastSquares, IsTheSameWhateverTheChunks) {
    const Data data = noisy(9000, 12, 5, 0.3, 2);
    NormalEquations in_parts(12, 5);
    for (const auto& [begin, count] : {std::pair{0, 1}, {1, 4998}, {4999, 4001}}) in_parts.add(data.a.narrow(0, begin, count), data.y.narrow(0, begin, count));
    const NormalEquations whole = data.equations();
    EXPECT_EQ(in_parts.rows(), 9000);
    EXPECT_LT((solve(in_parts) - solve(whole)).abs().max().item<double>(), 1e-5);
    EXPECT_NEAR(in_parts.energy() / whole.energy(), 1, 1e-6);
}

TEST(LeastSquares, ErrorFromTheEquationsIsTheErrorOnTheData) {
    const Data data = noisy(400, 10, 6, 0.5, 3);
    const at::Tensor x = at::randn({10, 6}, at::kDouble);
    const double direct = (data.y.to(at::kDouble) - at::mm(data.a.to(at::kDouble), x)).square().sum().item<double>();
    EXPECT_NEAR(data.equations().squared_error(x) / direct, 1, 1e-5);
}

TEST(LeastSquares, NoMapDoesBetterOnTheData) {
    const Data data = noisy(300, 15, 4, 1.0, 4);
    const NormalEquations equations = data.equations();
    const at::Tensor best = solve(equations);
    for (int trial = 0; trial < 20; ++trial)
        EXPECT_LE(equations.squared_error(best), equations.squared_error(best + 0.01 * at::randn({15, 4}, at::kDouble)));
}

TEST(LeastSquares, APullToAPriorNeverMakesItWorseThanThePrior) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        const Data data = noisy(8, 20, 3, 1.0, seed);  // fewer rows than features: singular
        const NormalEquations equations = data.equations();
        const at::Tensor prior = at::randn({20, 3}, at::kDouble);
        for (const double lambda : ridge_strengths())
            EXPECT_LE(equations.squared_error(solve(equations.pulled_to(prior, lambda))), equations.squared_error(prior) * (1 + 1e-9));
    }
}

TEST(LeastSquares, AStrongPullGivesThePriorAndAWeakOneThePlainFit) {
    const Data data = noisy(200, 8, 3, 0.5, 6);
    const NormalEquations equations = data.equations();
    const at::Tensor prior = at::randn({8, 3}, at::kDouble);
    EXPECT_LT((solve(equations.pulled_to(prior, 1e9)) - prior).abs().max().item<double>(), 1e-6);
    EXPECT_LT((solve(equations.pulled_to(prior, 1e-12)) - solve(equations)).abs().max().item<double>(), 1e-6);
}

TEST(LeastSquares, SingularSystemsAreSolved) {
    at::manual_seed(7);
    const at::Tensor half = at::randn({100, 5});
    const Data data{at::cat({half, half}, 1), at::randn({100, 2})};  // every feature twice
    const at::Tensor x = solve(data.equations());
    EXPECT_TRUE(x.isfinite().all().item<bool>());
    NormalEquations once(5, 2);
    once.add(half, data.y);
    EXPECT_NEAR(data.equations().squared_error(x), once.squared_error(solve(once)), 1e-3);
}

TEST(LeastSquares, HeldOutRowsChooseTheRidge) {
    const Data data = noisy(60, 50, 10, 4.0, 8), test = noisy(2000, 50, 10, 4.0, 8);
    Data fit{data.a.narrow(0, 0, 48), data.y.narrow(0, 0, 48)}, held_out{data.a.narrow(0, 48, 12), data.y.narrow(0, 48, 12)};
    const RidgeFit ridge = fit_ridge(fit.equations(), held_out.equations());
    EXPECT_GT(ridge.lambda, 1e-6);
    EXPECT_LE(ridge.held_out_error, 1.0);  // zero is the prior, and a candidate
    EXPECT_LE(ridge.error, 1.0);
}

TEST(LeastSquares, FromWhereverTheSearchBeginsItFindsTheSameRidge) {
    const Data data = noisy(120, 50, 10, 4.0, 8);
    Data fit{data.a.narrow(0, 0, 96), data.y.narrow(0, 0, 96)}, held_out{data.a.narrow(0, 96, 24), data.y.narrow(0, 96, 24)};
    const double best = fit_ridge(fit.equations(), held_out.equations()).lambda;
    EXPECT_LT(best, ridge_strengths().front());
    for (const double near : ridge_strengths()) EXPECT_EQ(fit_ridge(fit.equations(), held_out.equations(), {}, HeldOut::join, {.near = near}).lambda, best) << near;

    int tried = 0;
    try_ridges({.near = 1e-2}, [&](double lambda) {
        ++tried;
        return lambda == 1e-2;
    });
    EXPECT_EQ(tried, 3);  // the best one and its neighbours
}

TEST(LeastSquares, WithoutDataThePriorStays) {
    const NormalEquations nothing(6, 3);
    const at::Tensor prior = at::randn({6, 3}, at::kDouble);
    const RidgeFit ridge = fit_ridge(nothing, nothing, prior);
    EXPECT_LT((ridge.solution - prior).abs().max().item<double>(), 1e-12);
    EXPECT_EQ(ridge.error, 0);
    EXPECT_TRUE(std::isnan(ridge.held_out_error));
}

TEST(LeastSquares, RefusesWhatIsNotFinite) {
    NormalEquations equations(2, 1);
    at::Tensor a = at::ones({3, 2});
    a[1][0] = std::nan("");
    EXPECT_THROW(equations.add(a, at::ones({3, 1})), Error);
}

}  // namespace
}  // namespace mixwright::merge
