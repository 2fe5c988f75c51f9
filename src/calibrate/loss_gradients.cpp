#include "calibrate/loss_gradients.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "checkpoint/safetensors_source.h"
#include "checkpoint/tensor_file.h"
#include "error.h"
#include "model/head.h"
#include "ops/vocabulary_loss.h"
#include "progress.h"

namespace mixwright::calibrate {
namespace {

namespace fs = std::filesystem;

fs::path stream_file(const fs::path& folder, std::int64_t layer) { return folder / fmt::format("stream-{:05}.safetensors", layer); }
fs::path gradient_file(const fs::path& folder, std::int64_t layer) { return folder / fmt::format("gradient-{:05}.safetensors", layer); }

void save(const fs::path& path, const at::Tensor& values_ND) {
    const at::Tensor values = values_ND.to(at::kCPU).contiguous();
    const auto* data = static_cast<const std::byte*>(values.const_data_ptr());
    const Dtype dtype = values.scalar_type() == at::kFloat ? Dtype::f32 : values.scalar_type() == at::kHalf ? Dtype::f16
                        : values.scalar_type() == at::kBFloat16 ? Dtype::bf16 : Dtype::f64;
    std::vector<checkpoint::OutputTensor> tensors;
    tensors.push_back({{"values", dtype, values.sizes().vec()}, checkpoint::OwnedBytes(data, data + values.nbytes())});
    checkpoint::write_tensor_file(path, std::move(tensors));
}

std::int64_t first_moe_layer(const arch::ModelSpec& spec) {
    const auto found = std::ranges::find(spec.layers, arch::LayerKind::moe, &arch::LayerSpec::kind);
    return found - spec.layers.begin();
}

// Both passes. The stream [N, D] that enters layer l lies in stream_file(l); on the way back the gradient takes its place.
class BothWays {
public:
    BothWays(const arch::OpenModel& model, const std::vector<model::StreamedBatch>& batches, const model::Placement& placement, const fs::path& folder)
        : model_(model), batches_(batches), placement_(placement), folder_(folder), decoder_(model.spec), outer_(model::load_outer(model, placement)) {}

    void run() {
        const std::int64_t layers = model_.spec.num_layers;
        Progress progress("running layers forward and backward", static_cast<std::uint64_t>(2 * layers), "layers");
        at::Tensor stream;
        {
            const c10::InferenceMode guard;
            std::vector<at::Tensor> hidden;
            for (const model::StreamedBatch& batch : batches_) hidden.push_back(decoder_.embed(outer_, batch.ids.to(placement_.device), placement_.dtype));
            for (std::int64_t layer = 0; layer < layers; ++layer) {
                save(stream_file(folder_, layer), joined(hidden));
                const model::LayerWeights weights = model::load_layer(model_, layer, placement_);
                for (at::Tensor& h : hidden) h = decoder_.run_layer(weights, layer, h, step_of(h)), check_interrupted();
                model::drop_layer(model_, layer);
                progress.advance();
            }
            stream = joined(hidden);
        }
        at::Tensor gradient = of_the_loss(stream);
        for (std::int64_t layer = layers - 1;; --layer) {
            if (!gradient.isfinite().all().item<bool>())
                throw Error(ErrorCode::failed, fmt::format("the gradient of the loss behind layer {} is not finite", layer), "compute with --dtype float32");
            save(gradient_file(folder_, layer), gradient);
            fs::remove(stream_file(folder_, layer + 1));
            if (layer == first_moe_layer(model_.spec)) break;
            gradient = before(layer, gradient);
            progress.advance();
        }
        for (std::int64_t layer = 0; layer < layers; ++layer) fs::remove(stream_file(folder_, layer));
    }

private:
    model::Step step_of(const at::Tensor& hidden) const { return decoder_.step(hidden.size(1), placement_.device); }

