#include "calibrate/routed_layer.h"

#include <ATen/ATen.h>

namespace mixwright::calibrate {

ExpertTokens RoutedLayer::of(std::int64_t expert) const {
    const at::Tensor chosen = experts.eq(expert);
    ExpertTokens result;
    result.tokens = chosen.any(1).nonzero().squeeze(1);
    result.gates = (gates * chosen).sum(1).index_select(0, result.tokens);
    result.num_fit = result.tokens.lt(num_fit).sum().item<std::int64_t>();
    return result;
}

std::vector<std::int64_t> RoutedLayer::counts(std::int64_t num_experts) const {
    const at::Tensor counts = experts.reshape({-1}).bincount({}, num_experts).to(at::kCPU).contiguous();
    return {counts.const_data_ptr<std::int64_t>(), counts.const_data_ptr<std::int64_t>() + num_experts};
}

at::Tensor expert_activations(const ops::Mlp& expert, const at::Tensor& x) {
    return ops::gated_activation(expert.gate(x), expert.up(x), expert.activation, expert.swiglu_limit).to(at::kFloat);
}

void RoutedLayerTaps::mlp_input(std::int64_t, const at::Tensor& hidden_BLD) {
    inputs_.push_back(hidden_BLD.reshape({-1, hidden_BLD.size(-1)}));
}

void RoutedLayerTaps::routing(std::int64_t, const ops::Routing& routing) {
    logits_.push_back(routing.logits);
    experts_.push_back(routing.experts);
    gates_.push_back(routing.weights.to(at::kFloat));
}

void RoutedLayerTaps::layer_output(const at::Tensor& hidden_BLD) {
    const at::Tensor stream = hidden_BLD.reshape({-1, hidden_BLD.size(-1)}).to(at::kFloat);
    weights_.push_back(stream.square().mean(1).clamp_min(1e-12).rsqrt());
}

RoutedLayer RoutedLayerTaps::take(std::int64_t num_fit) {
    RoutedLayer layer{.inputs = at::cat(inputs_), .logits = at::cat(logits_), .experts = at::cat(experts_), .gates = at::cat(gates_),
                      .weights = at::cat(weights_), .num_fit = num_fit};
    for (auto* list : {&inputs_, &logits_, &experts_, &gates_, &weights_}) list->clear();
    return layer;
}

}  // namespace mixwright::calibrate
