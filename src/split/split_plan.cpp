#include "split/split_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "arch/published_layout.h"
#include "arch/render_config.h"
#include "error.h"
#include "surgery/column_concat.h"
#include "surgery/model_files.h"

namespace mixwright::split {
namespace {

using arch::TensorRole;
using arch::TensorSlot;
using checkpoint::OutputTensor;
using checkpoint::Piece;
using checkpoint::Pieces;
using checkpoint::TensorInfo;

class SplitPlanner {
public:
    SplitPlanner(const arch::OpenModel& moe, const std::vector<LayerMlp>& mlps, SplitPlan& plan) : moe_(moe), mlps_(mlps), plan_(plan) {}

    void add_tensors() {
        const arch::ModelSpec& spec = plan_.twin.spec;
        for (const TensorSlot& slot : arch::tensor_slots(spec)) {
            if (slot.role == TensorRole::mlp)
                add_mlp(slot, arch::dense_mlp_names(*spec.architecture, slot.layer), spec.intermediate_size);
            else if (slot.role == TensorRole::expert)
                add_mlp(slot, arch::expert_names(*spec.architecture, slot.layer, 0), spec.expert_width);
            else if (slot.role == TensorRole::router || slot.role == TensorRole::router_bias)
                add_zeros(slot);  // one expert: whatever its logit, its weight is one
            else
                add_from_moe(slot);
        }
        plan_.output.tensors = arch::published(spec, std::move(plan_.output.tensors));
    }

private:
    Dtype dtype() const { return *plan_.twin.spec.dtype; }

    void add(const TensorSlot& slot, decltype(OutputTensor::content) content) {
        plan_.output.tensors.push_back({{slot.name, dtype(), slot.shape}, std::move(content)});
    }

    void add_zeros(const TensorSlot& slot) {
        std::size_t bytes = dtype_bytes(dtype());
        for (const std::int64_t dim : slot.shape) bytes *= static_cast<std::size_t>(dim);
        add(slot, checkpoint::OwnedBytes(bytes));
    }

    void add_from_moe(const TensorSlot& slot) {
        const TensorInfo* info = moe_.tensors->find(slot.name);
        // A bias that the twin always has and the MoE does not.
        if (info == nullptr) return add_zeros(slot);
        add(slot, Pieces{Piece{.source = moe_.tensors, .tensor = *info}});
    }

    // The blocks of a layer, filled up to `width`.
    const LayerMlp& blocks(std::int64_t layer, std::int64_t width) {
        const auto found = filled_.find(layer);
        if (found != filled_.end()) return found->second;
        const bool was_dense = moe_.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::dense;
        LayerMlp mlp = was_dense ? LayerMlp{dense_block(moe_, layer)} : mlps_.at(static_cast<std::size_t>(layer));
        const std::int64_t missing = width - width_of(mlp);
        if (missing < 0) throw Error(ErrorCode::internal, fmt::format("layer {}: its blocks are wider than {}", layer, width));
        if (missing > 0) mlp.push_back(zero_block(moe_.spec.hidden_size, missing, mlp.at(0).biases.has_value()));
        return filled_.emplace(layer, std::move(mlp)).first->second;
    }

    void add_mlp(const TensorSlot& slot, const arch::MlpNames& names, std::int64_t width) {
        const LayerMlp& mlp = blocks(slot.layer, width);
        if (slot.name == names.down)
            add_down(slot, mlp);
        else if (slot.name == arch::sibling(names.down, "bias"))
            add_down_bias(slot, mlp);
        else if (slot.name == names.gate || slot.name == names.up)
            add_rows(slot, mlp, [&](const MlpBlock& b) { return slot.name == names.gate ? b.gate : b.up; }, &MlpBlock::input_scale);
        else
            add_rows(slot, mlp, [&](const MlpBlock& b) { return slot.name == arch::sibling(names.gate, "bias") ? b.biases.value().gate : b.biases.value().up; }, nullptr);
    }

    void add_rows(const TensorSlot& slot, const LayerMlp& mlp, auto part, double MlpBlock::*scale) {
        Pieces pieces;
        for (const MlpBlock& block : mlp) pieces.push_back({.source = block.source, .tensor = part(block), .scale = scale == nullptr ? 1.0 : block.*scale});
        add(slot, std::move(pieces));
    }

    void add_down(const TensorSlot& slot, const LayerMlp& mlp) {
        if (mlp.size() == 1) return add(slot, Pieces{Piece{.source = mlp[0].source, .tensor = mlp[0].down, .scale = mlp[0].output_scale}});
        std::vector<surgery::ColumnBlock> columns;
        for (const MlpBlock& block : mlp) columns.push_back({block.source, block.down, block.output_scale});
        add_made(slot, surgery::concat_columns(slot.name, std::move(columns)));
    }

    void add_down_bias(const TensorSlot& slot, const LayerMlp& mlp) {
        if (mlp.size() == 1) return add(slot, Pieces{Piece{.source = mlp[0].source, .tensor = mlp[0].biases.value().down, .scale = mlp[0].output_scale}});
        add_made(slot, summed_biases(slot.name, mlp));
    }

    void add_made(const TensorSlot& slot, std::shared_ptr<const checkpoint::TensorSource> source) {
        const TensorInfo info = source->tensors()[0];
        add(slot, Pieces{Piece{.source = std::move(source), .tensor = info}});
    }

    const arch::OpenModel& moe_;
    const std::vector<LayerMlp>& mlps_;
    SplitPlan& plan_;
    std::map<std::int64_t, LayerMlp> filled_;
};

std::string card(const arch::OpenModel& moe, const DenseTwin& twin, const std::string& name, const std::string& about) {
    return fmt::format("---\nbase_model:\n- {}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- split-moe\n- mixwright\n---\n\n"
                       "# {}\n\nA dense model made of the mixture of experts {} by mixwright.\n\n{}\n\n"
                       "| | MoE | this model |\n|---|---|---|\n| architecture | {} | {} |\n| parameters | {:.1f} M, {:.1f} M active | {:.1f} M |\n{}",
                       io::Json(moe.checkpoint.path.filename().string()).dump(), name, moe.checkpoint.path.filename().string(), about,
                       moe.spec.architecture->model_type, twin.spec.architecture->model_type, static_cast<double>(moe.spec.num_parameters()) / 1e6,
                       static_cast<double>(moe.spec.num_active_parameters()) / 1e6, static_cast<double>(twin.spec.num_parameters()) / 1e6,
                       twin.note.empty() ? "" : fmt::format("\n{}.\n", twin.note));
}

}  // namespace

SplitPlan plan_split(const arch::OpenModel& moe, const std::vector<LayerMlp>& mlps, std::int64_t width, const std::string& name,
                     const std::string& about) {
    SplitPlan plan{dense_twin(moe.spec, width), {}};
    if (!plan.twin.spec.dtype) plan.twin.spec.dtype = moe.tensors->at("model.embed_tokens.weight").dtype;
    SplitPlanner(moe, mlps, plan).add_tensors();
    plan.output.inputs = {moe.checkpoint.path};
    plan.output.config = arch::render_config(plan.twin.spec).dump(2) + "\n";
    plan.output.files = surgery::base_files(moe);
    plan.output.files.push_back({"README.md", card(moe, plan.twin, name, about)});
    return plan;
}

}  // namespace mixwright::split
