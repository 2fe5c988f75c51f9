// What a MoE's training adds to the loss of the text so that its routers use all experts and keep their logits small.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "distributed/ranks.h"
#include "model/decoder.h"

namespace mixwright::train {

/// Weights of the losses below; each is summed over the routers of the model (layers, and iterations of a chained layer).
struct AuxiliaryWeights {
    double sequence_balance = 0;   // DeepSeek-V2 (arXiv 2405.04434, 2.2.3): sum_i f_i P_i of each sequence, 1 when balanced
    double batch_balance = 0;      // the same over all tokens of the batch, those of all ranks (arXiv 2101.03961)
    double router_z = 0;           // mean of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906)

    bool any() const { return sequence_balance > 0 || batch_balance > 0 || router_z > 0; }
};

/// How many tokens a router sent to each of its experts.
struct RouterLoad {
    std::int64_t layer = 0, iteration = 0;
    at::Tensor counts;   // f64 [E], on the CPU

    /// The largest share that one expert got, times the number of experts: 1 when balanced.
    double largest() const;
};

/// Watches the routers of a forward pass over B sequences and adds up the losses.
class AuxiliaryLoss final : public model::Taps {
public:
    /// `everyone` are those who have a part of the batch each: batch_balance counts where the tokens of all of them go.
    AuxiliaryLoss(const AuxiliaryWeights& weights, std::int64_t batch, const arch::ModelSpec& spec, const distributed::Team& everyone)
        : weights_(weights), everyone_(everyone), batch_(batch), sigmoid_(spec.architecture->moe && spec.architecture->moe->scores == arch::RouterScores::sigmoid) {}

    void routing(std::int64_t layer, const ops::Routing& routing) override;

    /// The weighted sum so far, a scalar f32; undefined when there was no router or all weights are zero. Differentiable.
    const at::Tensor& total() const { return total_; }
    /// Of the routers so far, in order.
    std::vector<RouterLoad>& loads() noexcept { return loads_; }

private:
    AuxiliaryWeights weights_;
    const distributed::Team& everyone_;
    std::int64_t batch_;
    bool sigmoid_;                    // P_i are sigmoids scaled to sum one (arXiv 2412.19437)
    at::Tensor total_;
    std::vector<RouterLoad> loads_;
};

}  // namespace mixwright::train
