#include "train/auxiliary.h"

#include <ATen/ATen.h>

namespace mixwright::train {

void AuxiliaryLoss::routing(std::int64_t layer, const ops::Routing& routing) {
    const std::int64_t tokens = routing.experts.size(0), top_k = routing.experts.size(1), num_experts = routing.logits.size(1);
    at::Tensor counts;   // [B, E]
    {
        const at::NoGradGuard guard;
        const at::Tensor chosen = routing.experts.reshape({batch_, -1});
        counts = at::zeros({batch_, num_experts}, routing.weights.options().requires_grad(false)).scatter_add_(1, chosen, at::ones({1, 1}, routing.weights.options()).expand_as(chosen));
        loads_.push_back({layer, routing.iteration, counts.sum(0).to(at::kCPU, at::kDouble)});
    }
    if (!weights_.any()) return;

    const auto add = [&](const at::Tensor& loss) { total_ = total_.defined() ? total_ + loss : loss; };
    if (weights_.sequence_balance > 0 || weights_.batch_balance > 0) {
        at::Tensor scores = sigmoid_ ? at::sigmoid(routing.logits.to(at::kFloat)) : at::softmax(routing.logits, -1, at::kFloat);
        if (sigmoid_) scores = scores / scores.sum(-1, true);
        const at::Tensor probabilities = scores.view({batch_, -1, num_experts}).mean(1);   // [B, E]
        const at::Tensor frequency = counts * (static_cast<double>(num_experts * batch_) / static_cast<double>(tokens * top_k));  // 1 when balanced
        if (weights_.sequence_balance > 0) add((frequency * probabilities).sum(1).mean() * weights_.sequence_balance);
        if (weights_.batch_balance > 0) {
            at::Tensor share = loads_.back().counts.clone();
            everyone_.sum(share).wait();
            share = (share * (static_cast<double>(num_experts) / share.sum())).to(probabilities.options());
            add((share * probabilities.mean(0)).sum() * weights_.batch_balance);
        }
    }
    if (weights_.router_z > 0) add(at::logsumexp(routing.logits.to(at::kFloat), {-1}).square().mean() * weights_.router_z);
}

double RouterLoad::largest() const { return (counts.max() / counts.mean().clamp_min(1e-9)).item<double>(); }

}  // namespace mixwright::train