    static at::Tensor joined(const std::vector<at::Tensor>& hidden) {
        std::vector<at::Tensor> rows;
        for (const at::Tensor& h : hidden) rows.push_back(h.flatten(0, 1));
        return at::cat(rows).to(at::kCPU);
    }

    // Runs graph(batch, its rows of `values` as a leaf [B, L, D]), which gives what to differentiate and the gradient of that, over all
    // batches; the gradients of the leaves, [N, D].
    at::Tensor backward(const at::Tensor& values, const auto& graph) const {
        const at::AutoGradMode enabled(true);
        at::Tensor result = at::empty(values.sizes(), values.options());
        std::int64_t first = 0;
        for (const model::StreamedBatch& batch : batches_) {
            const std::int64_t rows = batch.ids.numel();
            const at::Tensor leaf = values.narrow(0, first, rows).view({batch.ids.size(0), batch.ids.size(1), -1}).to(placement_.device, placement_.dtype, false, /*copy=*/true).requires_grad_(true);
            const auto [root, root_gradient] = graph(batch, leaf, first);
            result.narrow(0, first, rows).copy_(torch::autograd::grad({root}, {leaf}, {root_gradient})[0].flatten(0, 1));
            first += rows;
            check_interrupted();
        }
        return result;
    }

    at::Tensor of_the_loss(const at::Tensor& stream) const {
        const ops::HeadForm head = model::head_form(decoder_, outer_);
        return backward(stream, [&](const model::StreamedBatch& batch, const at::Tensor& leaf, std::int64_t) {
            const std::int64_t predicted = batch.ids.size(1) - 1;
            const at::Tensor hidden = decoder_.final_norm(outer_, leaf).narrow(1, 0, predicted).flatten(0, 1);
            const at::Tensor targets = batch.ids.narrow(1, 1, predicted).flatten().to(placement_.device);
            return std::pair(ops::vocabulary_loss(hidden, outer_.lm_head, targets, 1.0, 1024, head), at::Tensor());
        });
    }

    // The gradient at the input of `layer` from that at its output.
    at::Tensor before(std::int64_t layer, const at::Tensor& gradient) const {
        const model::LayerWeights weights = model::load_layer(model_, layer, placement_);
        const arch::OpenModel file{.checkpoint = model_.checkpoint, .spec = model_.spec, .tensors = checkpoint::open_safetensors_file(stream_file(folder_, layer))};
        const at::Tensor result = backward(model::load_tensor(file, "values", {placement_.dtype, at::kCPU}),
                                           [&](const model::StreamedBatch& batch, const at::Tensor& leaf, std::int64_t first) {
            const at::Tensor out = decoder_.run_layer(weights, layer, leaf, step_of(leaf));
            return std::pair(out, gradient.narrow(0, first, batch.ids.numel()).view(out.sizes()).to(placement_.device));
        });
        model::drop_layer(model_, layer);
        return result;
    }

    const arch::OpenModel& model_;
    const std::vector<model::StreamedBatch>& batches_;
    model::Placement placement_;
    const fs::path& folder_;
    model::Decoder decoder_;
    model::ModelWeights outer_;
};

}  // namespace

LossGradients::LossGradients(const arch::OpenModel& model, const std::vector<model::StreamedBatch>& batches, const model::Placement& placement, fs::path folder)
    : model_(model), folder_(std::move(folder)) {
    // The lowest is written last.
    if (fs::exists(gradient_file(folder_, first_moe_layer(model.spec)))) return;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    const c10::InferenceMode off(false);
    BothWays(model, batches, placement, folder_).run();
}

at::Tensor LossGradients::behind(std::int64_t layer) const {
    const arch::OpenModel file{.checkpoint = model_.checkpoint, .spec = model_.spec, .tensors = checkpoint::open_safetensors_file(gradient_file(folder_, layer))};
    return model::load_tensor(file, "values", {at::kFloat, at::kCPU});
}

}  // namespace mixwright::calibrate
