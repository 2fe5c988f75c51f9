#include "calibrate/routed_layer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>

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

RoutedLayer joined(std::vector<RoutedLayer> iterations) {
    if (iterations.size() == 1) return std::move(iterations.front());
    RoutedLayer all;
    for (at::Tensor RoutedLayer::*part : RoutedLayer::parts()) {
        std::vector<at::Tensor> fit, held_out;
        for (const RoutedLayer& one : iterations) {
            fit.push_back((one.*part).narrow(0, 0, one.num_fit));
            held_out.push_back((one.*part).narrow(0, one.num_fit, one.num_tokens() - one.num_fit));
        }
        std::ranges::move(held_out, std::back_inserter(fit));
        all.*part = at::cat(fit);
    }
    for (const RoutedLayer& one : iterations) all.num_fit += one.num_fit;
    return all;
}

at::Tensor expert_activations(const ops::Mlp& expert, const at::Tensor& x) {
    return ops::gated_activation(expert.gate(x), expert.up(x), expert.activation, expert.swiglu_limit).to(at::kFloat);
}

void RoutedLayerTaps::mlp_input(std::int64_t, const at::Tensor& hidden_BLD) { input_ = hidden_BLD.reshape({-1, hidden_BLD.size(-1)}); }

void RoutedLayerTaps::routing(std::int64_t, const ops::Routing& routing) {
    if (static_cast<std::int64_t>(iterations_.size()) <= routing.iteration) iterations_.emplace_back();
    Batches& batches = iterations_[static_cast<std::size_t>(routing.iteration)];
    batches.inputs.push_back(input_);
    batches.logits.push_back(routing.logits);
    batches.experts.push_back(routing.experts);
    batches.gates.push_back(routing.weights.to(at::kFloat));
}

void RoutedLayerTaps::layer_output(const at::Tensor& hidden_BLD) {
    const at::Tensor stream = hidden_BLD.reshape({-1, hidden_BLD.size(-1)}).to(at::kFloat);
    weights_.push_back(stream.square().mean(1).clamp_min(1e-12).rsqrt());
}

std::vector<RoutedLayer> RoutedLayerTaps::take_iterations(std::int64_t num_fit) {
    std::vector<RoutedLayer> layers;
    const at::Tensor weights = at::cat(weights_);
    for (const Batches& b : iterations_)
        layers.push_back({.inputs = at::cat(b.inputs), .logits = at::cat(b.logits), .experts = at::cat(b.experts), .gates = at::cat(b.gates), .weights = weights, .num_fit = num_fit});
    iterations_.clear();
    weights_.clear();
    return layers;
}

}  // namespace mixwright::calibrate
