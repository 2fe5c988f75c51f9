#include "train/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace mixwright::train {
namespace {

// Our own pass over memory, and libtorch's fused step, which is what a GPU takes.
class AdamW : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(step, AdamW, testing::Bool(), [](const auto& info) { return info.param ? "together" : "own"; });

// The formula of the paper, in double.
TEST_P(AdamW, equals_the_formula_in_f32) {
    at::manual_seed(3);
    std::vector<Parameter> parameters{make_parameter("w", at::randn({7, 33}), at::kFloat)};
    Parameter& p = parameters[0];
    at::Tensor theta = p.master.to(at::kDouble).clone(), m = at::zeros_like(theta), v = at::zeros_like(theta);
    const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .together = GetParam()};
    for (int step = 1; step <= 10; ++step) {
        const at::Tensor gradient = at::randn({7, 33});
        p.working.mutable_grad() = gradient;
        adamw_step(parameters, options, 1e-2, step, 0.5);
        const at::Tensor g = gradient.to(at::kDouble) * 0.5;
        m = m * 0.9 + g * 0.1;
        v = v * 0.95 + g * g * 0.05;
        theta = theta * (1 - 1e-2 * 0.1) - 1e-2 * (m / (1 - std::pow(0.9, step))) / ((v / (1 - std::pow(0.95, step))).sqrt() + 1e-8);
        EXPECT_LT((p.master.detach() - theta).abs().max().item<double>(), 1e-6) << "step " << step;
    }
}

TEST_P(AdamW, bf16_copies_are_the_rounded_masters) {
    std::vector<Parameter> parameters{make_parameter("w", at::randn({65, 3}), at::kBFloat16)};
    parameters[0].working.mutable_grad() = at::randn({65, 3}).to(at::kBFloat16);
    adamw_step(parameters, {.together = GetParam()}, 1e-3, 1, 1.0);
    EXPECT_TRUE(at::equal(parameters[0].working.detach(), parameters[0].master.to(at::kBFloat16)));
}

TEST_P(AdamW, norms_and_untouched_parameters) {
    std::vector<Parameter> parameters{make_parameter("norm", at::ones({8}), at::kFloat), make_parameter("idle", at::ones({2, 2}), at::kFloat)};
    parameters[0].working.mutable_grad() = at::zeros({8});
    adamw_step(parameters, {.weight_decay = 0.5, .together = GetParam()}, 0.1, 1, 1.0);
    EXPECT_TRUE(at::equal(parameters[0].master.detach(), at::ones({8}))) << "one-dimensional weights do not decay";
    EXPECT_TRUE(at::equal(parameters[1].master.detach(), at::ones({2, 2}))) << "no gradient, no decay";
}

TEST(GradientNorm, covers_all_and_shows_nan) {
    std::vector<Parameter> parameters{make_parameter("a", at::ones({2}), at::kFloat), make_parameter("b", at::ones({2}), at::kFloat)};
    parameters[0].working.mutable_grad() = at::full({2}, 3.0);
    parameters[1].working.mutable_grad() = at::full({2}, 4.0);
    EXPECT_NEAR(gradient_norm(parameters), std::sqrt(50.0), 1e-5);
    parameters[1].working.mutable_grad().fill_(NAN);
    EXPECT_TRUE(std::isnan(gradient_norm(parameters)));
}

}  // namespace
}  // namespace mixwright::train
