#include "ops/expert_kernels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "ops/expert_loops.h"
#include "ops/expert_order.h"
#include "ops/expert_products.h"
#include "ops/parallel.h"
#include "ops/skinny_linear.h"

namespace mixwright::ops {
namespace {

bool plain(const Linear& linear, const at::Tensor& x) {
    return linear.weight.defined() && !linear.bias.defined() && !linear.lora_a.defined() && has_kernel_weights(linear, x);
}

// f32 -> dtype
at::Tensor rounded(const at::Tensor& sum, at::ScalarType dtype) {
    if (dtype == at::kFloat) return sum;
    at::Tensor result = at::empty(sum.sizes(), sum.options().dtype(dtype));
    const auto* from = sum.const_data_ptr<float>();
    auto* to = static_cast<std::uint16_t*>(result.data_ptr());
    constexpr std::int64_t grain = 1 << 14;
    parallel_for(0, sum.numel(), grain, [&](std::int64_t begin, std::int64_t end) { narrow_all(from + begin, end - begin, to + begin); });
    return result;
}

}  // namespace

Assignments sort_by_expert(const Routing& routing, std::size_t num_experts) {
    const at::Tensor experts = routing.experts.contiguous(), weights = routing.weights.contiguous();
    const std::int64_t top_k = experts.size(1);
    const auto* weight_of = weights.const_data_ptr<float>();
    const ExpertOrder order = order_by_expert(values_of(experts), num_experts);
    Assignments sorted{.begin = {order.begin.begin(), order.begin.end()}};
    sorted.token.reserve(order.item.size());
    sorted.weight.reserve(order.item.size());
    for (const std::int64_t item : order.item) {
        sorted.token.push_back(static_cast<std::int32_t>(item / top_k));
        sorted.weight.push_back(weight_of[item]);
    }
    return sorted;
}

bool expert_kernels_apply(const at::Tensor& x, std::span<const Mlp> experts) {
    return kernels_apply(x) && x.size(0) > 0 && std::ranges::all_of(experts, [&](const Mlp& e) {
               return e.activation == arch::Activation::silu && plain(e.gate, x) && plain(e.up, x) && plain(e.down, x);
           });
}

at::Tensor run_experts(const at::Tensor& x_in, const Routing& routing, std::span<const Mlp> experts) {
    const at::Tensor x = x_in.contiguous();
    const Assignments assignments = sort_by_expert(routing, experts.size());
    const ExpertProducts products{x, assignments, experts};
    const bool panels = has_faster_panels(x.scalar_type());
    std::vector<std::size_t> few, many;
    for (std::size_t e = 0; e < experts.size(); ++e)
        if (const std::int32_t count = assignments.count(e); count > 0) (count <= max_skinny_rows ? few : many).push_back(e);

    at::Tensor sum;
    if (!few.empty() || !panels) sum = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
    if (!few.empty()) products.run_few(few, sum.mutable_data_ptr<float>());
    if (many.empty()) return rounded(sum, x.scalar_type());
    if (panels) return products.run_panels(many, sum);
    products.run_matmul(many, sum.mutable_data_ptr<float>());
    return rounded(sum, x.scalar_type());
}

}  // namespace mixwright::ops
