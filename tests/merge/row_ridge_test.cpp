#include "merge/row_ridge.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "error.h"

namespace mixwright::merge {
namespace {

constexpr std::int64_t features = 40, outputs = 5;

struct Problem {
    Rows fit, held_out;
    at::Tensor prior;
};

// More features than rows, outputs made by a map near the prior, and noise.
Problem make_problem(std::int64_t rows) {
    at::manual_seed(7);
    const at::Tensor prior = at::randn({features, outputs}, at::kDouble), truth = prior + 0.3 * at::randn({features, outputs}, at::kDouble);
    const auto some = [&](std::int64_t n) {
        const at::Tensor a = at::randn({n, features}, at::kDouble);
        return Rows{a, at::mm(a, truth) + 0.1 * at::randn({n, outputs}, at::kDouble)};
    };
    return {some(rows), some(15), prior};
}

NormalEquations equations(const Rows& rows) {
    NormalEquations result(features, outputs);
    result.add(rows.a, rows.y);
    return result;
}

TEST(RowRidge, finds_the_map_of_the_normal_equations) {
    for (const std::int64_t rows : {12, 30}) {
        const Problem p = make_problem(rows);
        const RidgeFit by_rows = fit_ridge_by_rows(p.fit, p.held_out, p.prior), expected = fit_ridge(equations(p.fit), equations(p.held_out), p.prior, HeldOut::stay, {.weakest = 1e-6});
        EXPECT_EQ(by_rows.lambda, expected.lambda) << rows;
        EXPECT_LT((by_rows.solution - expected.solution).abs().max().item<double>(), 2e-3) << rows;
        EXPECT_NEAR(by_rows.held_out_error, expected.held_out_error, 1e-4);
        EXPECT_NEAR(by_rows.error, expected.error, 1e-4);
    }
}

TEST(RowRidge, keeps_the_prior_where_the_rows_tell_nothing) {
    Problem p = make_problem(10);
    p.held_out.y = at::mm(p.held_out.a, p.prior);  // the prior is exactly right
    const RidgeFit fit = fit_ridge_by_rows(p.fit, p.held_out, p.prior);
    EXPECT_TRUE(std::isinf(fit.lambda));
    EXPECT_TRUE(fit.solution.equal(p.prior));
}

TEST(RowRidge, refuses_numbers_that_are_none) {
    Problem p = make_problem(10);
    p.fit.a[3][4] = std::nan("");
    EXPECT_THROW(fit_ridge_by_rows(p.fit, p.held_out, p.prior), Error);
}

}  // namespace
}  // namespace mixwright::merge
