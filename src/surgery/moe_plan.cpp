#include "surgery/moe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/convert.h"
#include "error.h"
#include "surgery/column_concat.h"

namespace mixwright::surgery {
namespace {

using arch::LayerKind;
using arch::MlpNames;
using arch::TensorRole;
using arch::TensorSlot;
using checkpoint::OutputTensor;
using checkpoint::Piece;
using checkpoint::Pieces;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;
namespace fs = std::filesystem;

enum class MlpPart { gate, up, down };

std::string name_of(const MlpNames& names, MlpPart part) {
    switch (part) {
        case MlpPart::gate: return names.gate;
        case MlpPart::up: return names.up;
        case MlpPart::down: break;
    }
    return names.down;
}

MlpPart part_of(const TensorSlot& slot, const MlpNames& names) {
    return slot.name == names.gate ? MlpPart::gate : slot.name == names.up ? MlpPart::up : MlpPart::down;
}

class MoePlanner {
public:
    MoePlanner(const BuildRecipe& recipe, const SourceModels& sources, ExpertLayout layout, std::span<const LayerGates> gates,
               std::uint64_t seed, MoePlan& plan)
        : recipe_(recipe), sources_(sources), layout_(layout), gates_(gates), seed_(seed), plan_(plan), spec_(plan.spec) {
        plan_.bytes_from.assign(sources.all.size(), 0);
    }

    void add_tensors() {
        for (const TensorSlot& slot : arch::tensor_slots(spec_)) {
            switch (slot.role) {
                case TensorRole::router: add_router(slot); break;
                case TensorRole::expert: add_expert(slot); break;
                case TensorRole::shared_expert: add_shared_expert(slot); break;
                case TensorRole::shared_gate: add_gate(slot.name, slot.shape, gates_.empty() ? nullptr : &gates_[moe_layer_].shared); break;
                default: add_from_base(slot);
            }
        }
    }

private:
    Dtype dtype() const { return *spec_.dtype; }

    void add(std::string name, std::vector<std::int64_t> shape, decltype(OutputTensor::content) content) {
        plan_.output.tensors.push_back({{std::move(name), dtype(), std::move(shape)}, std::move(content)});
    }

    Piece piece(const std::shared_ptr<const SourceModel>& model, const std::string& name, const ExpertRecipe* expert = nullptr,
                MlpPart part = MlpPart::gate) {
        const TensorInfo& info = model->open.tensors->at(name);
        const auto index = std::ranges::find(sources_.all, model) - sources_.all.begin();
        plan_.bytes_from[static_cast<std::size_t>(index)] += static_cast<std::uint64_t>(info.numel()) * dtype_bytes(dtype());
        Piece piece{.source = model->open.tensors, .tensor = info};
        if (expert != nullptr) {
            piece.scale = part == MlpPart::down ? expert->residual_scale : 1.0;
            // mergekit scales after it has added the noise, so the noise of down_proj is scaled too.
            piece.noise = expert->noise_scale * std::abs(piece.scale);
            piece.seed = seed_;
        }
        return piece;
    }

    void add_from_base(const TensorSlot& slot) {
        if (sources_.base->open.tensors->find(slot.name) == nullptr) {
            // A bias the target always has and the models do not: parse_config and open_model saw to everything else.
            const std::size_t bytes = static_cast<std::size_t>(slot.shape[0]) * dtype_bytes(dtype());
            plan_.zero_bytes += bytes;
            add(slot.name, slot.shape, checkpoint::OwnedBytes(bytes));
            return;
        }
        add(slot.name, slot.shape, Pieces{piece(sources_.base, slot.name)});
    }

    void add_gate(const std::string& name, const std::vector<std::int64_t>& shape, const std::vector<float>* rows) {
        std::int64_t elements = 1;
        for (const std::int64_t dim : shape) elements *= dim;
        checkpoint::OwnedBytes bytes;
        if (rows != nullptr) {
            bytes.resize(static_cast<std::size_t>(elements) * dtype_bytes(dtype()));
            checkpoint::from_float(*rows, bytes, dtype());
        }
        plan_.router_bytes += static_cast<std::uint64_t>(elements) * dtype_bytes(dtype());
        add(name, shape, std::move(bytes));
    }

    void add_router(const TensorSlot& slot) {
        // Slots come in order of layers, the router first within its block.
        moe_layer_ = num_routers_++;
        const std::string name = layout_ == ExpertLayout::fused ? arch::layer_tensor(slot.layer, "mlp.gate.weight") : slot.name;
        add_gate(name, slot.shape, gates_.empty() ? nullptr : &gates_[moe_layer_].experts);
    }

    void add_expert(const TensorSlot& slot) {
        const MlpNames output = arch::expert_names(*spec_.architecture, slot.layer, slot.expert);
        const MlpPart part = part_of(slot, output);
        const auto e = static_cast<std::size_t>(slot.expert);
        if (layout_ == ExpertLayout::per_expert) {
            const std::string source = name_of(arch::dense_mlp_names(slot.layer), part);
            add(slot.name, slot.shape, Pieces{piece(sources_.experts[e], source, &recipe_.experts[e], part)});
        } else if (slot.expert == 0 && part == MlpPart::gate) {
            add_fused_experts(slot.layer);
        }
    }

