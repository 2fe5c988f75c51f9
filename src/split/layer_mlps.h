// The MLP that each layer of a dense model gets, as blocks of neurons side by side: parts of experts as they stand on
// disk, computed ones, or zeros. Nothing is read before the output is written.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "checkpoint/tensor_source.h"

namespace mixwright::split {

/// Biases of an MLP's maps: gate and up [F], down [D].
struct BlockBiases {
    checkpoint::TensorInfo gate, up, down;
};

/// F neurons: gate and up [F, D], times `input_scale`; down [D, F] and its bias, times `output_scale`.
struct MlpBlock {
    std::shared_ptr<const checkpoint::TensorSource> source;
    checkpoint::TensorInfo gate, up, down;
    std::optional<BlockBiases> biases = {};
    double input_scale = 1.0, output_scale = 1.0;

    std::int64_t width() const { return gate.shape.at(0); }
};

/// Blocks side by side are one MLP: the sum of what they compute.
using LayerMlp = std::vector<MlpBlock>;

/// Tensors of a `width` of several blocks.
std::int64_t width_of(const LayerMlp& mlp);

/// One of the experts of a MoE layer, weighed by `scale` as the architecture weighs experts: what it says, or what it sees.
MlpBlock expert_block(const arch::OpenModel& moe, std::int64_t layer, std::int64_t expert, double scale = 1.0);
/// Its shared expert.
MlpBlock shared_block(const arch::OpenModel& moe, std::int64_t layer, double scale = 1.0);
/// The MLP of a layer that is dense in the MoE.
MlpBlock dense_block(const arch::OpenModel& moe, std::int64_t layer);
/// `width` neurons that do nothing.
MlpBlock zero_block(std::int64_t hidden_size, std::int64_t width, bool biased);

/// The biases of the down projections of `blocks`, all biased, added up: a source with one tensor, `name` [D] f32.
std::shared_ptr<const checkpoint::TensorSource> summed_biases(std::string name, LayerMlp blocks);

/// The values of an MLP in f32: gate and up [F, D], down [D, F]; biases [F], [F] and [D], undefined without.
struct MlpTensors {
    at::Tensor gate, up, down;
    at::Tensor gate_bias = {}, up_bias = {}, down_bias = {};
};

/// The block's values, scales applied.
MlpTensors load_block(const MlpBlock& block);

/// A block for each layer in `layers` that `compute(layer)` makes when the writer comes to it, in ascending order; one
/// layer is held at a time. `identity` stands for all that the values depend on.
std::vector<MlpBlock> computed_blocks(std::int64_t num_layers, std::int64_t hidden_size, std::int64_t width, bool biased, std::string identity,
                                      std::function<MlpTensors(std::int64_t layer)> compute);

}  // namespace mixwright::split
