#include "ops/expert_kernels.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "kernels/bf16_dots.h"
#include "ops/expert_dispatch.h"
#include "ops/expert_products.h"

namespace mixwright::ops {
namespace {

std::vector<Mlp> random_experts(std::int64_t count, std::int64_t D, std::int64_t F, at::ScalarType dtype) {
    std::vector<Mlp> experts;
    for (std::int64_t e = 0; e < count; ++e) {
        // Every other expert has gate and up one behind the other, as in fused checkpoints.
        const at::Tensor both = at::randn({2 * F, D}).div(std::sqrt(D)).to(dtype);
        const at::Tensor gate = both.narrow(0, 0, F), up = both.narrow(0, F, F);
        Mlp mlp;
        mlp.gate.weight = gate;
        mlp.up.weight = e % 2 == 0 ? up : up.clone();
        mlp.down.weight = at::randn({D, F}).div(std::sqrt(F)).to(dtype);
        experts.push_back(std::move(mlp));
    }
    return experts;
}

Routing random_routing(std::int64_t tokens, std::int64_t experts, std::int64_t top_k) {
    Routing routing;
    std::tie(routing.weights, routing.experts) = at::rand({tokens, experts}).topk(top_k, -1);
    return routing;
}

// The definition, expert by expert, in double.
at::Tensor expected(const at::Tensor& x, const Routing& routing, const std::vector<Mlp>& experts) {
    at::Tensor y = at::zeros(x.sizes(), at::kDouble);
    const at::Tensor xd = x.to(at::kDouble);
    for (std::size_t e = 0; e < experts.size(); ++e) {
        const auto matrix = [](const Linear& linear) { return linear.weight.to(at::kDouble); };
        const at::Tensor out = at::linear(at::silu(at::linear(xd, matrix(experts[e].gate))) * at::linear(xd, matrix(experts[e].up)), matrix(experts[e].down));
        const at::Tensor weight = (routing.weights.to(at::kDouble) * routing.experts.eq(static_cast<std::int64_t>(e))).sum(-1, true);
        y += out * weight;
    }
    return y;
}

class ExpertKernels : public testing::Test {
protected:
    void SetUp() override { at::manual_seed(1); }
    c10::InferenceMode guard_;
};

TEST_F(ExpertKernels, EqualTheDefinitionForAnyNumberOfTokens) {
    const std::vector<Mlp> experts = random_experts(6, 72, 50, at::kFloat);
    for (const std::int64_t tokens : {1, 2, 7, 40, 200, 1500}) {
        const at::Tensor x = at::randn({tokens, 72});
        const Routing routing = random_routing(tokens, 6, 2);
        ASSERT_TRUE(expert_kernels_apply(x, experts));
        EXPECT_LT((dispatch_to_experts(x, routing, experts).to(at::kDouble) - expected(x, routing, experts)).abs().max().item<double>(), 2e-5) << tokens;
    }
}

TEST_F(ExpertKernels, Bf16StaysCloseToTheDefinition) {
    const std::vector<Mlp> experts = random_experts(5, 64, 96, at::kBFloat16);
    for (const std::int64_t tokens : {1, 9, 120}) {
        const at::Tensor x = at::randn({tokens, 64}).to(at::kBFloat16);
        const Routing routing = random_routing(tokens, 5, 3);
        const at::Tensor y = dispatch_to_experts(x, routing, experts), truth = expected(x, routing, experts);
        EXPECT_EQ(y.scalar_type(), at::kBFloat16);
        EXPECT_LT((y.to(at::kDouble) - truth).abs().max().item<double>(), 0.02 * truth.abs().max().item<double>()) << tokens;
    }
}

TEST_F(ExpertKernels, ManyExpertsWithFewTokensBesideOneWithMany) {
    const std::vector<Mlp> experts = random_experts(128, 32, 24, at::kFloat);
    const at::Tensor x = at::randn({300, 32});
    Routing routing = random_routing(300, 127, 3);
    routing.experts.select(1, 2).fill_(127);  // every token goes to the last one as well
    EXPECT_LT((dispatch_to_experts(x, routing, experts).to(at::kDouble) - expected(x, routing, experts)).abs().max().item<double>(), 2e-5);
}

// What a CPU does not choose must hold on it all the same.
TEST_F(ExpertKernels, EveryWayOfMultiplyingGivesTheSame) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        std::vector<Mlp> experts = random_experts(3, 72, 50, dtype);
        experts.push_back(random_experts(1, 72, 20, dtype).front());  // narrower than the others
        const at::Tensor x = at::randn({1300, 72}).to(dtype);
        for (const std::int64_t tokens : {12, 1300}) {
            const at::Tensor rows = x.narrow(0, 0, tokens);
            const Routing routing = random_routing(tokens, 4, 2);
            const Assignments assignments = sort_by_expert(routing, 4);
            const at::Tensor truth = expected(rows, routing, experts);
            const std::vector<std::size_t> all{0, 1, 2, 3};
            const ExpertProducts products{rows, assignments, experts};
            const auto distance = [&](const at::Tensor& y) { return (y.to(at::kDouble) - truth).abs().max().item<double>(); };
            const auto worst = [&](void (ExpertProducts::*run)(std::span<const std::size_t>, float*) const) {
                const at::Tensor y = at::zeros(rows.sizes());
                (products.*run)(all, y.mutable_data_ptr<float>());
                return distance(y);
            };
            const double allowed = dtype == at::kFloat ? 2e-5 : 0.02 * truth.abs().max().item<double>();
            for (const bool dots : {false, true}) {
                kernels::allow_bf16_dots(dots);
                EXPECT_LT(distance(products.run_panels(all, {})), allowed) << dots;
                const at::Tensor before = at::randn(rows.sizes());
                EXPECT_LT(distance(products.run_panels(all, before).to(at::kDouble) - before), allowed) << dots;
            }
            EXPECT_LT(worst(&ExpertProducts::run_matmul), allowed);
            if (tokens <= 16) {
                EXPECT_LT(worst(&ExpertProducts::run_few), allowed);
            }
        }
    }
}

