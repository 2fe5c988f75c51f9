#include "surgery/zip.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "arch/zipped.h"
#include "calibrate/loss_gradients.h"
#include "checkpoint/safetensors_source.h"
#include "checkpoint/tensor_file.h"
#include "error.h"
#include "io/journal.h"
#include "model/layer_stream.h"
#include "progress.h"
#include "surgery/moe_plan.h"
#include "surgery/remote_code.h"

namespace mixwright::surgery {
namespace {

namespace fs = std::filesystem;
using arch::TensorRole;

// Widths that kernels and the block types of GGUF like, as far as the original's width is one.
std::int64_t rounded_width(std::int64_t width, double keep) {
    const std::int64_t multiple = width >= 128 && width % 32 == 0 ? 32 : width % 8 == 0 ? 8 : 1;
    const auto steps = static_cast<std::int64_t>(std::lround(static_cast<double>(width) * keep / static_cast<double>(multiple)));
    return std::clamp(steps * multiple, std::min(multiple, width), width);
}

// The tensors of a layer that zip makes anew.
bool is_made(TensorRole role) { return role == TensorRole::router || role == TensorRole::router_bias || role == TensorRole::expert || role == TensorRole::shared_expert; }

std::map<std::string, TensorRole> made_tensors(const arch::ModelSpec& spec, std::int64_t layer) {
    std::map<std::string, TensorRole> names;
    for (const arch::TensorSlot& slot : arch::tensor_slots(spec))
        if (slot.layer == layer && is_made(slot.role)) names.emplace(slot.name, slot.role);
    return names;
}

fs::path layer_file(const fs::path& workplace, std::int64_t layer) { return workplace / fmt::format("layer-{:05}.safetensors", layer); }

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
                layers.push_back(parse(found->second));
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

