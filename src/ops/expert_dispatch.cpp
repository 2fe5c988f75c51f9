#include "ops/expert_dispatch.h"

#include <ATen/ATen.h>

#include <vector>

#include "ops/expert_kernels.h"
#include "ops/expert_order.h"

namespace mixwright::ops {

at::Tensor dispatch_to_experts(const at::Tensor& x, const Routing& routing, std::span<const Mlp> experts) {
    if (expert_kernels_apply(x, experts)) return run_experts(x, routing, experts);
    const std::int64_t num_tokens = x.size(0), top_k = routing.experts.size(1);
    const at::Tensor chosen = routing.experts.to(at::kCPU).contiguous();  // [N, K]
    const auto [begin, item] = order_by_expert(values_of(chosen), experts.size());
    const at::Tensor order = at::tensor(item, at::kLong).to(x.device());
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
