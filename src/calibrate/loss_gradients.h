// What the loss says of the residual stream: the gradient of the next token's loss with respect to the stream behind each layer,
// for models larger than memory. Once forward, once backward, a layer at a time.
//
// Shape legend: N tokens of all batches, D hidden size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "arch/canonical.h"
#include "model/layer_stream.h"

namespace mixwright::calibrate {

class LossGradients {
public:
    /// Runs `batches` through `model` and back down to its first MoE layer. `folder` holds a file [N, D] for each layer, in the dtype of
    /// the placement; memory holds a layer's weights, two such tensors and the graph of one batch. A folder that an earlier run
    /// completed is taken as it is: the caller empties it when the text or the model is another. Error(failed) when a gradient is no number.
    LossGradients(const arch::OpenModel& model, const std::vector<model::StreamedBatch>& batches, const model::Placement& placement,
                  std::filesystem::path folder);

    /// The gradient of the sum of all tokens' losses with respect to the stream behind `layer` (a MoE layer, or any above the first): [N, D]
    /// f32 on the CPU, tokens in the order of the batches. A view of the mapped file. Without a norm behind the MLP it is, times the
    /// residual multiplier, also the gradient with respect to the output of that layer's MLP.
    at::Tensor behind(std::int64_t layer) const;

private:
    const arch::OpenModel& model_;
    std::filesystem::path folder_;
};

}  // namespace mixwright::calibrate
