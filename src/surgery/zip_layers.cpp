#include "surgery/zip_layers.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <optional>

#include "arch/zipped.h"
#include "calibrate/loss_gradients.h"
#include "checkpoint/safetensors_source.h"
#include "checkpoint/tensor_file.h"
#include "error.h"
#include "io/journal.h"
#include "model/layer_stream.h"
#include "progress.h"

namespace mixwright::surgery {
namespace {

namespace fs = std::filesystem;
using arch::TensorRole;

void for_each_weight(model::MoeWeights& weights, const auto& change) {
    change(router_of(weights));
    const auto mlp = [&](ops::Mlp& m) {
        change(m.gate.weight);
        change(m.up.weight);
        change(m.down.weight);
    };
    for (ops::Mlp& expert : weights.experts) mlp(expert);
    if (weights.shared.down.weight.defined()) mlp(weights.shared);
    if (weights.shared_gate.defined()) change(weights.shared_gate);
}

class Zipping {
public:
    Zipping(const arch::OpenModel& model, const calibrate::DomainTokens& text, ZipPlan& plan, const ZipOptions& options,
            const model::Placement& placement, const fs::path& workplace)
        : model_(model), plan_(plan), options_(options), placement_(placement), workplace_(workplace), original_(model.spec),
          zipped_(plan.spec), num_fit_(text.num_fit) {
        for (const auto* batches : {&text.fit, &text.held_out}) batches_.insert(batches_.end(), batches->begin(), batches->end());
        model::ModelWeights ends;
        if (needs_gradients(options)) gradients_.emplace(model, batches_, placement, workplace / "gradients");
        ends.embedding = model::load_tensor(model, "model.embed_tokens.weight", {model::scalar_type(model.tensors->at("model.embed_tokens.weight").dtype), placement.device});
        for (const model::StreamedBatch& batch : batches_) stream_.push_back(original_.embed(ends, batch.ids.to(placement.device), placement.dtype));
    }

    std::vector<ZippedLayer> run(io::Journal& journal) {
        std::map<std::int64_t, io::Json> finished;
        for (const io::Json& line : journal.lines())
            if (line.contains("layer")) finished[line["layer"].get<std::int64_t>()] = line;
        std::vector<ZippedLayer> layers;
        Progress progress("zipping layers", static_cast<std::uint64_t>(model_.spec.num_layers), "layers");
        for (std::int64_t layer = 0; layer < model_.spec.num_layers; ++layer) {
            model::LayerWeights weights = model::load_layer(model_, layer, placement_);
            if (model_.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::dense) {
                advance(original_, weights, layer);
            } else if (const auto found = finished.find(layer); found != finished.end() && fs::exists(layer_file(workplace_, layer))) {
                layers.push_back(ZippedLayer::from_json(found->second));
                plan_.spec.layers[static_cast<std::size_t>(layer)].zipped = layers.back().zipped;
                if (options_.sequential) take_back(layer, weights);
                advance(options_.sequential ? zipped_ : original_, weights, layer);
            } else {
                layers.push_back(zip(layer, weights));
                journal.append(layers.back().json());
            }
            model::drop_layer(model_, layer);
            progress.advance();
        }
        return layers;
    }

private:
    void advance(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer) {
        for (std::size_t b = 0; b < stream_.size(); ++b) {
            stream_[b] = decoder.run_layer(weights, layer, stream_[b], decoder.step(stream_[b].size(1), placement_.device));
            check_interrupted();
        }
    }

    // The block on the stream as it stands, which stays.
    calibrate::RoutedLayer observe(const model::Decoder& decoder, const model::LayerWeights& weights, std::int64_t layer, std::vector<at::Tensor>* outputs) {
        calibrate::RoutedLayerTaps taps;
        for (const at::Tensor& hidden : stream_) {
            const at::Tensor out = decoder.run_layer(weights, layer, hidden, decoder.step(hidden.size(1), placement_.device, nullptr, &taps));
            taps.layer_output(out);
            if (outputs != nullptr) outputs->push_back(out);
            check_interrupted();
        }
        calibrate::RoutedLayer routed = taps.take(num_fit_);
        routed.inputs = routed.inputs.to(at::kFloat);
        return routed;
    }

