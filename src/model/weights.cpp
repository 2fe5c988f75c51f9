#include "model/weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"

namespace mixwright::model {
namespace {

using arch::LayerKind;
using arch::layer_tensor;

std::string without_weight(const std::string& name) { return name.substr(0, name.size() - std::string_view(".weight").size()); }

LayerKind kind_of(const arch::ModelSpec& spec, std::int64_t layer) { return spec.layers[static_cast<std::size_t>(layer)].kind; }

// Makes room for what the spec says a layer has.
LayerWeights empty_layer(const arch::ModelSpec& spec, std::int64_t layer) {
    LayerWeights weights;
    const auto shape = [&](ops::Mlp& mlp) {
        mlp.activation = spec.activation;
        mlp.swiglu_limit = spec.swiglu_limit;
    };
    shape(weights.mlp);
    if (kind_of(spec, layer) == LayerKind::moe) {
        weights.moe.experts.resize(static_cast<std::size_t>(spec.num_experts));
        weights.moe.routers.resize(arch::router_names(spec, layer).size());
        for (ops::Mlp& expert : weights.moe.experts) shape(expert);
        shape(weights.moe.shared);
        if (const auto& zipped = spec.layers[static_cast<std::size_t>(layer)].zipped) weights.moe.groups.resize(zipped->rows.size());
    }
    return weights;
}

// What decides between nearly equal experts is not rounded.
Placement placement_of(const std::string& name, Placement placement) {
    if (name.ends_with("e_score_correction_bias")) placement.dtype = at::kFloat;
    return placement;
}

}  // namespace

at::ScalarType scalar_type(Dtype dtype) {
    switch (dtype) {
        case Dtype::f64: return at::kDouble;
        case Dtype::f32: return at::kFloat;
        case Dtype::f16: return at::kHalf;
        case Dtype::bf16: return at::kBFloat16;
        case Dtype::f8_e4m3: return at::kFloat8_e4m3fn;
        case Dtype::f8_e5m2: return at::kFloat8_e5m2;
        case Dtype::i64: return at::kLong;
        case Dtype::i32: return at::kInt;
        case Dtype::i16: return at::kShort;
        case Dtype::i8: return at::kChar;
        case Dtype::u8: return at::kByte;
        case Dtype::boolean: return at::kBool;
        default: throw Error(ErrorCode::unsupported, fmt::format("dtype {} cannot be computed with", safetensors_name(dtype)));
    }
}

at::Tensor load_tensor(const arch::OpenModel& model, const std::string& name, const Placement& placement) {
    const checkpoint::TensorInfo& info = model.tensors->at(name);
    checkpoint::TensorBytes bytes = model.tensors->bytes(info);
    const at::ScalarType stored = scalar_type(info.dtype);
    // Views need aligned data; safetensors promises alignment of the data section only, not of each tensor.
    const bool aligned = reinterpret_cast<std::uintptr_t>(bytes.bytes.data()) % dtype_bytes(info.dtype) == 0;
    // from_blob has no form for const data; whoever trains replaces the tensor by a copy before writing.
    auto* data = const_cast<std::byte*>(bytes.bytes.data());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
    if (!aligned) {
        at::Tensor copy = at::empty(info.shape, at::TensorOptions(stored));
        std::copy(bytes.bytes.begin(), bytes.bytes.end(), static_cast<std::byte*>(copy.mutable_data_ptr()));
        return copy.to(placement.device, placement.dtype);
    }
    at::Tensor view = at::from_blob(data, info.shape, [owner = std::move(bytes.owner)](void*) {}, at::TensorOptions(stored));
    return view.to(placement.device, placement.dtype);
}

void visit_linears(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights,
                   const std::function<void(const std::string&, ops::Linear&)>& visit) {
    const auto attention = [&](const char* name, ops::Linear& linear) { visit(layer_tensor(layer, fmt::format("self_attn.{}", name)), linear); };
    AttentionWeights& w = weights.attention;
    if (spec.latent && spec.latent->q_rank > 0) {
        attention("q_a_proj", w.q_a);
        attention("q_b_proj", w.q_b);
    } else {
        attention("q_proj", w.q);
    }
    if (spec.latent) {
        attention("kv_a_proj_with_mqa", w.kv_a);
        attention("kv_b_proj", w.kv_b);
    } else {
        attention("k_proj", w.k);
        attention("v_proj", w.v);
    }
    attention("o_proj", w.o);

    const auto mlp = [&](const arch::MlpNames& names, ops::Mlp& m) {
        if (!names.gate.empty()) visit(without_weight(names.gate), m.gate);
        visit(without_weight(names.up), m.up);
        visit(without_weight(names.down), m.down);
    };
    if (kind_of(spec, layer) == LayerKind::dense) {
        mlp(arch::dense_mlp_names(*spec.architecture, layer), weights.mlp);
        return;
    }
    for (std::size_t g = 0; g < weights.moe.groups.size(); ++g) {
        const arch::MlpNames names = arch::expert_group_names(*spec.architecture, layer, static_cast<std::int64_t>(g));
        visit(without_weight(names.gate), weights.moe.groups[g].gate);
        visit(without_weight(names.up), weights.moe.groups[g].up);
    }
    for (std::int64_t e = 0; e < spec.num_experts; ++e) {
        const arch::MlpNames names = arch::expert_names(*spec.architecture, layer, e);
        ops::Mlp& expert = weights.moe.experts[static_cast<std::size_t>(e)];
        if (weights.moe.groups.empty())
            mlp(names, expert);
        else
            visit(without_weight(names.down), expert.down);
    }
    if (spec.shared_width > 0) mlp(arch::shared_expert_names(*spec.architecture, layer), weights.moe.shared);
}

namespace {

using Visit = std::function<void(const std::string&, at::Tensor&)>;

void visit_norm(const arch::ModelSpec& spec, const std::string& name, ops::Norm& norm, const Visit& visit) {
    visit(name, norm.weight);
    if (spec.architecture->norm == arch::NormForm::layer) visit(arch::sibling(name, "bias"), norm.bias);
}

bool has_bias(const arch::ModelSpec& spec, const std::string& linear, bool moe) {
    if (linear.ends_with("self_attn.o_proj")) return spec.o_bias;
    if (linear.find(".self_attn.") == std::string::npos) {
        if (!moe) return spec.mlp_bias;
        return spec.architecture->moe->expert_bias && linear.find(fmt::format(".{}.", spec.architecture->moe->experts)) != std::string::npos;
    }
    const bool expansion = linear.ends_with("q_b_proj") || linear.ends_with("kv_b_proj") || (spec.latent && linear.ends_with("q_proj"));
    return spec.qkv_bias && !expansion;
}

void visit_attention_norms(const arch::ModelSpec& spec, std::int64_t layer, AttentionWeights& weights, const Visit& visit) {
    const auto attention = [&](const char* name, at::Tensor& tensor) { visit(layer_tensor(layer, fmt::format("self_attn.{}", name)), tensor); };
    if (spec.latent) {
        if (spec.latent->q_rank > 0) attention("q_a_layernorm.weight", weights.q_a_norm);
        attention("kv_a_layernorm.weight", weights.kv_a_norm);
    } else if (spec.qk_norm == arch::QkNorm::per_head || spec.qk_norm == arch::QkNorm::whole) {
        attention("q_norm.weight", weights.q_norm);
        attention("k_norm.weight", weights.k_norm);
    }
    if (spec.architecture->attention_sinks) attention("sinks", weights.sinks);
}

void visit_routers(const arch::ModelSpec& spec, std::int64_t layer, MoeWeights& weights, const Visit& visit) {
    const arch::MoeTable& table = *spec.architecture->moe;
    const std::vector<std::string> names = arch::router_names(spec, layer);
    for (std::size_t t = 0; t < names.size(); ++t) {
        ops::RouterWeights& router = weights.routers[t];
        visit(names[t], router.weight);
        if (table.router_bias) visit(arch::sibling(names[t], "bias"), router.bias);
        if (table.correction_bias) visit(arch::sibling(names[t], "e_score_correction_bias"), router.correction);
    }
}

}  // namespace

void visit_layer_tensors(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights, const Visit& visit) {
    const arch::NormNames norms = arch::norm_names(spec.architecture->norm_placement);
    const auto layer_norm = [&](std::string_view name, ops::Norm& norm) {
        if (!name.empty()) visit_norm(spec, layer_tensor(layer, name), norm, visit);
    };
    const bool moe = kind_of(spec, layer) == LayerKind::moe;
    layer_norm(norms.before_attention, weights.input_norm);
    visit_linears(spec, layer, weights, [&](const std::string& name, ops::Linear& linear) {
        visit(name + ".weight", linear.weight);
        if (has_bias(spec, name, moe)) visit(name + ".bias", linear.bias);
    });
    visit_attention_norms(spec, layer, weights.attention, visit);
    layer_norm(norms.after_attention, weights.attention_output_norm);
    layer_norm(norms.before_mlp, weights.post_attention_norm);
    layer_norm(norms.after_mlp, weights.mlp_output_norm);
    if (!moe) return;
    visit_routers(spec, layer, weights.moe, visit);
    const arch::MoeTable& table = *spec.architecture->moe;
    if (spec.shared_width > 0 && table.shared_gate == arch::SharedGate::sigmoid)
        visit(layer_tensor(layer, table.shared_gate_name), weights.moe.shared_gate);
}

void visit_tensors(const arch::ModelSpec& spec, ModelWeights& weights,
                   const std::function<void(const std::string&, at::Tensor&)>& visit) {
    visit("model.embed_tokens.weight", weights.embedding);
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(weights.layers.size()); ++layer)
        visit_layer_tensors(spec, layer, weights.layers[static_cast<std::size_t>(layer)], visit);
    visit_norm(spec, "model.norm.weight", weights.final_norm, visit);
    if (spec.tied_embeddings)
        weights.lm_head = weights.embedding;
    else
        visit("lm_head.weight", weights.lm_head);
    if (spec.lm_head_bias) visit("lm_head.bias", weights.lm_head_bias);
}

