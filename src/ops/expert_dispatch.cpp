#include "ops/expert_dispatch.h"

#include <ATen/ATen.h>

#include <vector>

#include "ops/expert_kernels.h"

namespace mixwright::ops {

at::Tensor dispatch_to_experts(const at::Tensor& x, const Routing& routing, std::span<const Mlp> experts) {
    if (expert_kernels_apply(x, experts)) return run_experts(x, routing, experts);
    const std::int64_t num_tokens = x.size(0), top_k = routing.experts.size(1);
    const at::Tensor chosen = routing.experts.reshape({-1}).to(at::kCPU);  // [N * K], token-major
    const auto* expert_of = chosen.const_data_ptr<std::int64_t>();

    // Counting sort of the N * K assignments by expert; stable, so that sums do not depend on anything but the routing.
    std::vector<std::int64_t> begin(experts.size() + 1, 0);
    for (std::int64_t i = 0; i < num_tokens * top_k; ++i) ++begin[static_cast<std::size_t>(expert_of[i]) + 1];
    for (std::size_t e = 0; e < experts.size(); ++e) begin[e + 1] += begin[e];
    at::Tensor order = at::empty({num_tokens * top_k}, at::kLong);
    auto* slots = order.mutable_data_ptr<std::int64_t>();
    std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
    for (std::int64_t i = 0; i < num_tokens * top_k; ++i) slots[next[static_cast<std::size_t>(expert_of[i])]++] = i;
    order = order.to(x.device());

    const at::Tensor token_of = order.div(top_k, "floor");
    const at::Tensor sorted_x = x.index_select(0, token_of);
    std::vector<at::Tensor> outputs;
    for (std::size_t e = 0; e < experts.size(); ++e)
        if (begin[e + 1] > begin[e]) outputs.push_back(experts[e](sorted_x.narrow(0, begin[e], begin[e + 1] - begin[e])));
    const at::Tensor sorted_weights = routing.weights.reshape({-1}).index_select(0, order).unsqueeze(1);
    const at::Tensor weighted = at::cat(outputs, 0).to(at::kFloat) * sorted_weights;
    return at::zeros({num_tokens, x.size(1)}, weighted.options()).index_add(0, token_of, weighted).to(x.scalar_type());
}

}  // namespace mixwright::ops
