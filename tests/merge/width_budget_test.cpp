#include "merge/width_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace mixwright::merge {
namespace {

WidthCurve curve_of(double scale, double decay, std::int64_t most = 16) {
    WidthCurve curve{.least = 2, .most = most, .cost = 3};
    for (std::int64_t k = 0; k <= most; ++k) curve.errors.push_back(scale * std::exp(-decay * static_cast<double>(k)));
    return curve;
}

double error_of(const std::vector<WidthCurve>& curves, const std::vector<std::int64_t>& widths) {
    double sum = 0;
    for (std::size_t c = 0; c < curves.size(); ++c) sum += curves[c].errors[static_cast<std::size_t>(widths[c])];
    return sum;
}

TEST(WidthBudget, finds_the_best_split_of_convex_curves) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> scale(0.1, 10), decay(0.05, 0.6);
    for (int trial = 0; trial < 40; ++trial) {
        const std::vector<WidthCurve> curves{curve_of(scale(random), decay(random)), curve_of(scale(random), decay(random)), curve_of(scale(random), decay(random))};
        constexpr std::int64_t block = 2, blocks = 9;
        const WidthBudget shared = share_width_budget(curves, block, 3.0 * block * blocks);
        double best = std::numeric_limits<double>::infinity();
        for (std::int64_t a = 0; a <= 7; ++a)
            for (std::int64_t b = 0; b <= 7; ++b)
                if (const std::int64_t c = blocks - a - b; c >= 0 && c <= 7) best = std::min(best, error_of(curves, {2 + a * block, 2 + b * block, 2 + c * block}));
        EXPECT_NEAR(error_of(curves, shared.widths), best, 1e-12);
    }
}

TEST(WidthBudget, never_spends_more_than_there_is) {
    const std::vector<WidthCurve> curves{curve_of(1, 0.2), curve_of(3, 0.1)};
    for (double budget = 0; budget < 100; budget += 7) {
        const auto widths = share_width_budget(curves, 4, budget).widths;
        EXPECT_LE(3.0 * static_cast<double>(widths[0] + widths[1] - 4), budget);
    }
    EXPECT_EQ(share_width_budget(curves, 4, 1e9).widths, (std::vector<std::int64_t>{14, 14})) << "whole blocks from the least width";
    EXPECT_EQ(share_width_budget(curves, 4, 1e9).price, 0);
}

TEST(WidthBudget, a_dear_first_step_does_not_hide_what_comes_behind_it) {
    WidthCurve late{.errors = {10, 10, 10, 0}, .least = 0, .most = 3, .cost = 1};
    WidthCurve even{.errors = {3, 2, 1, 0}, .least = 0, .most = 3, .cost = 1};
    EXPECT_EQ(share_width_budget({late, even}, 1, 3).widths, (std::vector<std::int64_t>{3, 0}));
}

TEST(WidthBudget, tells_the_price_of_the_first_block_that_was_too_much) {
    const std::vector<WidthCurve> curves{{.errors = {9, 5, 3, 2}, .least = 0, .most = 3, .cost = 2}};
    EXPECT_EQ(share_width_budget(curves, 1, 4).price, 0.5);
}

}  // namespace
}  // namespace mixwright::merge
