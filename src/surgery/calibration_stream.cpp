#include "surgery/calibration_stream.h"

#include <ATen/ATen.h>

#include "progress.h"

namespace mixwright::surgery {

CalibrationStream::CalibrationStream(const arch::OpenModel& model, const calibrate::DomainTokens& text, const model::Placement& placement)
    : placement_(placement), num_fit_(text.num_fit) {
    const checkpoint::TensorInfo& embedding = model.tensors->at("model.embed_tokens.weight");
    const model::Decoder decoder(model.spec);
    model::ModelWeights ends;
    ends.embedding = model::load_tensor(model, embedding.name, {model::scalar_type(embedding.dtype), placement.device});
    for (const model::StreamedBatch& batch : text.all()) hidden_BLD_.push_back(decoder.embed(ends, batch.ids.to(placement.device), placement.dtype));
}

void CalibrationStream::advance(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer) {
    for (at::Tensor& hidden : hidden_BLD_) {
        hidden = decoder.run_layer(weights, layer, hidden, decoder.step(hidden.size(1), placement_.device));
        check_interrupted();
    }
}

calibrate::RoutedLayer CalibrationStream::observe(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer,
                                                  std::vector<at::Tensor>* outputs) const {
    calibrate::RoutedLayerTaps taps;
    for (const at::Tensor& hidden : hidden_BLD_) {
        const at::Tensor out = decoder.run_layer(weights, layer, hidden, decoder.step(hidden.size(1), placement_.device, nullptr, &taps));
        taps.layer_output(out);
        if (outputs != nullptr) outputs->push_back(out);
        check_interrupted();
    }
    calibrate::RoutedLayer routed = calibrate::joined(taps.take_iterations(num_fit_));
    // Surgery is done on the CPU, whatever the stream is computed on.
    for (at::Tensor calibrate::RoutedLayer::*part : calibrate::RoutedLayer::parts()) routed.*part = (routed.*part).to(at::kCPU);
    routed.inputs = routed.inputs.to(at::kFloat);
    return routed;
}

}  // namespace mixwright::surgery
