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
    if (kind_of(spec, layer) == LayerKind::moe) weights.moe.experts.resize(static_cast<std::size_t>(spec.num_experts));
    return weights;
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
    attention("q_proj", weights.attention.q);
    attention("k_proj", weights.attention.k);
    attention("v_proj", weights.attention.v);
    attention("o_proj", weights.attention.o);

    const auto mlp = [&](const arch::MlpNames& names, ops::Mlp& m) {
        visit(without_weight(names.gate), m.gate);
        visit(without_weight(names.up), m.up);
        visit(without_weight(names.down), m.down);
    };
    if (kind_of(spec, layer) == LayerKind::dense) {
        mlp(arch::dense_mlp_names(layer), weights.mlp);
        return;
    }
    for (std::int64_t e = 0; e < spec.num_experts; ++e)
        mlp(arch::expert_names(*spec.architecture, layer, e), weights.moe.experts[static_cast<std::size_t>(e)]);
    if (spec.shared_width > 0) mlp(arch::shared_expert_names(*spec.architecture, layer), weights.moe.shared);
}

void visit_layer_tensors(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights,
                         const std::function<void(const std::string&, at::Tensor&)>& visit) {
    visit(layer_tensor(layer, "input_layernorm.weight"), weights.input_norm);
    const bool moe = kind_of(spec, layer) == LayerKind::moe;
    visit_linears(spec, layer, weights, [&](const std::string& name, ops::Linear& linear) {
        visit(name + ".weight", linear.weight);
        const bool is_o = name.ends_with("self_attn.o_proj"), is_attention = name.find(".self_attn.") != std::string::npos;
        const bool biased = is_o ? spec.o_bias : is_attention ? spec.qkv_bias : spec.mlp_bias && !moe;
        if (biased) visit(name + ".bias", linear.bias);
    });
    if (spec.architecture->qk_norm == arch::QkNorm::per_head) {
        visit(layer_tensor(layer, "self_attn.q_norm.weight"), weights.attention.q_norm);
        visit(layer_tensor(layer, "self_attn.k_norm.weight"), weights.attention.k_norm);
    }
    visit(layer_tensor(layer, "post_attention_layernorm.weight"), weights.post_attention_norm);
    if (!moe) return;
    const arch::MoeTable& table = *spec.architecture->moe;
    visit(layer_tensor(layer, table.router), weights.moe.router);
    if (spec.shared_width > 0 && table.shared_gate == arch::SharedGate::sigmoid)
        visit(layer_tensor(layer, table.shared_gate_name), weights.moe.shared_gate);
}

void visit_tensors(const arch::ModelSpec& spec, ModelWeights& weights,
                   const std::function<void(const std::string&, at::Tensor&)>& visit) {
    visit("model.embed_tokens.weight", weights.embedding);
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(weights.layers.size()); ++layer)
        visit_layer_tensors(spec, layer, weights.layers[static_cast<std::size_t>(layer)], visit);
    visit("model.norm.weight", weights.final_norm);
    if (spec.tied_embeddings)
        weights.lm_head = weights.embedding;
    else
        visit("lm_head.weight", weights.lm_head);
}

LayerWeights load_layer(const arch::OpenModel& model, std::int64_t layer, const Placement& placement) {
    LayerWeights weights = empty_layer(model.spec, layer);
    visit_layer_tensors(model.spec, layer, weights,
                        [&](const std::string& name, at::Tensor& tensor) { tensor = load_tensor(model, name, placement); });
    return weights;
}

ModelWeights load_outer(const arch::OpenModel& model, const Placement& placement) {
    ModelWeights weights;
    visit_tensors(model.spec, weights,
                  [&](const std::string& name, at::Tensor& tensor) { tensor = load_tensor(model, name, placement); });
    return weights;
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
