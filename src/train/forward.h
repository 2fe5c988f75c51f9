// The forward pass of training: all layers, what the routers add to the loss, and activations kept or computed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/decoder.h"
#include "train/auxiliary.h"

namespace mixwright::train {

struct ForwardOptions {
    AuxiliaryWeights auxiliary;
    bool checkpointing = false;
    bool keep_streams = false;   // for losses on what the layers say
    const distributed::Team* everyone = nullptr;   // those who have a part of the batch each; null: nobody else
};

struct ForwardResult {
    at::Tensor hidden;         // [B, L, D] behind the final norm
    at::Tensor auxiliary;      // scalar f32, or undefined without any
    std::vector<RouterLoad> loads;   // of all routers, in order
    std::vector<at::Tensor> streams;  // [B, L, D] behind each layer, when they are kept
};

/// ids [B, L]. With `checkpointing` only the input of each layer is kept; the layer runs again, to the same bits, when its
/// gradient is computed.
ForwardResult forward(const model::Decoder& decoder, const model::ModelWeights& weights, const at::Tensor& ids, const ForwardOptions& options);

}  // namespace mixwright::train
