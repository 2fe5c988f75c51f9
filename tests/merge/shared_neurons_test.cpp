#include "merge/shared_neurons.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace mixwright::merge {
namespace {

constexpr std::int64_t width = 12, outputs = 10, rows = 600;

// Two models whose neurons are `common` parts the same and the rest their own, on tokens of their own.
struct Pair {
    NormalEquations a{2 * width, outputs}, b{2 * width, outputs};

    Pair(std::int64_t common, std::uint64_t seed) {
        at::manual_seed(seed);
        const at::Tensor down_a = at::randn({outputs, width}, at::kDouble), down_b = at::randn({outputs, width}, at::kDouble);
        const auto fill = [&](NormalEquations& equations, const at::Tensor& down, bool first) {
            const at::Tensor z = at::randn({rows, 2 * width}, at::kDouble);
            z.narrow(1, width, common).copy_(z.narrow(1, 0, common));
            equations.add(z, at::mm(z.narrow(1, first ? 0 : width, width), down.t()));
        };
        fill(a, down_a, true);
        fill(b, down_b, false);
    }
};

TEST(SharedNeurons, twins_share_what_they_have_in_common) {
    const Pair pair(12, 1);
    const auto shared = shared_neurons(pair.a, pair.b, width, 1e-3 * pair.a.energy(), width);
    ASSERT_EQ(shared.size(), 12u);
    std::vector<bool> seen(width, false);
    for (const std::int64_t k : shared) {
        EXPECT_FALSE(seen[static_cast<std::size_t>(k % width)]) << "one of two equal neurons is enough";
        seen[static_cast<std::size_t>(k % width)] = true;
    }
}

TEST(SharedNeurons, half_twins_share_no_more_than_that) {
    const Pair pair(6, 2);
    for (const std::int64_t k : shared_neurons(pair.a, pair.b, width, 1e-3 * pair.a.energy(), width)) EXPECT_LT(k % width, 6);
}

TEST(SharedNeurons, strangers_share_nothing) {
    const Pair pair(0, 3);
    EXPECT_TRUE(shared_neurons(pair.a, pair.b, width, 1e-3 * pair.a.energy(), width).empty());
    EXPECT_TRUE(shared_neurons(pair.a, pair.b, width, 1e-9 * pair.a.energy(), width).empty()) << "a column that means nothing seems to gain a little; that does not count";
}

TEST(SharedNeurons, what_costs_too_much_is_left) {
    const Pair pair(12, 4);
    EXPECT_TRUE(shared_neurons(pair.a, pair.b, width, std::numeric_limits<double>::infinity(), width).empty());
}

TEST(SharedNeurons, nobody_gets_wider_than_allowed) {
    const Pair pair(12, 5);
    EXPECT_LE(shared_neurons(pair.a, pair.b, width, 1e-3 * pair.a.energy(), 5).size(), 5u);
}

}  // namespace
}  // namespace mixwright::merge
