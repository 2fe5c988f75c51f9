// What a MoE's training adds to the loss of the text so that its routers use all experts and keep their logits small.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/decoder.h"

namespace mixwright::train {

/// Weights of the losses below; each is summed over the routers of the model (layers, and iterations of a chained layer).
struct AuxiliaryWeights {
    double sequence_balance = 0;   // DeepSeek-V2 (arXiv 2405.04434, 2.2.3): sum_i f_i P_i of each sequence, 1 when balanced
    double batch_balance = 0;      // the same over all tokens of the batch (arXiv 2101.03961)
    double router_z = 0;           // mean of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906)

    bool any() const { return sequence_balance > 0 || batch_balance > 0 || router_z > 0; }
};

/// Watches the routers of a forward pass over B sequences and adds up the losses.
class AuxiliaryLoss final : public model::Taps {
public:
    AuxiliaryLoss(const AuxiliaryWeights& weights, std::int64_t batch, const arch::ModelSpec& spec)
        : weights_(weights), batch_(batch), sigmoid_(spec.architecture->moe && spec.architecture->moe->scores == arch::RouterScores::sigmoid) {}

    void routing(std::int64_t layer, const ops::Routing& routing) override;

    /// The weighted sum so far, a scalar f32; undefined when there was no router or all weights are zero. Differentiable.
    const at::Tensor& total() const { return total_; }
    /// The largest share of a router's assignments that one expert got, times the number of experts: 1 when balanced.
    double largest_load() const;

private:
    AuxiliaryWeights weights_;
    std::int64_t batch_;
    bool sigmoid_;                    // P_i are sigmoids scaled to sum one (arXiv 2412.19437)
    at::Tensor total_;
    std::vector<at::Tensor> loads_;   // [E] each: share of the router's assignments
};

}  // namespace mixwright::train
