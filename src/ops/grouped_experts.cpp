#include "ops/grouped_experts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <vector>

#include "ops/expert_order.h"
#include "ops/expert_rows.h"
#include "ops/product.h"

namespace mixwright::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ExpertOrder as tensors.
struct Assignment {
    std::vector<std::int64_t> begin;   // [E + 1]: rows begin[e] to begin[e + 1] belong to expert e
    at::Tensor order;                  // [N K]: row -> n * K + k
    at::Tensor token;                  // [N K]: row -> n
    at::Tensor position;               // [N, K]: -> row
};

Assignment sort_by_expert(const at::Tensor& chosen_NK, std::int64_t num_experts) {
    const at::Tensor chosen = chosen_NK.to(at::kCPU).contiguous();
    const std::int64_t top_k = chosen.size(1);
    auto [begin, item] = order_by_expert(values_of(chosen), static_cast<std::size_t>(num_experts));
    Assignment a{.begin = std::move(begin), .order = at::tensor(item, at::kLong)};
    a.token = at::empty_like(a.order);
    a.position = at::empty_like(chosen);
    auto* token = a.token.mutable_data_ptr<std::int64_t>();
    auto* position = a.position.mutable_data_ptr<std::int64_t>();
    for (std::size_t row = 0; row < item.size(); ++row) {
        token[row] = item[row] / top_k;
        position[item[row]] = static_cast<std::int64_t>(row);
    }
    for (at::Tensor* tensor : {&a.order, &a.token, &a.position}) *tensor = tensor->to(chosen_NK.device());
    return a;
}

// work(expert, first row, rows) for every expert, those without rows included. On the CPU each thread takes whole experts
// when there are enough of them: a product of a hundred rows is too small to be worth sharing.
void for_each_expert(const Assignment& a, at::Device device, const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& work) {
    const auto num_experts = static_cast<std::int64_t>(a.begin.size()) - 1;
    const std::int64_t threads = at::get_num_threads(), rows = a.begin.back();
    const auto run = [&](std::int64_t e) {
        const std::int64_t begin = a.begin[static_cast<std::size_t>(e)];
        work(e, begin, a.begin[static_cast<std::size_t>(e) + 1] - begin);
    };
    if (!device.is_cpu() || threads == 1 || num_experts < 2 * threads) {
        for (std::int64_t e = 0; e < num_experts; ++e) run(e);
        return;
    }
    // Thread t takes the experts whose middle row lies in its share of the rows.
    const auto thread_of = [&](std::int64_t e) {
        const std::int64_t middle = (a.begin[static_cast<std::size_t>(e)] + a.begin[static_cast<std::size_t>(e) + 1]) / 2;
        return rows == 0 ? 0 : std::min(middle * threads / rows, threads - 1);
    };
    at::parallel_for(0, threads, 1, [&](std::int64_t first, std::int64_t last) {
        const at::NoGradGuard guard;
        for (std::int64_t e = 0; e < num_experts; ++e)
            if (const std::int64_t t = thread_of(e); t >= first && t < last) run(e);
    });
}

void multiply(const at::Tensor& out, std::int64_t begin, std::int64_t rows, const at::Tensor& in, const at::Tensor& matrix) {
    at::Tensor block = out.narrow(0, begin, rows);
    matrix_product_out(block, in.narrow(0, begin, rows), matrix);
}

// out[e] = left^T right over the expert's rows; zero without any.
void outer_product(const at::Tensor& out, std::int64_t e, const at::Tensor& left, const at::Tensor& right, std::int64_t begin, std::int64_t rows) {
    at::Tensor block = out.select(0, e);
    if (rows == 0)
        block.zero_();
    else
        matrix_product_out(block, left.narrow(0, begin, rows).t(), right.narrow(0, begin, rows));
}

class GroupedExperts : public torch::autograd::Function<GroupedExperts> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weights, const at::Tensor& chosen,
                              const at::Tensor& gate_up, const at::Tensor& down) {
        const Assignment a = sort_by_expert(chosen, down.size(0));
        const std::int64_t rows = a.order.numel();
        const at::Tensor sorted = x.index_select(0, a.token);
        const at::Tensor hidden = at::empty({rows, gate_up.size(1)}, x.options());
        for_each_expert(a, x.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
            if (n > 0) multiply(hidden, begin, n, sorted, gate_up.select(0, e).t());
        });
        const at::Tensor activated = swiglu_rows(hidden);
        const at::Tensor outputs = at::empty({rows, down.size(1)}, x.options());
        for_each_expert(a, x.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
            if (n > 0) multiply(outputs, begin, n, activated, down.select(0, e).t());
        });
        context->save_for_backward({x, weights, gate_up, down, hidden, a.order, a.token, a.position});
        context->saved_data["begin"] = a.begin;
        return combine_rows(outputs, a.position, weights.contiguous());
    }

    // With G = the gradient of the sum, a row's output y = down(h) and weight w:
    // dw = G . y = (G down) . h, so the outputs need not be kept; dh = w (G down); d down = G^T (w h).
    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &weights = saved[1], &gate_up = saved[2], &down = saved[3], &hidden = saved[4];
        const Assignment a{context->saved_data["begin"].toIntVector(), saved[5], saved[6], saved[7]};
        const bool for_x = context->needs_input_grad(0), for_experts = context->needs_input_grad(3) || context->needs_input_grad(4);

        const at::Tensor incoming = gradients[0].to(x.scalar_type()).contiguous().index_select(0, a.token);
        const at::Tensor d_activated = at::empty({hidden.size(0), down.size(2)}, x.options());
        for_each_expert(a, x.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
            if (n > 0) multiply(d_activated, begin, n, incoming, down.select(0, e));
        });
        const at::Tensor sorted_weights = weights.reshape({-1}).index_select(0, a.order);
        const SwigluGradient d = swiglu_rows_gradient(hidden, d_activated, sorted_weights);

        at::Tensor d_gate_up, d_down, d_sorted;
        const at::Tensor sorted = for_experts ? x.index_select(0, a.token) : at::Tensor();
        if (for_experts) {
            d_gate_up = at::empty_like(gate_up);
            d_down = at::empty_like(down);
        }
        if (for_x) d_sorted = at::empty({hidden.size(0), x.size(1)}, x.options());
        for_each_expert(a, x.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t n) {
            if (for_experts) {
                outer_product(d_down, e, incoming, d.weighted, begin, n);
                outer_product(d_gate_up, e, d.hidden, sorted, begin, n);
            }
            if (for_x && n > 0) multiply(d_sorted, begin, n, d.hidden, gate_up.select(0, e));
        });
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