    // gate_up_proj [E, 2F, D] with the gate's rows first, down_proj [E, D, F].
    void add_fused_experts(std::int64_t layer) {
        const MlpNames source = arch::dense_mlp_names(layer);
        Pieces gate_up, down;
        for (std::size_t e = 0; e < recipe_.experts.size(); ++e) {
            gate_up.push_back(piece(sources_.experts[e], source.gate, &recipe_.experts[e], MlpPart::gate));
            gate_up.push_back(piece(sources_.experts[e], source.up, &recipe_.experts[e], MlpPart::up));
            down.push_back(piece(sources_.experts[e], source.down, &recipe_.experts[e], MlpPart::down));
        }
        add(arch::layer_tensor(layer, "mlp.experts.gate_up_proj"), {spec_.num_experts, 2 * spec_.expert_width, spec_.hidden_size},
            std::move(gate_up));
        add(arch::layer_tensor(layer, "mlp.experts.down_proj"), {spec_.num_experts, spec_.hidden_size, spec_.expert_width},
            std::move(down));
    }

    void add_shared_expert(const TensorSlot& slot) {
        const MlpPart part = part_of(slot, arch::shared_expert_names(*spec_.architecture, slot.layer));
        const std::string source = name_of(arch::dense_mlp_names(slot.layer), part);
        Pieces pieces;
        for (std::size_t e = 0; e < recipe_.shared_experts.size(); ++e)
            pieces.push_back(piece(sources_.shared_experts[e], source, &recipe_.shared_experts[e], part));
        if (part == MlpPart::down && pieces.size() > 1) {
            std::vector<ColumnBlock> blocks;
            for (const Piece& one : pieces) blocks.push_back({one.source, one.tensor, one.scale});
            auto joined = concat_columns(slot.name, std::move(blocks));
            const TensorInfo info = joined->tensors()[0];
            pieces = {Piece{.source = std::move(joined), .tensor = info, .noise = pieces[0].noise, .seed = seed_}};
        }
        add(slot.name, slot.shape, std::move(pieces));
    }

    const BuildRecipe& recipe_;
    const SourceModels& sources_;
    ExpertLayout layout_;
    std::span<const LayerGates> gates_;
    std::uint64_t seed_;
    MoePlan& plan_;
    const arch::ModelSpec& spec_;
    std::size_t num_routers_ = 0, moe_layer_ = 0;
};

// The type of the output when neither recipe nor config says it: that of the base's embedding.
Dtype stored_dtype(const SourceModels& sources) {
    const TensorInfo& embedding = sources.base->open.tensors->at("model.embed_tokens.weight");
    const bool plain = embedding.dtype == Dtype::bf16 || embedding.dtype == Dtype::f16 || embedding.dtype == Dtype::f32;
    return plain ? embedding.dtype : Dtype::bf16;
}

void check_limits(const BuildRecipe& recipe, const arch::ModelSpec& spec, ExpertLayout layout) {
    if (moe_layers(spec).empty())
        throw Error(ErrorCode::recipe, fmt::format("{}: `layers` names none of the model's {} layers", recipe.source, spec.num_layers),
                    fmt::format("layers are counted from 0 to {}", spec.num_layers - 1));
    for (const LayerRange& range : recipe.moe_layers)
        if (range.first >= spec.num_layers)
            throw Error(ErrorCode::recipe, fmt::format("{}: layer {} is not there, the model has {}", recipe.source, range.first, spec.num_layers),
                        fmt::format("layers are counted from 0 to {}", spec.num_layers - 1));
    const auto& shared = recipe.shared_experts;
    if (std::ranges::any_of(shared, [&](const ExpertRecipe& e) { return e.noise_scale != shared[0].noise_scale; }))
        throw Error(ErrorCode::recipe, recipe.source + ": several shared experts must have the same noise_scale",
                    "they become one wide expert");
    if (layout == ExpertLayout::fused && spec.architecture->model_type == "deepseek")
        throw Error(ErrorCode::usage, "DeepSeek MoE has no fused layout", "leave out --layout fused");
}

}  // namespace

std::vector<std::int64_t> moe_layers(const arch::ModelSpec& spec) {
    std::vector<std::int64_t> layers;
    for (std::size_t layer = 0; layer < spec.layers.size(); ++layer)
        if (spec.layers[layer].kind == LayerKind::moe) layers.push_back(static_cast<std::int64_t>(layer));
    return layers;
}

MoePlan plan_moe(const BuildRecipe& recipe, const SourceModels& sources, const MoeTarget& target, ExpertLayout layout,
                 std::span<const LayerGates> gates, std::uint64_t seed) {
    MoePlan plan{.target = &target, .spec = moe_spec(target, recipe, sources.specs())};
    if (!plan.spec.dtype) plan.spec.dtype = stored_dtype(sources);
    check_limits(recipe, plan.spec, layout);
    MoePlanner(recipe, sources, layout, gates, seed, plan).add_tensors();
    plan.output.config = moe_config(target, plan.spec).dump(2) + "\n";
    for (const auto& model : sources.all) {
        plan.output.inputs.push_back(model->open.checkpoint.path);
        if (!model->reference.lora.empty()) plan.output.inputs.push_back(checkpoint::resolve_model(model->reference.lora));
    }
    return plan;
}

}  // namespace mixwright::surgery
