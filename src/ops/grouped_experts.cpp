#include "ops/grouped_experts.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/expert_rows.h"
#include "ops/grouped_products.h"

namespace mixwright::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class GroupedExperts : public torch::autograd::Function<GroupedExperts> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weights, const at::Tensor& chosen,
                              const at::Tensor& gate_up, const at::Tensor& down) {
        const Assignment a = sort_by_expert(chosen, down.size(0));
        const at::Tensor hidden = rows_by_expert(a, rows_of_tokens(a, x), gate_up.transpose(1, 2));
        const at::Tensor outputs = rows_by_expert(a, {swiglu_rows(hidden)}, down.transpose(1, 2));
        context->save_for_backward({x, weights, gate_up, down, hidden, a.order, a.token, a.position, a.slot});
        context->saved_data["begin"] = a.begin;
        return combine_rows(outputs, a.position, weights.contiguous());
    }

    // With G = the gradient of the sum, a row's output y = down(h) and weight w:
    // dw = G . y = (G down) . h, so the outputs need not be kept; dh = w (G down); d down = G^T (w h).
    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &weights = saved[1], &gate_up = saved[2], &down = saved[3], &hidden = saved[4];
        const Assignment a{context->saved_data["begin"].toIntVector(), saved[5], saved[6], saved[7], saved[8]};
        const bool for_x = context->needs_input_grad(0), for_experts = context->needs_input_grad(3) || context->needs_input_grad(4);

        const Rows incoming = rows_of_tokens(a, gradients[0].to(x.scalar_type()));
        const at::Tensor sorted_weights = weights.reshape({-1}).index_select(0, a.order);
        const SwigluGradient d = swiglu_rows_gradient(hidden, rows_by_expert(a, incoming, down), sorted_weights);

        at::Tensor d_gate_up, d_down, d_sorted;
        if (for_experts) {
            d_down = outer_by_expert(a, incoming, {d.weighted});
            d_gate_up = outer_by_expert(a, {d.hidden}, rows_of_tokens(a, x));
        }
        if (for_x) d_sorted = rows_by_expert(a, {d.hidden}, gate_up);
        const at::Tensor d_x = for_x ? combine_rows(d_sorted, a.position, {}) : at::Tensor();
        const at::Tensor d_weights = d.weights.index_select(0, a.position.reshape({-1})).view(a.position.sizes());
        return {d_x, d_weights, {}, d_gate_up, d_down};
    }
};

}  // namespace

at::Tensor grouped_experts(const at::Tensor& x, const Routing& routing, const ExpertStack& experts) {
    if (experts.processes != nullptr) return exchanged_experts(x, routing, experts, *experts.processes);
    return GroupedExperts::apply(x, routing.weights, routing.experts, experts.gate_up, experts.down);
}

}  // namespace mixwright::ops
