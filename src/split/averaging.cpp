#include "split/averaging.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "merge/align.h"

namespace mixwright::split {
namespace {

// What a neuron is: its row of gate and up, its column of down. [F, 3D]
at::Tensor features(const MlpTensors& mlp) { return at::cat({mlp.gate, mlp.up, mlp.down.t()}, 1); }

void permute(MlpTensors& mlp, const std::vector<std::int64_t>& order) {
    const at::Tensor index = at::tensor(order, at::kLong);
    for (at::Tensor MlpTensors::*rows : {&MlpTensors::gate, &MlpTensors::up, &MlpTensors::gate_bias, &MlpTensors::up_bias})
        if ((mlp.*rows).defined()) mlp.*rows = (mlp.*rows).index_select(0, index);
    mlp.down = mlp.down.index_select(1, index);
}

// Calls `visit` with every tensor that an MLP like `mlp` has.
void for_each_tensor(const MlpTensors& mlp, auto visit) {
    for (at::Tensor MlpTensors::*tensor : {&MlpTensors::gate, &MlpTensors::up, &MlpTensors::down, &MlpTensors::gate_bias, &MlpTensors::up_bias, &MlpTensors::down_bias})
        if ((mlp.*tensor).defined()) visit(tensor);
}

}  // namespace

MlpTensors mean_mlp(const std::vector<MlpBlock>& experts, const std::vector<double>& weights, bool align) {
    MlpTensors sum;
    at::Tensor reference;
    for (std::size_t e = 0; e < experts.size(); ++e) {
        MlpTensors expert = load_block(experts[e]);
        if (align && e == 0) reference = features(expert);
        if (align && e > 0) permute(expert, merge::align(reference, features(expert)));
        for_each_tensor(expert, [&](at::Tensor MlpTensors::*tensor) {
            if (e == 0)
                sum.*tensor = expert.*tensor * weights[0];
            else
                (sum.*tensor).add_(expert.*tensor, weights[e]);
        });
    }
    return sum;
}

at::Tensor slerp_half(const at::Tensor& a, const at::Tensor& b) {
    constexpr double parallel = 0.9995;
    const double length_a = a.norm().item<double>(), length_b = b.norm().item<double>();
    if (length_a == 0 || length_b == 0) return (a + b) / 2;
    const double cosine = std::clamp(at::dot(a.flatten(), b.flatten()).item<double>() / (length_a * length_b), -1.0, 1.0);
    if (std::abs(cosine) > parallel) return (a + b) / 2;
    const double angle = std::acos(cosine), share = std::sin(angle / 2) / std::sin(angle);
    return a * share + b * share;
}

MlpTensors slerp_chain(const std::vector<MlpBlock>& experts) {
    MlpTensors chain = load_block(experts.at(0));
    for (std::size_t e = 1; e < experts.size(); ++e) {
        const MlpTensors next = load_block(experts[e]);
        for_each_tensor(next, [&](at::Tensor MlpTensors::*tensor) { chain.*tensor = slerp_half(chain.*tensor, next.*tensor); });
    }
    return chain;
}

}  // namespace mixwright::split
