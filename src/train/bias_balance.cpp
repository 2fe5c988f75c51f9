#include "train/bias_balance.h"

#include <ATen/ATen.h>

#include <map>

namespace mixwright::train {

void balance_biases(TrainedModel& model, const std::vector<RouterLoad>& loads, double rate) {
    const at::NoGradGuard guard;
    std::map<const void*, std::pair<at::Tensor, at::Tensor>> moved;  // a bias, and the tokens of its experts
    for (const RouterLoad& load : loads) {
        const at::Tensor bias = model.movable_bias(load.layer, load.iteration);
        if (!bias.defined()) continue;
        auto& [tensor, counts] = moved[bias.unsafeGetTensorImpl()];
        tensor = bias;
        counts = counts.defined() ? counts + load.counts : load.counts;
    }
    for (auto& [key, both] : moved) {
        auto& [bias, counts] = both;
        bias.add_((counts.mean() - counts).sign().to(bias.options()), rate);
    }
}

}  // namespace mixwright::train