// Views of one tensor: the rows two experts share are computed once.
TEST_F(ExpertKernels, ExpertsMayShareRows) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        std::vector<Mlp> experts = random_experts(5, 72, 96, dtype);
        const auto share = [&](std::size_t a, std::size_t b, std::int64_t first, std::int64_t width) {
            const Mlp whole = random_experts(1, 72, 200, dtype).front();
            const auto window = [&](Mlp& expert, std::int64_t begin, std::int64_t count) {
                expert.gate = whole.gate.rows(begin, count);
                expert.up = whole.up.rows(begin, count);
                expert.down.weight = random_experts(1, 72, count, dtype).front().down.weight;
            };
            window(experts[a], 0, first + width);
            window(experts[b], first, 200 - first);
        };
        share(3, 0, 70, 30);  // the later expert has the first rows
        share(1, 4, 8, 100);
        for (const std::int64_t tokens : {1, 2, 7, 16, 40}) {
            const at::Tensor x = at::randn({tokens, 72}).to(dtype);
            const Routing routing = random_routing(tokens, 5, 3);
            const at::Tensor truth = expected(x, routing, experts), y = dispatch_to_experts(x, routing, experts);
            const double allowed = dtype == at::kFloat ? 2e-5 : 0.02 * truth.abs().max().item<double>();
            EXPECT_LT((y.to(at::kDouble) - truth).abs().max().item<double>(), allowed) << tokens;
        }
    }
}

TEST_F(ExpertKernels, AreTheSameEveryTime) {
    const std::vector<Mlp> experts = random_experts(8, 64, 64, at::kBFloat16);
    for (const std::int64_t tokens : {3, 100}) {
        const at::Tensor x = at::randn({tokens, 64}).to(at::kBFloat16);
        const Routing routing = random_routing(tokens, 8, 2);
        const at::Tensor first = dispatch_to_experts(x, routing, experts);
        for (int i = 0; i < 5; ++i) EXPECT_TRUE(at::equal(first, dispatch_to_experts(x, routing, experts)));
    }
}

TEST_F(ExpertKernels, AreForInferenceOnly) {
    const std::vector<Mlp> experts = random_experts(2, 8, 8, at::kFloat);
    const c10::InferenceMode training(false);
    EXPECT_FALSE(expert_kernels_apply(at::randn({1, 8}), experts));
}

}  // namespace
}  // namespace mixwright::ops
