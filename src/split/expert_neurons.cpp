#include "split/expert_neurons.h"

#include <ATen/ATen.h>

#include <functional>
#include <utility>

#include "merge/neuron_selection.h"
#include "ops/product.h"
#include "progress.h"

namespace mixwright::split {
namespace {

at::Tensor selected(const at::Tensor& tensor, std::int64_t dim, const at::Tensor& index) {
    return tensor.defined() ? tensor.index_select(dim, index) : at::Tensor();
}

at::Tensor joined(const std::vector<Neurons>& parts, at::Tensor Neurons::*tensor, std::int64_t dim) {
    std::vector<at::Tensor> tensors;
    for (const Neurons& part : parts)
        if ((part.*tensor).defined()) tensors.push_back(part.*tensor);
    return tensors.empty() ? at::Tensor() : at::cat(tensors, dim);
}

Neurons neurons_of(const ops::Mlp& mlp, std::int64_t expert) {
    return {mlp.gate.weight, mlp.up.weight, mlp.down.weight, mlp.gate.bias, mlp.up.bias, at::full({mlp.gate.weight.size(0)}, expert, mlp.gate.weight.options().dtype(at::kLong))};
}

// f32 [N]: the weight of the shared expert.
at::Tensor shared_weight(const model::MoeWeights& weights, const at::Tensor& input_ND) {
    if (!weights.shared_gate.defined()) return at::ones({input_ND.size(0)}, input_ND.options().dtype(at::kFloat));
    return at::sigmoid(ops::linear_product(input_ND, weights.shared_gate)).squeeze(1).to(at::kFloat);
}

// Calls `visit` with every expert, the shared one last, its number, and what tells its tokens and their weights in a batch.
using Routed = std::function<std::pair<at::Tensor, at::Tensor>(const SeenBatch&)>;
void for_each_expert(const model::MoeWeights& weights, const std::function<void(const ops::Mlp&, std::int64_t, const Routed&)>& visit) {
    const auto num_experts = static_cast<std::int64_t>(weights.experts.size());
    for (std::int64_t e = 0; e < num_experts; ++e)
        visit(weights.experts[static_cast<std::size_t>(e)], e, [e](const SeenBatch& batch) {
            const at::Tensor hits = batch.routing.experts.eq(e).nonzero();
            return std::pair(hits.select(1, 0), batch.routing.weights.index({hits.select(1, 0), hits.select(1, 1)}).to(at::kFloat));
        });
    if (weights.shared.down.weight.defined())
        visit(weights.shared, num_experts, [&weights](const SeenBatch& batch) {
            return std::pair(at::arange(batch.input.size(0), at::TensorOptions(at::kLong).device(batch.input.device())), shared_weight(weights, batch.input));
        });
}

// f64 [n] for each expert: E[(w a_k)^2] ||D_k||^2.
std::vector<at::Tensor> energies(const model::MoeWeights& weights, const std::vector<SeenBatch>& seen) {
    std::vector<at::Tensor> energies;
    for_each_expert(weights, [&](const ops::Mlp& mlp, std::int64_t expert, const Routed& routed) {
        const Neurons own = neurons_of(mlp, expert);
        at::Tensor squares = at::zeros({own.gate.size(0)}, at::kDouble);
        for (const SeenBatch& batch : seen) {
            const auto [rows, weight] = routed(batch);
            if (rows.numel() == 0) continue;
            at::Tensor square = (own.activations(batch.input.index_select(0, rows), mlp).to(at::kFloat) * weight.unsqueeze(1)).square();
            if (batch.importance.defined()) square = square * batch.importance.index_select(0, rows).unsqueeze(1);
            squares += square.sum(0).to(at::kCPU, at::kDouble);
        }
        energies.push_back(merge::output_energy(squares, mlp.down.weight.to(at::kCPU, at::kDouble)));
        check_interrupted();
    });
    return energies;
}

}  // namespace

Neurons Neurons::of(const at::Tensor& index) const {
    return {selected(gate, 0, index), selected(up, 0, index), selected(down, 1, index), selected(gate_bias, 0, index), selected(up_bias, 0, index), selected(expert, 0, index)};
}

at::Tensor Neurons::activations(const at::Tensor& input_ND, const ops::Mlp& like) const {
    return ops::gated_activation(ops::linear_product(input_ND, gate, gate_bias), ops::linear_product(input_ND, up, up_bias), like.activation, like.swiglu_limit);
}

at::Tensor mean_weights(const model::MoeWeights& weights, const std::vector<SeenBatch>& seen) {
    const auto num_experts = static_cast<std::int64_t>(weights.experts.size());
    at::Tensor sum = at::zeros({num_experts + 1}, at::kDouble);
    double tokens = 0;
    for (const SeenBatch& batch : seen) {
        const at::Tensor importance = batch.importance.defined() ? batch.importance.to(at::kCPU, at::kDouble) : at::ones({batch.input.size(0)}, at::kDouble);
        const at::Tensor routed = batch.routing.weights.to(at::kCPU, at::kDouble) * importance.unsqueeze(1);
        sum.index_add_(0, batch.routing.experts.reshape({-1}).to(at::kCPU), routed.reshape({-1}));
        sum[num_experts] += (shared_weight(weights, batch.input).to(at::kCPU, at::kDouble) * importance).sum();
        tokens += importance.sum().item<double>();
    }
    return sum / tokens;
}

Neurons candidate_neurons(const model::MoeWeights& weights, const std::vector<SeenBatch>& seen, std::int64_t limit) {
    std::vector<Neurons> parts;
    std::int64_t total = 0;
    for_each_expert(weights, [&](const ops::Mlp& mlp, std::int64_t expert, const Routed&) {
        parts.push_back(neurons_of(mlp, expert));
        total += parts.back().gate.size(0);
    });
    if (total > limit) {
        // Chosen before they are joined: a copy of all experts would be a layer more in memory.
        const at::Tensor chosen = at::tensor(merge::largest(at::cat(energies(weights, seen)), limit), at::kLong);
        std::int64_t first = 0;
        for (Neurons& part : parts) {
            const std::int64_t count = part.gate.size(0);
            part = part.of((chosen.masked_select(chosen.ge(first).logical_and(chosen.lt(first + count))) - first).to(part.gate.device()));
            first += count;
        }
    }
    return {joined(parts, &Neurons::gate, 0), joined(parts, &Neurons::up, 0), joined(parts, &Neurons::down, 1), joined(parts, &Neurons::gate_bias, 0),
            joined(parts, &Neurons::up_bias, 0), joined(parts, &Neurons::expert, 0)};
}

}  // namespace mixwright::split