    ZippedLayer zip(std::int64_t layer, model::LayerWeights weights) {
        std::vector<at::Tensor> outputs;
        const calibrate::RoutedLayer routed = observe(original_, weights, layer, options_.sequential ? nullptr : &outputs);
        model::MoeWeights block = weights.moe;
        for_each_weight(block, [](at::Tensor& t) { t = t.to(at::kCPU, at::kFloat); });

        ZippedLayer report{.layer = layer, .tokens = routed.counts(model_.spec.num_experts)};
        for (std::int64_t e = 0; e < model_.spec.num_experts; ++e)
            if (routed.of(e).num_fit < model_.spec.expert_width) ++report.starved;

        const ZipContext context{model_.spec, plan_.spec, block, routed, options_, layer, gradients_ ? gradients_->behind(layer) : at::Tensor()};
        const bool zipped = options_.format == ZipFormat::zipped;
        const bool all_kept = zipped ? options_.keep == 1 : plan_.spec.num_experts == model_.spec.num_experts && plan_.spec.expert_width == model_.spec.expert_width;
        MadeBlock made = all_kept ? all_of(block) : make_block(context);
        report.note = made.note;
        report.zipped = made.zipped;
        report.typed = made.typed;
        if (!all_kept) finish(made.weights, block, routed, weights, layer, report);

        weights.moe = std::move(made.weights);
        if (made.zipped) group_rows(*made.zipped, weights.moe);
        plan_.spec.layers[static_cast<std::size_t>(layer)].zipped = std::move(made.zipped);
        save(layer, weights);
        if (options_.sequential)
            advance(zipped_, weights, layer);
        else
            stream_ = std::move(outputs);
        return report;
    }

    MadeBlock all_of(const model::MoeWeights& block) const {
        MadeBlock all{.weights = block, .note = "all kept"};
        if (options_.format == ZipFormat::standard) return all;
        all.zipped.emplace();
        for (std::int64_t e = 0; e < model_.spec.num_experts; ++e) {
            all.zipped->rows.push_back(model_.spec.expert_width);
            all.zipped->windows.push_back({e, 0, model_.spec.expert_width});
        }
        return all;
    }

    // The rows of the groups out of those of the experts, who hold copies of what they share.
    static void group_rows(const arch::ZippedExperts& zipped, model::MoeWeights& moe) {
        moe.groups.resize(zipped.rows.size());
        for (std::size_t e = 0; e < zipped.windows.size(); ++e) {
            const arch::ExpertWindow& window = zipped.windows[e];
            model::ExpertGroup& group = moe.groups[static_cast<std::size_t>(window.group)];
            const auto place = [&](at::Tensor& rows, const at::Tensor& own) {
                if (!rows.defined()) rows = at::zeros({zipped.rows[static_cast<std::size_t>(window.group)], own.size(1)}, own.options());
                rows.narrow(0, window.first, window.width).copy_(own);
            };
            place(group.gate.weight, moe.experts[e].gate.weight);
            place(group.up.weight, moe.experts[e].up.weight);
        }
    }

    // Refit and figures: against what the original block makes of the same inputs.
    void finish(model::MoeWeights& made, const model::MoeWeights& block, const calibrate::RoutedLayer& routed, model::LayerWeights weights,
                std::int64_t layer, ZippedLayer& report) {
        const at::Tensor target = block_output(block, routed);
        calibrate::RoutedLayer rerouted = routed;
        if (!makes_narrower(options_.method)) {
            weights.moe = made;
            for_each_weight(weights.moe, [&](at::Tensor& t) { t = t.to(placement_.device, placement_.dtype); });
            rerouted = observe(zipped_, weights, layer, nullptr);
            rerouted.weights = routed.weights;
        }
        const BlockRefit refit = options_.refit ? refit_block(made, rerouted, target) : judge_block(made, rerouted, target);
        report.error = refit.after;
        report.unfitted_error = refit.before;
        report.fitted_error = refit.fitted;
        if (makes_narrower(options_.method)) report.recovered = recovery(block, made, routed);
        double sum = 0;
        std::int64_t measured = 0;
        for (const double error : report.recovered)
            if (std::isfinite(error)) sum += error, ++measured;
        report.recovery_error = measured > 0 ? sum / static_cast<double>(measured) : std::nan("");
        if (!std::isfinite(report.error))
            throw Error(ErrorCode::failed, fmt::format("layer {}: the output of its experts is not finite on the calibration text", layer),
                        "compute with --dtype float32, or check the weights: mixwright inspect MODEL --verify");
    }

