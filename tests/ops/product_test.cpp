#include "ops/product.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace mixwright::ops {
namespace {

at::Tensor random(at::IntArrayRef sizes) { return at::randn(sizes).to(at::kBFloat16); }

// As a share of the largest value: bf16 keeps 8 bits.
double worst(const at::Tensor& a, const at::Tensor& b) { return ((a.to(at::kFloat) - b.to(at::kFloat)).abs().max() / b.abs().max().to(at::kFloat)).item<double>(); }

TEST(Product, LinearInBf16HasTheValuesAndGradientsOfF32) {
    at::manual_seed(1);
    for (const bool biased : {false, true}) {
        const at::Tensor x = random({3, 20, 64}).requires_grad_(), weight = random({50, 64}).requires_grad_();
        const at::Tensor bias = biased ? random({50}).requires_grad_() : at::Tensor(), g = random({3, 20, 50});
        const auto wide = [](const at::Tensor& t) { return t.defined() ? t.detach().to(at::kFloat).requires_grad_() : t; };
        const at::Tensor wx = wide(x), ww = wide(weight), wb = wide(bias);
        const at::Tensor y = linear_product(x, weight, bias), truth = at::linear(wx, ww, wb);
        EXPECT_EQ(y.scalar_type(), at::kBFloat16);
        EXPECT_LT(worst(y, truth), 5e-3);
        y.backward(g);
        truth.backward(g.to(at::kFloat));
        EXPECT_LT(worst(x.grad(), wx.grad()), 5e-3);
        EXPECT_LT(worst(weight.grad(), ww.grad()), 5e-3);
        if (biased) {
            EXPECT_LT(worst(bias.grad(), wb.grad()), 5e-3);
        }
    }
}

TEST(Product, LinearInF32AgreesWithLibtorch) {
    at::manual_seed(2);
    const at::Tensor x = at::randn({5, 40, 96}).requires_grad_(), weight = at::randn({70, 96}).requires_grad_(), bias = at::randn({70}).requires_grad_(), g = at::randn({5, 40, 70});
    const auto again = [](const at::Tensor& t) { return t.detach().clone().requires_grad_(); };
    const at::Tensor tx = again(x), tw = again(weight), tb = again(bias), y = linear_product(x, weight, bias), truth = at::linear(tx, tw, tb);
    EXPECT_LT(worst(y, truth), 1e-5);
    y.backward(g);
    truth.backward(g);
    EXPECT_LT(worst(x.grad(), tx.grad()), 1e-5);
    EXPECT_LT(worst(weight.grad(), tw.grad()), 1e-5);
    EXPECT_LT(worst(bias.grad(), tb.grad()), 1e-5);
    const at::NoGradGuard guard;
    EXPECT_TRUE(at::equal(linear_product(x, weight, bias), y));  // a pass that needs no gradients has the same sums
}

TEST(Product, WeightsThatAreNotTrainedGetNoGradient) {
    const at::Tensor x = random({5, 8}).requires_grad_(), weight = random({4, 8});
    linear_product(x, weight).sum().backward();
    EXPECT_TRUE(x.grad().defined());
    EXPECT_FALSE(weight.grad().defined());
}

TEST(Product, EverySecondColumnIsAMatrixToo) {
    const at::Tensor a = at::randn({5, 64}).slice(1, 1, 64, 2);
    EXPECT_LT(worst(matrix_product(a, a.t()), at::mm(a, a.t())), 1e-5);
    EXPECT_LT(worst(linear_product(a, a), at::mm(a, a.t())), 1e-5);
}

TEST(Product, MatricesMayBeTransposedAndGoWhereTheyAreTold) {
    const at::Tensor a = random({40, 7}), b = random({40, 9});
    const at::Tensor truth = at::mm(a.t().to(at::kFloat), b.to(at::kFloat));
    EXPECT_LT(worst(matrix_product(a.t(), b), truth), 5e-3);
    at::Tensor out = at::empty({3, 7, 9}, at::kBFloat16), block = out.select(0, 1);
    matrix_product_out(block, a.t(), b);
    EXPECT_LT(worst(out.select(0, 1), truth), 5e-3);
}

}  // namespace
}  // namespace mixwright::ops
