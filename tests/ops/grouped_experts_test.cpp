#include "ops/grouped_experts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include "ops/expert_dispatch.h"
#include "ops/gradient_check.h"
#include "ops/grouped_products.h"

namespace mixwright::ops {
namespace {

constexpr std::int64_t num_tokens = 13, model = 6, width = 4, num_experts = 5, top_k = 2;

struct Case {
    at::Tensor x, weights, chosen;
    ExpertStack experts;
};

// Expert 3 gets no token.
Case make_case(at::ScalarType dtype, std::int64_t w = width) {
    at::manual_seed(11);
    const auto options = at::TensorOptions(dtype);
    Case c{.x = at::randn({num_tokens, model}, options),
           .weights = at::rand({num_tokens, top_k}, options.dtype(dtype == at::kBFloat16 ? at::kFloat : dtype)),
           .chosen = at::empty({num_tokens, top_k}, at::kLong),
           .experts = {at::randn({num_experts, 2 * w, model}, options), at::randn({num_experts, model, w}, options)}};
    for (std::int64_t n = 0; n < num_tokens; ++n) {
        c.chosen[n][0] = n % 3;
        c.chosen[n][1] = n % 4 == 0 ? 4 : (n % 3 + 1) % 3;
    }
    return c;
}

at::Tensor run(const Case& c) { return grouped_experts(c.x, {.weights = c.weights, .experts = c.chosen}, c.experts); }

TEST(GroupedExperts, equals_the_experts_one_by_one) {
    const Case c = make_case(at::kFloat);
    std::vector<Mlp> experts(num_experts);
    for (std::int64_t e = 0; e < num_experts; ++e) {
        Mlp& expert = experts[static_cast<std::size_t>(e)];
        expert.gate.weight = c.experts.gate_up[e].narrow(0, 0, width);
        expert.up.weight = c.experts.gate_up[e].narrow(0, width, width);
        expert.down.weight = c.experts.down[e];
    }
    const at::Tensor expected = dispatch_to_experts(c.x, {.weights = c.weights, .experts = c.chosen}, experts);
    EXPECT_LT((run(c) - expected).abs().max().item<double>(), 1e-5);
}

TEST(GroupedExperts, gradients_equal_finite_differences) {
    Case c = make_case(at::kDouble);
    expect_gradients_match({c.x, c.weights, c.experts.gate_up, c.experts.down}, [&](const std::vector<at::Tensor>& in) {
        return grouped_experts(in[0], {.weights = in[1], .experts = c.chosen}, {in[2], in[3]});
    });
}

// What a GPU does: one product for all experts, padded.
TEST(GroupedExperts, batched_products_equal_those_of_each_expert) {
    const Case c = make_case(at::kDouble);
    Assignment each = sort_by_expert(c.chosen, num_experts), batched = each;
    batch_products(batched);
    const at::Tensor rows = at::randn({num_tokens * top_k, model}, at::kDouble), others = at::randn({num_tokens * top_k, width}, at::kDouble);
    EXPECT_TRUE(at::allclose(rows_by_expert(batched, {rows}, c.experts.gate_up.transpose(1, 2)), rows_by_expert(each, {rows}, c.experts.gate_up.transpose(1, 2))));
    EXPECT_TRUE(at::allclose(outer_by_expert(batched, {rows}, {others}), outer_by_expert(each, {rows}, {others})));
}

// The vectorised kernels, with a width that leaves a rest, against the double arithmetic that was checked above.
TEST(GroupedExperts, kernels_in_f32_and_bf16_agree_with_double) {
    for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 2e-6}, std::pair{at::kBFloat16, 2e-2}}) {
        const Case low = make_case(dtype, 37);
        std::vector<at::Tensor> narrow{low.x, low.weights, low.experts.gate_up, low.experts.down}, wide;
        const at::Tensor direction = at::randn({num_tokens, model}, at::kDouble);
        for (at::Tensor& tensor : narrow) {
            wide.push_back(tensor.to(at::kDouble).requires_grad_(true));
            tensor.requires_grad_(true);
        }
        const at::Tensor y = grouped_experts(narrow[0], {.weights = narrow[1], .experts = low.chosen}, {narrow[2], narrow[3]});
        const at::Tensor exact = grouped_experts(wide[0], {.weights = wide[1], .experts = low.chosen}, {wide[2], wide[3]});
        (y * direction.to(y.scalar_type())).sum().backward();
        (exact * direction.to(y.scalar_type()).to(at::kDouble)).sum().backward();
        EXPECT_LT((y.detach() - exact.detach()).abs().max().item<double>(), tolerance * exact.detach().abs().max().item<double>());
        for (std::size_t i = 0; i < narrow.size(); ++i) {
            const at::Tensor expected = wide[i].grad();
            EXPECT_LT((narrow[i].grad() - expected).abs().max().item<double>(), tolerance * expected.abs().max().item<double>()) << "input " << i;
        }
    }
}

TEST(GroupedExperts, is_one_node_and_leaves_frozen_experts_alone) {
    Case c = make_case(at::kFloat);
    c.x.requires_grad_(true);
    const at::Tensor y = run(c);
    ASSERT_TRUE(y.grad_fn() != nullptr);
    EXPECT_EQ(y.grad_fn()->next_edges().size(), 5u);
    y.sum().backward();
    EXPECT_TRUE(c.x.grad().defined());
    EXPECT_FALSE(c.experts.down.grad().defined());
}

TEST(GroupedExperts, agrees_whatever_the_number_of_threads) {
    const Case c = make_case(at::kFloat, 64);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const at::Tensor one = run(c);
    at::set_num_threads(2);
    const at::Tensor two = run(c);
    at::set_num_threads(threads);
    EXPECT_LT((one - two).abs().max().item<double>(), 1e-4);
}

}  // namespace
}  // namespace mixwright::ops
