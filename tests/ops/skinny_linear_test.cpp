#include "ops/skinny_linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

namespace mixwright::ops {
namespace {

at::Tensor random(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) { return at::randn(sizes).to(dtype); }

double worst(const at::Tensor& a, const at::Tensor& b) { return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>(); }

class SkinnyLinear : public testing::Test {
protected:
    void SetUp() override { at::manual_seed(1); }
    c10::InferenceMode guard_;
};

TEST_F(SkinnyLinear, EqualsLinearForOddSizes) {
    for (const std::int64_t cols : {7, 64, 577})
        for (const std::int64_t out : {1, 5, 130})
            for (const std::int64_t rows : {1, 2, 3, 8, 16}) {
                const Linear linear{random({out, cols}), random({out})};
                const at::Tensor x = random({rows, cols});
                const Linear* const self = &linear;
                ASSERT_TRUE(skinny_applies({&self, 1}, x));
                EXPECT_LT(worst(linear(x), at::linear(x, linear.weight, linear.bias)), 1e-4) << rows << " x " << cols << " -> " << out;
            }
}

TEST_F(SkinnyLinear, RoundsABf16ResultOnce) {
    const Linear linear{random({40, 200}, at::kBFloat16), random({40}, at::kBFloat16)};
    const at::Tensor x = random({2, 3, 200}, at::kBFloat16);
    const at::Tensor truth = at::linear(x.to(at::kFloat), linear.weight.to(at::kFloat), linear.bias.to(at::kFloat));
    const at::Tensor y = linear(x);
    EXPECT_EQ(y.sizes(), truth.sizes());
    EXPECT_LT(((y.to(at::kFloat) - truth) / (truth.abs() + 1)).abs().max().item<double>(), 1.0 / 256);
}

TEST_F(SkinnyLinear, ProjectsThreeMapsOfOneInput) {
    const Linear a{random({30, 64})}, b{random({10, 64})}, c{random({10, 64}), random({10})};
    const at::Tensor x = random({1, 2, 64});
    const auto projected = project(a, b, c, x);
    EXPECT_LT(worst(projected[0], at::linear(x, a.weight)), 1e-4);
    EXPECT_LT(worst(projected[1], at::linear(x, b.weight)), 1e-4);
    EXPECT_LT(worst(projected[2], at::linear(x, c.weight, c.bias)), 1e-4);
}

TEST_F(SkinnyLinear, LeavesTrainingAndManyRowsToLibtorch) {
    const Linear linear{random({8, 16})};
    const Linear* const self = &linear;
    EXPECT_FALSE(skinny_applies({&self, 1}, random({max_skinny_rows + 1, 16})));
    const c10::InferenceMode training(false);
    EXPECT_FALSE(skinny_applies({&self, 1}, random({1, 16})));
}

TEST_F(SkinnyLinear, LowRankUpdatesStillCount) {
    const Linear linear{random({8, 16}), {}, random({2, 16}), random({8, 2}), 0.5};
    const at::Tensor x = random({1, 16});
    const at::Tensor expected = at::linear(x, linear.weight) + at::linear(at::linear(x, linear.lora_a), linear.lora_b) * 0.5;
    EXPECT_LT(worst(linear(x), expected), 1e-5);
}

}  // namespace
}  // namespace mixwright::ops