void bind_experts(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights) {
    const auto& zipped = spec.layers[static_cast<std::size_t>(layer)].zipped;
    if (!zipped) return;
    for (std::size_t e = 0; e < weights.moe.experts.size(); ++e) {
        const arch::ExpertWindow& window = zipped->windows[e];
        const ExpertGroup& group = weights.moe.groups[static_cast<std::size_t>(window.group)];
        weights.moe.experts[e].gate = group.gate.rows(window.first, window.width);
        weights.moe.experts[e].up = group.up.rows(window.first, window.width);
    }
}

LayerWeights load_layer(const arch::OpenModel& model, std::int64_t layer, const Placement& placement) {
    LayerWeights weights = empty_layer(model.spec, layer);
    visit_layer_tensors(model.spec, layer, weights,
                        [&](const std::string& name, at::Tensor& tensor) { tensor = load_tensor(model, name, placement_of(name, placement)); });
    bind_experts(model.spec, layer, weights);
    return weights;
}

ModelWeights load_outer(const arch::OpenModel& model, const Placement& placement) {
    ModelWeights weights;
    visit_tensors(model.spec, weights,
                  [&](const std::string& name, at::Tensor& tensor) { tensor = load_tensor(model, name, placement); });
    return weights;
}

ops::Norm load_final_norm(const arch::OpenModel& model, const Placement& placement) {
    ops::Norm norm;
    visit_norm(model.spec, "model.norm.weight", norm, [&](const std::string& name, at::Tensor& tensor) { tensor = load_tensor(model, name, placement); });
    return norm;
}

ModelWeights load_all(const arch::OpenModel& model, const Placement& placement) {
    ModelWeights weights = load_outer(model, placement);
    for (std::int64_t layer = 0; layer < model.spec.num_layers; ++layer)
        weights.layers.push_back(load_layer(model, layer, placement));
    return weights;
}

void drop_layer(const arch::OpenModel& model, std::int64_t layer) {
    const std::string prefix = layer_tensor(layer, "");
    for (const checkpoint::TensorInfo& info : model.tensors->tensors())
        if (info.name.starts_with(prefix)) model.tensors->drop(info);
}

}  // namespace mixwright::model
