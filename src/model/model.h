// A model ready to run: all weights loaded (mapped where the file's dtype is the compute dtype), or a layer at a time.
#pragma once

#include <optional>
#include <string_view>

#include "arch/canonical.h"
#include "model/decoder.h"

namespace mixwright::model {

struct Model {
    arch::OpenModel files;
    Placement placement;
    Decoder decoder;
    ModelWeights weights;
    bool streamed = false;  // weights.layers is empty; each layer is loaded when it is due and given back after it

    /// All layers and the final norm: ids [B, L] -> [B, L, D], [B, 1, D] when the step is last_only. Advances its cache.
    at::Tensor run(const at::Tensor& ids, const Step& step) const;
    /// [.., D] -> [.., V]
    at::Tensor logits(const at::Tensor& hidden) const { return decoder.logits(weights, hidden); }
};

/// The dtype to compute in: `requested` ("bfloat16", "f32", ...), else the model's own, else f32. Error(usage) on a name that is no float dtype.
at::ScalarType compute_dtype(std::string_view requested, const arch::OpenModel& model);
/// "cpu", "cuda", "cuda:1"; empty: cuda when there is one. Error(usage) when the device is not there.
at::Device compute_device(std::string_view requested);

Model load_model(arch::OpenModel files, Placement placement);
/// A model larger than memory: only embedding, final norm and head are loaded.
Model stream_model(arch::OpenModel files, Placement placement);

}  // namespace mixwright::model
