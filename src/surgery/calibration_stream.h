// Calibration text on its way through a mixture of experts: the residual streams of all batches as they stand before one layer.
// It knows nothing of what becomes of the layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "arch/canonical.h"
#include "calibrate/domain_tokens.h"
#include "calibrate/routed_layer.h"
#include "model/decoder.h"
#include "model/weights.h"

namespace mixwright::surgery {

class CalibrationStream {
public:
    /// Before the first layer of `model`.
    CalibrationStream(const arch::OpenModel& model, const calibrate::DomainTokens& text, const model::Placement& placement);

    /// Through a layer.
    void advance(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer);
    /// What happens in the layer's MoE block, in all iterations of a chain; the stream stays. `outputs` gets what the layer would make of it.
    calibrate::RoutedLayer observe(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer,
                                   std::vector<at::Tensor>* outputs = nullptr) const;
    /// Behind a layer whose outputs are known.
    void become(std::vector<at::Tensor> outputs) { hidden_BLD_ = std::move(outputs); }

private:
    model::Placement placement_;
    std::int64_t num_fit_;
    std::vector<at::Tensor> hidden_BLD_;  // of each batch
};

}  // namespace mixwright::surgery
