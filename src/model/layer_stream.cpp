#include "model/layer_stream.h"

#include <ATen/ATen.h>

#include "progress.h"

namespace mixwright::model {

LayerStream::LayerStream(const arch::OpenModel& model, Placement placement)
    : model_(model), placement_(placement), decoder_(model.spec) {
    const checkpoint::TensorInfo& embedding = model.tensors->at("model.embed_tokens.weight");
    ends_.embedding = load_tensor(model, embedding.name, {scalar_type(embedding.dtype), placement.device});
    ends_.final_norm = load_final_norm(model, placement);
}

std::vector<at::Tensor> LayerStream::run(const std::vector<StreamedBatch>& batches,
                                         const std::function<Taps*(std::size_t)>& taps_for) const {
    std::vector<at::Tensor> hidden;
    std::vector<Step> steps;
    for (std::size_t b = 0; b < batches.size(); ++b) {
        hidden.push_back(decoder_.embed(ends_, batches[b].ids.to(placement_.device), placement_.dtype));
        steps.push_back(decoder_.step(batches[b].ids.size(1), placement_.device, nullptr, taps_for ? taps_for(b) : nullptr));
        if (batches[b].key_mask.defined()) steps.back().key_mask = batches[b].key_mask.to(placement_.device);
    }
    const std::int64_t num_layers = decoder_.spec().num_layers;
    Progress progress("running layers", static_cast<std::uint64_t>(num_layers), "layers");
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
        {
            const LayerWeights weights = load_layer(model_, layer, placement_);
            for (std::size_t b = 0; b < batches.size(); ++b) {
                hidden[b] = decoder_.run_layer(weights, layer, hidden[b], steps[b]);
                check_interrupted();
            }
        }
        drop_layer(model_, layer);
        progress.advance();
    }
    for (at::Tensor& h : hidden) h = decoder_.final_norm(ends_, h);
    return hidden;
}

}  // namespace mixwright::model