    // Rounds the new weights to the dtype on disk, writes them, and leaves them as the stream will see them.
    void save(std::int64_t layer, model::LayerWeights& weights) {
        const auto made = made_tensors(plan_.spec, layer);
        std::vector<checkpoint::OutputTensor> tensors;
        model::visit_layer_tensors(plan_.spec, layer, weights, [&](const std::string& name, at::Tensor& tensor) {
            const auto slot = made.find(name);
            if (slot == made.end()) return;
            const Dtype dtype = dtype_of(layer, slot->second);
            const at::Tensor stored = tensor.to(at::kCPU, model::scalar_type(dtype)).contiguous();
            const auto* bytes = static_cast<const std::byte*>(stored.const_data_ptr());
            tensors.push_back({{name, dtype, stored.sizes().vec()}, checkpoint::OwnedBytes(bytes, bytes + stored.nbytes())});
            tensor = stored.to(placement_.device, placement_.dtype);
        });
        model::bind_experts(plan_.spec, layer, weights);
        checkpoint::write_tensor_file(layer_file(workplace_, layer), std::move(tensors));
    }

    // The dtype on disk of the original's tensors in that role.
    Dtype dtype_of(std::int64_t layer, TensorRole role) const {
        for (const auto& [name, its_role] : made_tensors(model_.spec, layer))
            if (its_role == role) return model_.tensors->at(name).dtype;
        throw Error(ErrorCode::internal, "a made tensor has no origin");
    }

    void take_back(std::int64_t layer, model::LayerWeights& weights) const {
        const arch::OpenModel file{.checkpoint = model_.checkpoint, .spec = plan_.spec, .tensors = checkpoint::open_safetensors_file(layer_file(workplace_, layer))};
        weights.moe.experts.resize(static_cast<std::size_t>(plan_.spec.num_experts));
        if (const auto& zipped = plan_.spec.layers[static_cast<std::size_t>(layer)].zipped) weights.moe.groups.resize(zipped->rows.size());
        model::visit_layer_tensors(plan_.spec, layer, weights, [&](const std::string& name, at::Tensor& tensor) {
            if (file.tensors->find(name) != nullptr) tensor = model::load_tensor(file, name, placement_).clone();
        });
        model::bind_experts(plan_.spec, layer, weights);
    }

    const arch::OpenModel& model_;
    ZipPlan& plan_;
    const ZipOptions& options_;
    model::Placement placement_;
    fs::path workplace_;
    model::Decoder original_, zipped_;
    std::int64_t num_fit_;
    std::vector<model::StreamedBatch> batches_;
    std::vector<at::Tensor> stream_;  // [B, L, D] a batch
    std::optional<calibrate::LossGradients> gradients_;
};

}  // namespace

std::vector<ZippedLayer> zip_layers(const arch::OpenModel& model, const calibrate::DomainTokens& text, ZipPlan& plan, const ZipOptions& options,
                                    const model::Placement& placement, const fs::path& workplace, const std::string& identity) {
    const c10::InferenceMode guard;
    fs::create_directories(workplace);
    io::Journal journal = io::Journal::open(workplace / "journal");
    const io::Json first{{"zip", identity}};
    if (journal.lines().empty() || journal.lines().front() != first) {
        if (!journal.lines().empty()) info("starting again: an input, option or text has changed since the interrupted run");
        fs::remove_all(workplace / "gradients");
        journal.clear();
        journal.append(first);
    }
    return Zipping(model, text, plan, options, placement, workplace).run(journal);
}

}  // namespace mixwright::surgery
