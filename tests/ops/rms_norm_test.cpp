#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace mixwright::ops {
namespace {

struct Layout {
    const char* name;
    at::Tensor (*of)(const at::Tensor& x);
};

// What norms see: whole rows, heads that are a view of tokens, a part of wider rows.
const Layout layouts[] = {{"dense", [](const at::Tensor& x) { return x.flatten(0, 2).narrow(1, 0, x.size(3)); }},
                          {"heads", [](const at::Tensor& x) { return x.transpose(1, 2); }},
                          {"part", [](const at::Tensor& x) { return x.flatten(0, 1).unsqueeze(1).narrow(3, 2, x.size(3) - 5); }}};

TEST(RmsNorm, the_kernel_and_its_gradients_equal_libtorch_in_f64) {
    at::manual_seed(4);
    const at::Tensor wide = at::randn({3, 29, 2, 75}, at::kDouble);
    for (const Layout& layout : layouts)
        for (const auto dtype : {at::kFloat, at::kBFloat16}) {
            const at::Tensor source = wide.to(dtype).requires_grad_(true), reference = wide.to(dtype).to(at::kDouble).requires_grad_(true);
            const at::Tensor x = layout.of(source);
            const at::Tensor weight = (at::randn({x.size(-1)}, at::kDouble) + 1).to(dtype).requires_grad_(true);
            const at::Tensor exact_weight = weight.detach().to(at::kDouble).requires_grad_(true);
            const at::Tensor ours = rms_norm(x, weight, 1e-5), theirs = at::rms_norm(layout.of(reference), {x.size(-1)}, exact_weight, 1e-5);
            const double tolerance = dtype == at::kFloat ? 2e-5 : 0.05;
            EXPECT_LT((ours.to(at::kDouble) - theirs).abs().max().item<double>(), tolerance) << layout.name;
            const at::Tensor direction = at::randn(theirs.sizes(), at::kDouble).to(dtype);
            (ours * direction).sum().backward();
            (theirs * direction.to(at::kDouble)).sum().backward();
            EXPECT_LT((source.grad().to(at::kDouble) - reference.grad()).abs().max().item<double>(), tolerance) << layout.name;
            // A sum over all rows: of the size of its terms times the root of their number.
            EXPECT_LT((weight.grad().to(at::kDouble) - exact_weight.grad()).abs().max().item<double>(), 20 * tolerance) << layout.name;
            const at::NoGradGuard guard;
            EXPECT_TRUE(rms_norm(x, weight, 1e-5).equal(ours)) << "with and without a graph";
        }
}

}  // namespace
}  // namespace mixwright::ops
