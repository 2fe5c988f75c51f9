#include "ops/expert_exchange.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "ops/grouped_experts.h"

namespace mixwright::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Counts = std::vector<std::int64_t>;

// Rows sent out come back as gradients the same way, so the gradient of an exchange is the exchange with its sides swapped.
class Exchange : public torch::autograd::Function<Exchange> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const RowExchange* processes, const Counts& send, const Counts& receive) {
        context->saved_data["processes"] = reinterpret_cast<std::int64_t>(processes);
        context->saved_data["send"] = send;
        context->saved_data["receive"] = receive;
        return processes->exchange(rows, send, receive);
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const auto* processes = reinterpret_cast<const RowExchange*>(context->saved_data["processes"].toInt());
        return {processes->exchange(gradients[0], context->saved_data["receive"].toIntVector(), context->saved_data["send"].toIntVector()), {}, {}, {}};
    }
};

// Sums of `counts` over each of the `groups` equal parts of it.
Counts sum_of_parts(const Counts& counts, std::int64_t groups) {
    Counts sums;
    const auto width = static_cast<std::ptrdiff_t>(counts.size()) / groups;
    for (auto part = counts.begin(); part != counts.end(); part += width) sums.push_back(std::accumulate(part, part + width, std::int64_t{0}));
    return sums;
}

Counts to_counts(const at::Tensor& tensor) {
    const at::Tensor host = tensor.to(at::kCPU).contiguous();
    return {host.const_data_ptr<std::int64_t>(), host.const_data_ptr<std::int64_t>() + host.numel()};
}

}  // namespace

at::Tensor exchanged_experts(const at::Tensor& x, const Routing& routing, const ExpertStack& experts, const RowExchange& processes) {
    const std::int64_t num_tokens = x.size(0), top_k = routing.experts.size(1), own = experts.down.size(0), size = processes.size();
    at::Tensor order, token, position, there;
    Counts send, receive;
    {
        const at::NoGradGuard guard;
        const at::Tensor chosen = routing.experts.reshape({-1});             // [N K], token by token
        order = chosen.argsort(/*stable=*/true);                             // row -> assignment
        token = order.div(top_k, "floor");
        position = at::empty_like(order).scatter_(0, order, at::arange(order.numel(), order.options()));
        // How many rows each of the other processes has for each expert of this one, [P, own].
        const at::Tensor counts = chosen.bincount({}, own * size), arriving = processes.exchange(counts.unsqueeze(1), Counts(static_cast<std::size_t>(size), own), Counts(static_cast<std::size_t>(size), own));
        send = sum_of_parts(to_counts(counts), size);
        receive = sum_of_parts(to_counts(arriving), size);
        there = at::arange(own, order.options()).repeat({size}).repeat_interleave(arriving.reshape({-1}));  // expert of every row that arrives
    }
    const at::Tensor arrived = Exchange::apply(x.index_select(0, token), &processes, send, receive);
    const Routing single{.weights = at::ones({arrived.size(0), 1}, routing.weights.options().requires_grad(false)), .experts = there.unsqueeze(1)};
    const at::Tensor said = grouped_experts(arrived, single, {experts.gate_up, experts.down});
    const at::Tensor back = Exchange::apply(said, &processes, receive, send).index_select(0, position).view({num_tokens, top_k, -1});
    return (back * routing.weights.unsqueeze(-1)).sum(1).to(x.scalar_type());
}

}  // namespace mixwright::ops
