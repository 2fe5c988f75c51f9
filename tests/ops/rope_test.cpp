#include "ops/rope.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/gradient_check.h"

namespace mixwright::ops {
namespace {

RopeAngles angles_of(std::int64_t length, std::int64_t dim, bool interleaved, at::ScalarType dtype) {
    const at::Tensor half = at::rand({length, dim / 2}, at::kDouble) * 6, both = at::cat({half, half}, -1);
    return {both.cos().to(dtype), both.sin().to(dtype), interleaved};
}

class Rope : public testing::TestWithParam<bool> {};

TEST_P(Rope, gradients_match_finite_differences) {
    at::manual_seed(5);
    const RopeAngles angles = angles_of(3, 4, GetParam(), at::kDouble);
    expect_gradients_match({at::randn({2, 2, 3, 6}, at::kDouble)}, [&](const std::vector<at::Tensor>& in) { return apply_rope(in[0], angles); });
}

// The kernel, of every layout that heads come in, against the plain arithmetic in f64; the tail of a head stays.
TEST_P(Rope, the_kernel_and_its_gradient_equal_plain_arithmetic) {
    at::manual_seed(6);
    const RopeAngles exact = angles_of(5, 8, GetParam(), at::kDouble), angles{exact.cos.to(at::kFloat), exact.sin.to(at::kFloat), exact.interleaved};
    const at::Tensor wide = at::randn({2, 5, 3, 14}, at::kDouble), direction = at::randn({2, 3, 5, 12}, at::kDouble);
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        const double tolerance = dtype == at::kFloat ? 1e-5 : 0.05;
        const at::Tensor source = wide.to(dtype).requires_grad_(true), reference = wide.to(dtype).to(at::kDouble).requires_grad_(true);
        const auto heads = [](const at::Tensor& x) { return x.transpose(1, 2).narrow(3, 1, 12); };
        const at::Tensor ours = apply_rope(heads(source), angles), theirs = apply_rope(heads(reference), exact);
        EXPECT_LT((ours.to(at::kDouble) - theirs).abs().max().item<double>(), tolerance);
        (ours * direction.to(dtype)).sum().backward();
        (theirs * direction.to(dtype).to(at::kDouble)).sum().backward();
        EXPECT_LT((source.grad().to(at::kDouble) - reference.grad()).abs().max().item<double>(), tolerance);
        const at::NoGradGuard guard;
        EXPECT_TRUE(apply_rope(heads(source), angles).equal(ours)) << "with and without a graph";
    }
}

INSTANTIATE_TEST_SUITE_P(forms, Rope, testing::Bool(), [](const auto& info) { return info.param ? "neighbours" : "halves"; });

}  // namespace
}  // namespace mixwright::ops