    // How well each source expert's own output comes back on held-out tokens: squared error over energy.
    static std::vector<double> recovery(const model::MoeWeights& block, const model::MoeWeights& made, const calibrate::RoutedLayer& routed) {
        std::vector<double> errors;
        for (std::size_t e = 0; e < block.experts.size(); ++e) {
            const calibrate::ExpertTokens reach = routed.of(static_cast<std::int64_t>(e));
            const at::Tensor tokens = reach.tokens.narrow(0, reach.num_fit, reach.tokens.size(0) - reach.num_fit);
            const at::Tensor x = routed.inputs.index_select(0, tokens);
            const auto output = [&](const ops::Mlp& expert) { return at::linear(expert_activations(expert, x), expert.down.weight); };
            const at::Tensor truth = output(block.experts[e]);
            const double energy = truth.square().sum().item<double>();
            errors.push_back(energy > 0 ? (output(made.experts[e]) - truth).square().sum().item<double>() / energy : std::nan(""));
        }
        return errors;
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

    static ZippedLayer parse(const io::Json& line) {
        const auto number = [&](const char* key) { return line.at(key).is_null() ? std::nan("") : line.at(key).get<double>(); };
        ZippedLayer layer{.layer = line.at("layer"), .tokens = line.at("tokens"), .error = number("error"), .fitted_error = number("fitted_error"),
                          .unfitted_error = number("unfitted_error"), .recovery_error = number("recovery_error"), .starved = line.at("starved"), .note = line.at("note")};
        for (const io::Json& error : line.at("recovered")) layer.recovered.push_back(error.is_null() ? std::nan("") : error.get<double>());
        if (line.contains("zipped")) layer.zipped = arch::zipped_from_json(line.at("zipped"));
        if (line.contains("typed")) layer.typed = TypedShares::from_json(line.at("typed"));
        return layer;
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

io::Json ZippedLayer::json() const {
    const auto number = [](double value) { return std::isfinite(value) ? io::Json(value) : io::Json(); };
    io::Json json{{"layer", layer}, {"tokens", tokens}, {"error", number(error)}, {"fitted_error", number(fitted_error)},
                  {"unfitted_error", number(unfitted_error)}, {"recovery_error", number(recovery_error)}, {"recovered", io::Json::array()},
                  {"starved", starved}, {"note", note}};
    for (const double error : recovered) json["recovered"].push_back(number(error));
    if (zipped) json["zipped"] = arch::zipped_json(*zipped);
    if (typed) json["typed"] = typed->json();
    return json;
}

namespace {

// Forms that the methods here do not know what to do with.
void check_form(const arch::OpenModel& model, const ZipOptions& options) {
    const arch::ModelSpec& spec = model.spec;
    const arch::MoeTable& table = *spec.architecture->moe;
    if (table.zipped)
        throw Error(ErrorCode::unsupported, fmt::format("{}: the model is zipped already", model.checkpoint.name), "zip the model it was made from, with a smaller --keep");
    const auto refuse = [&](const char* what) {
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} {}, which zip does not do yet", model.checkpoint.name, spec.architecture->model_type, what));
    };
    if (table.expert_bias) refuse("has biases in its experts");
    if (table.weigh_input) refuse("weighs what an expert sees, not what it says");
    if (spec.architecture->mlp == arch::MlpForm::plain) refuse("has experts without gates");
    if (!spec.architecture->packed.empty()) refuse("packs several tensors into one on disk");
    if (std::ranges::any_of(spec.layers, [](const arch::LayerSpec& layer) { return layer.chain.has_value(); })) refuse("chains its experts");
    if (needs_gradients(options) && !arch::norm_names(spec.architecture->norm_placement).after_mlp.empty()) refuse("has norms behind its experts, which --method heapr does not see through");
    if (options.method == ZipMethod::typed && options.group_size != 2)
        throw Error(ErrorCode::usage, fmt::format("--group-size {}: --method typed shares neurons within pairs", options.group_size));
    if (options.format == ZipFormat::zipped && options.method != ZipMethod::typed && options.method != ZipMethod::neuron)
        throw Error(ErrorCode::usage, fmt::format("--format zipped goes with --method typed and neuron, not {}", zip_method_name(options.method)));
    if (makes_narrower(options.method)) return;
    if (spec.num_groups > 1) refuse("chooses experts by groups, which must stay equally large (--method neuron keeps all experts)");
    const bool prunes = options.method == ZipMethod::reap || options.method == ZipMethod::frequency || options.method == ZipMethod::random;
    if (!prunes && (table.router_bias || table.correction_bias)) refuse("has biases in its routers, and they cannot be merged");
}

}  // namespace

ZipPlan plan_zip(const arch::OpenModel& model, const ZipOptions& options) {
    const arch::ModelSpec& spec = model.spec;
    if (!spec.is_moe())
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} is a dense architecture, it has no experts to zip", model.checkpoint.name, spec.architecture->model_type));
    if (model.checkpoint.format == checkpoint::Format::gguf)
        throw Error(ErrorCode::unsupported, fmt::format("{}: a GGUF is not zipped", model.checkpoint.name), "mixwright import makes a Hugging Face directory of it");
    check_form(model, options);
    const arch::MoeTable& table = *spec.architecture->moe;
    ZipPlan plan{.spec = spec};
    io::Json config = model.checkpoint.config;
    if (options.format == ZipFormat::zipped) {
        plan.spec.architecture = &arch::zipped_form_of(*spec.architecture);
        config["model_type"] = plan.spec.architecture->model_type;
        config["architectures"] = {plan.spec.architecture->hf_class};
        config.erase("auto_map");
        plan.config = std::move(config);
        return plan;
    }
    if (makes_narrower(options.method)) {
        plan.spec.expert_width = rounded_width(spec.expert_width, options.keep);
        config[table.expert_width_key] = plan.spec.expert_width;
        if (!table.num_shared_key.empty() && spec.shared_width > 0)
            plan.spec.shared_width = spec.shared_width / spec.expert_width * plan.spec.expert_width;
    } else {
        plan.spec.num_experts = std::clamp<std::int64_t>(std::lround(static_cast<double>(spec.num_experts) * options.keep), 1, spec.num_experts);
        if (plan.spec.num_experts < spec.top_k)
            throw Error(ErrorCode::usage, fmt::format("--keep {}: {} of {} experts would be left, fewer than the {} every token goes to", options.keep,
                                                      plan.spec.num_experts, spec.num_experts, spec.top_k),
                        "keep more, or make experts narrower instead of fewer (--method neuron)");
        for (const std::string_view key : table.num_experts_keys)
            if (config.contains(key)) config[key] = plan.spec.num_experts;
    }
    // What a reader will make of it.
    const arch::ModelSpec read = arch::parse_config(config, "config.json of the result");
    plan.config = std::move(config);
    if (read.expert_width != plan.spec.expert_width || read.num_experts != plan.spec.num_experts || read.shared_width != plan.spec.shared_width)
        throw Error(ErrorCode::unsupported, fmt::format("{}: its config cannot say what the zipped model would be", model.checkpoint.name));
    return plan;
}

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

namespace {

std::string zip_report(const arch::OpenModel& model, const ZipOptions& options, const std::vector<ZippedLayer>& layers) {
    io::Json report{{"source", model.checkpoint.path.lexically_normal().filename().string()}, {"method", zip_method_name(options.method)}, {"keep", options.keep}, {"layers", io::Json::array()}};
    for (const ZippedLayer& layer : layers) report["layers"].push_back(layer.json());
    return report.dump(1, ' ', false, io::Json::error_handler_t::replace) + "\n";
}

}  // namespace

checkpoint::OutputPlan zip_output(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers, const fs::path& workplace) {
    std::map<std::int64_t, std::shared_ptr<const checkpoint::TensorSource>> files;
    checkpoint::OutputPlan output;
    for (const arch::TensorSlot& slot : arch::tensor_slots(plan.spec)) {
        if (!is_made(slot.role)) {
            output.tensors.push_back(copy_tensor(slot.name, model.tensors, model.tensors->at(slot.name)));
            continue;
        }
        auto& file = files[slot.layer];
        if (!file) file = checkpoint::open_safetensors_file(layer_file(workplace, slot.layer));
        output.tensors.push_back(copy_tensor(slot.name, file, file->at(slot.name)));
    }
    io::Json config = plan.config;
    if (options.format == ZipFormat::zipped) {
        for (const arch::LayerSpec& layer : plan.spec.layers) config["zipped_experts"].push_back(layer.zipped ? arch::zipped_json(*layer.zipped) : io::Json());
        if (arch::parse_config(config, "config.json of the result").layers != plan.spec.layers)
            throw Error(ErrorCode::unsupported, fmt::format("{}: its config cannot say what the zipped model would be", model.checkpoint.name));
    }
    add_remote_code(plan.spec, output, config);
    output.config = config.dump(2) + "\n";
    output.files.push_back({"zip_report.json", zip_report(model, options, layers)});
    output.inputs = {model.checkpoint.path};
    return output;
}

double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to) {
    const auto size = [](const arch::ModelSpec& spec) {
        std::int64_t size = 0;
        for (const arch::LayerSpec& layer : spec.layers)
            if (layer.kind == arch::LayerKind::moe) size += layer.zipped ? layer.zipped->size() : 3 * spec.num_experts * spec.expert_width;
        return static_cast<double>(size);
    };
    return size(to) / size(from);
}

double speed_bound(const arch::ModelSpec& from, const std::vector<ZippedLayer>& layers, bool shared) {
    double read = 0;
    for (const ZippedLayer& layer : layers) {
        if (!layer.typed) return 1;
        read += (shared ? layer.typed->read : layer.typed->read_apart) / static_cast<double>(layers.size());
    }
    const double experts = static_cast<double>(3 * from.top_k * from.expert_width * from.hidden_size * std::ssize(layers)) / static_cast<double>(from.num_active_parameters());
    return 1 / (1 - experts * (1 - read));
}

}  // namespace mixwright::surgery
