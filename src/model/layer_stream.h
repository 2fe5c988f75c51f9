// Runs sequences through a model one layer at a time: a layer's weights are loaded, all sequences pass it, and it is
// dropped. Memory is the activations, the embedding and one layer, whatever the size of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "arch/canonical.h"
#include "model/decoder.h"

namespace mixwright::model {

struct StreamedBatch {
    at::Tensor ids;       // int64 [B, L]
    at::Tensor key_mask;  // bool [B, L], false for padding; undefined without padding
};

class LayerStream {
public:
    LayerStream(const arch::OpenModel& model, Placement placement);

    /// Runs `batches` through all layers. `taps_for`, when given, makes the taps of a batch (null for none).
    /// Returns the stream after the last layer and the final norm, [B, L, D] a batch. Call under at::NoGradGuard.
    std::vector<at::Tensor> run(const std::vector<StreamedBatch>& batches,
                                const std::function<Taps*(std::size_t batch)>& taps_for = {}) const;

    const Decoder& decoder() const noexcept { return decoder_; }
    /// Everything but the layers, loaded anew: for logits. Keep it over several calls.
    ModelWeights outer() const { return load_outer(model_, placement_); }

private:
    const arch::OpenModel& model_;
    Placement placement_;
    Decoder decoder_;
    ModelWeights ends_;  // embedding (as it is stored: only rows in use are converted) and final norm
};

}  // namespace mixwright::model
