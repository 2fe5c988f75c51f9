// One vector a layer for each batch of prompts: the state of their tokens, pooled. The model passes a layer at a time.
#pragma once

#include <vector>

#include "arch/canonical.h"
#include "model/layer_stream.h"

namespace mixwright::calibrate {

enum class StatePlace {
    layer_input,  // the residual stream that enters the layer
    mlp_input     // after the post-attention norm: what a router in the MLP's place sees
};

enum class Pooling {
    last_token,    // of each prompt
    all_positions  // mean over the whole row, padding included
};

/// For each batch the mean over its prompts of the pooled state, [layers, D] f32 on the CPU.
std::vector<at::Tensor> pooled_states(const arch::OpenModel& model, const std::vector<model::StreamedBatch>& batches,
                                      const model::Placement& placement, StatePlace place, Pooling pooling);

}  // namespace mixwright::calibrate
