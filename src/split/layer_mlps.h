// The MLP that each layer of a dense model gets, as blocks of neurons side by side: parts of experts as they stand on
// disk, computed ones, or zeros. Nothing is read before the output is written.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "checkpoint/tensor_source.h"

namespace mixwright::split {

/// F neurons: gate and up [F, D], down [D, F], the latter times `down_scale`.
struct MlpBlock {
    std::shared_ptr<const checkpoint::TensorSource> source;
    checkpoint::TensorInfo gate, up, down;
    double down_scale = 1.0;

    std::int64_t width() const { return gate.shape.at(0); }
};

/// Blocks side by side are one MLP: the sum of what they compute.
using LayerMlp = std::vector<MlpBlock>;

/// Tensors of a `width` of several blocks.
std::int64_t width_of(const LayerMlp& mlp);

/// One of the experts of a MoE layer, times `scale`.
MlpBlock expert_block(const arch::OpenModel& moe, std::int64_t layer, std::int64_t expert, double scale = 1.0);
/// Its shared expert.
MlpBlock shared_block(const arch::OpenModel& moe, std::int64_t layer, double scale = 1.0);
/// The MLP of a layer that is dense in the MoE.
MlpBlock dense_block(const arch::OpenModel& moe, std::int64_t layer);
/// `width` neurons that do nothing.
MlpBlock zero_block(std::int64_t hidden_size, std::int64_t width);

/// The values of an MLP in f32: gate and up [F, D], down [D, F].
struct MlpTensors {
    at::Tensor gate, up, down;
};

/// The block's values, `down_scale` applied.
MlpTensors load_block(const MlpBlock& block);

/// A block for each layer in `layers` that `compute(layer)` makes when the writer comes to it, in ascending order; one
/// layer is held at a time. `identity` stands for all that the values depend on.
std::vector<MlpBlock> computed_blocks(std::int64_t num_layers, std::int64_t hidden_size, std::int64_t width, std::string identity,
                                      std::function<MlpTensors(std::int64_t layer)> compute);

}  // namespace mixwright::split
