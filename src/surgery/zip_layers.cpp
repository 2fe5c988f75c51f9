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
#include "progress.h"
#include "surgery/calibration_stream.h"
#include "surgery/layer_shares.h"
#include "surgery/neuron_choice.h"

namespace mixwright::surgery {
namespace {

namespace fs = std::filesystem;
using arch::TensorRole;

double shared_mean_energy(const model::MoeWeights& block) {
    double mean = 0, each = 0;
    const auto experts = static_cast<double>(block.experts.size());
    for (const auto projection : {&ops::Mlp::gate, &ops::Mlp::up, &ops::Mlp::down}) {
        at::Tensor sum = at::zeros_like((block.experts.front().*projection).weight);
        for (const ops::Mlp& expert : block.experts) {
            sum.add_((expert.*projection).weight);
            each += (expert.*projection).weight.square().sum(at::kDouble).item<double>() / experts;
        }
        mean += (sum / experts).square().sum(at::kDouble).item<double>();
    }
    return each > 0 ? mean / each : 0;
}

class Zipping {
public:
    // `gradients`: when needs_gradients(). `shares`: what of its experts' bytes each layer keeps.
    Zipping(const arch::OpenModel& model, const calibrate::DomainTokens& text, ZipPlan& plan, const ZipOptions& options,
            const model::Placement& placement, const fs::path& workplace, const calibrate::LossGradients* gradients, std::vector<double> shares)
        : model_(model), plan_(plan), options_(options), placement_(placement), workplace_(workplace), original_(model.spec),
          zipped_(plan.spec), stream_(model, text, placement), gradients_(gradients), shares_(std::move(shares)) {}

    std::vector<ZippedLayer> run(io::Journal& journal) {
        std::map<std::int64_t, io::Json> finished;
        for (const io::Json& line : journal.lines())
            if (line.contains("layer")) finished[line["layer"].get<std::int64_t>()] = line;
        const auto is_dense = [&](std::int64_t layer) { return model_.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::dense; };
        const auto is_finished = [&](std::int64_t layer) { return finished.contains(layer) && fs::exists(layer_file(workplace_, layer)); };
        // From there on nobody looks at the stream any more.
        std::int64_t end = model_.spec.num_layers;
        while (end > 0 && (is_dense(end - 1) || is_finished(end - 1))) --end;
        std::vector<ZippedLayer> layers;
        Progress progress("zipping layers", static_cast<std::uint64_t>(model_.spec.num_layers), "layers");
        for (std::int64_t layer = 0; layer < model_.spec.num_layers; ++layer) {
            model::LayerWeights weights;
            if (layer < end) weights = model::load_layer(model_, layer, placement_);
            if (is_dense(layer)) {
                if (layer < end) stream_.advance(original_, weights, layer);
            } else if (is_finished(layer)) {
                layers.push_back(ZippedLayer::from_json(finished.at(layer)));
                plan_.spec.layers[static_cast<std::size_t>(layer)].zipped = layers.back().zipped;
                if (layer < end && options_.sequential) take_back(layer, weights);
                if (layer < end) stream_.advance(options_.sequential ? zipped_ : original_, weights, layer);
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
    ZippedLayer zip(std::int64_t layer, model::LayerWeights weights) {
        std::vector<at::Tensor> outputs;
        const calibrate::RoutedLayer routed = stream_.observe(original_, weights, layer, options_.sequential ? nullptr : &outputs);
        const model::MoeWeights block = placed(weights.moe, {at::kFloat, at::kCPU});

        ZippedLayer report{.layer = layer, .tokens = routed.counts(model_.spec.num_experts), .shared_mean_energy = shared_mean_energy(block)};
        advise(report);
        ZipOptions options = options_;
        options.keep = shares_[static_cast<std::size_t>(layer)];
        const ZipContext context{model_.spec, plan_.spec, block, routed, options, layer, gradients_ != nullptr ? gradients_->behind(layer) : at::Tensor()};
        for (std::int64_t e = 0; e < model_.spec.num_experts; ++e)
            if (starved(context, e)) ++report.starved;
        const bool zipped = options.format == ZipFormat::zipped;
        const bool all_kept = zipped ? options.keep == 1 : plan_.spec.num_experts == model_.spec.num_experts && plan_.spec.expert_width == model_.spec.expert_width;
        MadeBlock made = all_kept ? all_of(block) : make_block(context);
        report.note = made.note;
        report.zipped = made.zipped;
        report.typed = made.typed;
        if (!all_kept) finish(made.weights, block, routed, weights, layer, report);

        made.weights.shared_gate = weights.moe.shared_gate;  // which nothing changes, where the stream is and in its dtype
        weights.moe = std::move(made.weights);
        if (made.zipped) group_rows(*made.zipped, weights.moe);
        plan_.spec.layers[static_cast<std::size_t>(layer)].zipped = std::move(made.zipped);
        report.kept = kept_expert_bytes(model_.spec, plan_.spec, layer);
        save(layer, weights);
        if (options_.sequential)
            stream_.advance(zipped_, weights, layer);
        else
            stream_.become(std::move(outputs));
        return report;
    }

    // Said before the hours that making copies narrower would take.
    void advise(const ZippedLayer& report) {
        constexpr double copies = 0.95;  // experts grown out of one and trained on (80 %) still lose least by being narrower: docs/zip.md
        if (advised_ || !makes_narrower(options_.method) || report.shared_mean_energy < copies) return;
        advised_ = true;
        warn(fmt::format("the experts of layer {} are still copies of one (energy of their mean {:.0f} % of an expert's; {:.0f} % for unrelated ones): fewer of them will lose less than "
                         "narrower ones (--method hc-smoe)", report.layer, 100 * report.shared_mean_energy, 100.0 / static_cast<double>(model_.spec.num_experts)));
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
            weights.moe = placed(made, placement_);
            rerouted = stream_.observe(zipped_, weights, layer);
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
    CalibrationStream stream_;
    const calibrate::LossGradients* gradients_;
    std::vector<double> shares_;
    bool advised_ = false;
};

// Made out once: a resumed run goes on with what the journal says.
std::vector<double> shares_of_layers(const arch::OpenModel& model, const calibrate::DomainTokens& text, const ZipPlan& plan, const ZipOptions& options,
                                     const model::Placement& placement, const calibrate::LossGradients* gradients, io::Journal& journal) {
    if (options.budget == ZipBudget::uniform) return std::vector<double>(static_cast<std::size_t>(model.spec.num_layers), options.keep);
    for (const io::Json& line : journal.lines())
        if (line.contains("shares")) return line["shares"].get<std::vector<double>>();
    const std::vector<double> shares = layer_shares(model, text, plan, options, placement, *gradients);
    journal.append({{"shares", shares}});
    return shares;
}

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
    std::optional<calibrate::LossGradients> gradients;
    if (needs_gradients(options)) gradients.emplace(model, text.all(), placement, workplace / "gradients");
    const calibrate::LossGradients* const given = gradients ? &*gradients : nullptr;
    return Zipping(model, text, plan, options, placement, workplace, given, shares_of_layers(model, text, plan, options, placement, given, journal)).run(journal);
}

}  // namespace mixwright::surgery
