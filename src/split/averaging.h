// One expert out of many by averaging their weights: the naive ways, for comparison.
#pragma once

#include <vector>

#include "split/layer_mlps.h"

namespace mixwright::split {

/// sum_e weights[e] * expert e, neuron by neuron; with `align`, every expert's neurons are first permuted to those of the
/// first (by their gate, up and down rows). Blocks of one width.
MlpTensors mean_mlp(const std::vector<MlpBlock>& experts, const std::vector<double>& weights, bool align);

/// slerp(...slerp(slerp(e0, e1), e2)..., each half way, tensor by tensor: cognitivecomputations' extract-expert. The last
/// expert weighs as much as all before it together.
MlpTensors slerp_chain(const std::vector<MlpBlock>& experts);

/// Half way between two tensors on the arc through them, of the mean length; the straight mean when they are parallel.
at::Tensor slerp_half(const at::Tensor& a, const at::Tensor& b);

}  // namespace mixwright::split
