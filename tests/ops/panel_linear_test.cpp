#include "ops/panel_linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <array>

#include "kernels/bf16_dots.h"
#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

at::Tensor panel_linear(const Linear& linear, const at::Tensor& x) {
    const Linear* const self = &linear;
    return panel_linears({&self, 1}, x).front();
}

bool applies(const Linear& linear, const at::Tensor& x) {
    const Linear* const self = &linear;
    return panels_apply({&self, 1}, x);
}

at::Tensor random(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) { return at::randn(sizes).to(dtype); }

class PanelLinear : public testing::Test {
protected:
    void SetUp() override { at::manual_seed(1); }
    c10::InferenceMode guard_;
};

TEST_F(PanelLinear, EqualsLinear) {
    for (const std::int64_t cols : {7, 64, 577})
        for (const std::int64_t out : {1, 5, 300})
            for (const std::int64_t rows : {1, 17, 130}) {
                const Linear linear{random({out, cols}), rows % 2 == 0 ? random({out}) : at::Tensor()};
                const at::Tensor x = random({rows, cols});
                EXPECT_LT((panel_linear(linear, x) - at::linear(x, linear.weight, linear.bias)).abs().max().item<double>(), 1e-4) << rows << " x " << cols << " -> " << out;
            }
}

TEST_F(PanelLinear, RoundsABf16ResultOnce) {
    const Linear linear{random({40, 2000}, at::kBFloat16), random({40}, at::kBFloat16)};
    const at::Tensor x = random({3, 700, 2000}, at::kBFloat16);  // more tokens than pass at a time
    const at::Tensor truth = at::linear(x.to(at::kFloat), linear.weight.to(at::kFloat), linear.bias.to(at::kFloat));
    for (const bool dots : {false, true}) {
        kernels::allow_bf16_dots(dots);
        const at::Tensor y = panel_linear(linear, x);
        EXPECT_EQ(y.sizes(), truth.sizes());
        EXPECT_LT(((y.to(at::kFloat) - truth) / (truth.abs() + 1)).abs().max().item<double>(), 1.0 / 256) << dots;
    }
}

TEST_F(PanelLinear, MapsThatShareAnInputAreWhatTheyAreAlone) {
    const Linear q{random({70, 40}, at::kBFloat16)}, k{random({9, 40}, at::kBFloat16), random({9}, at::kBFloat16)}, v{random({300, 40}, at::kBFloat16)};
    const std::array linears{&q, &k, &v};
    for (const std::int64_t rows : {1, 50, 1500}) {
        const at::Tensor x = random({rows, 40}, at::kBFloat16);
        const std::vector<at::Tensor> together = panel_linears(linears, x);
        for (std::size_t i = 0; i < linears.size(); ++i) EXPECT_TRUE(at::equal(together[i], panel_linear(*linears[i], x))) << rows << ", " << i;
    }
}

TEST_F(PanelLinear, AppliesWhereLibtorchIsNoFaster) {
    const Linear wide{random({8, 16})}, narrow{random({8, 16}, at::kBFloat16)};
    EXPECT_EQ(applies(wide, random({100, 16})), has_faster_panels(at::kFloat));
    EXPECT_EQ(applies(narrow, random({100, 16}, at::kBFloat16)), has_faster_panels(at::kBFloat16));
    const c10::InferenceMode training(false);
    EXPECT_FALSE(applies(narrow, random({100, 16}, at::kBFloat16)));
}

}  // namespace
}  // namespace mixwright::ops
