// Which tensors a model has: names and shapes of the canonical per-expert layout.
#include <fmt/format.h>

#include <cmath>

#include "arch/architecture.h"

namespace mixwright::arch {

std::string layer_tensor(std::int64_t layer, std::string_view suffix) { return fmt::format("model.layers.{}.{}", layer, suffix); }

std::string sibling(const std::string& weight, std::string_view suffix) {
    return weight.substr(0, weight.size() - std::string_view("weight").size()) + std::string(suffix);
}

MlpNames dense_mlp_names(const Architecture& architecture, std::int64_t layer) {
    const std::string prefix = layer_tensor(layer, fmt::format("{}.", architecture.mlp_prefix));
    if (architecture.mlp == MlpForm::plain) return {"", prefix + "c_fc.weight", prefix + "c_proj.weight"};
    return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

MlpNames dense_mlp_names(std::int64_t layer) {
    static const Architecture plain{};
    return dense_mlp_names(plain, layer);
}

namespace {

MlpNames names_under(const MoeTable& moe, const std::string& prefix) {
    if (moe.expert_names == ExpertNames::w1_w2_w3) return {prefix + "w1.weight", prefix + "w3.weight", prefix + "w2.weight"};
    return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

}  // namespace

MlpNames expert_names(const Architecture& architecture, std::int64_t layer, std::int64_t expert) {
    return names_under(*architecture.moe, layer_tensor(layer, fmt::format("{}.{}.", architecture.moe->experts, expert)));
}

MlpNames expert_group_names(const Architecture& architecture, std::int64_t layer, std::int64_t group) {
    MlpNames names = names_under(*architecture.moe, layer_tensor(layer, fmt::format("{}.groups.{}.", architecture.moe->experts, group)));
    names.down.clear();
    return names;
}

MlpNames shared_expert_names(const Architecture& architecture, std::int64_t layer) {
    const std::string prefix = layer_tensor(layer, fmt::format("{}.", architecture.moe->shared_expert));
    return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

NormNames norm_names(NormPlacement placement) {
    switch (placement) {
        case NormPlacement::before: return {"input_layernorm.weight", "", "post_attention_layernorm.weight", ""};
        case NormPlacement::after: return {"", "post_attention_layernorm.weight", "", "post_feedforward_layernorm.weight"};
        case NormPlacement::around:
            return {"input_layernorm.weight", "post_attention_layernorm.weight", "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"};
    }
    return {};
}

std::vector<std::string> router_names(const ModelSpec& spec, std::int64_t layer) {
    const std::string name = layer_tensor(layer, spec.architecture->moe->router);
    const auto& chain = spec.layers[static_cast<std::size_t>(layer)].chain;
    if (!chain || !chain->independent_gates) return {name};
    std::vector<std::string> names;
    for (std::int64_t t = 0; t < chain->iterations; ++t) names.push_back(sibling(name, fmt::format("{}.weight", t)));
    return names;
}

namespace {

class SlotList {
public:
    explicit SlotList(const ModelSpec& spec) : spec_(spec), architecture_(*spec.architecture) {}

    std::vector<TensorSlot> build() {
        const std::int64_t hidden = spec_.hidden_size;
        const NormNames norms = norm_names(architecture_.norm_placement);
        add("model.embed_tokens.weight", {spec_.vocab_size, hidden}, TensorRole::embedding);
        for (layer_ = 0; layer_ < spec_.num_layers; ++layer_) {
            add_layer_norm(norms.before_attention);
            if (spec_.latent)
                add_latent_attention();
            else
                add_attention();
            add_layer_norm(norms.after_attention);
            add_layer_norm(norms.before_mlp);
            if (spec_.layers[static_cast<std::size_t>(layer_)].kind == LayerKind::moe)
                add_moe();
            else
                add_mlp(dense_mlp_names(architecture_, layer_), spec_.intermediate_size, TensorRole::mlp, spec_.mlp_bias);
            add_layer_norm(norms.after_mlp);
        }
        layer_ = -1;
        add_norm("model.norm.weight");
        if (!spec_.tied_embeddings) add("lm_head.weight", {spec_.vocab_size, hidden}, TensorRole::lm_head);
        if (spec_.lm_head_bias) add("lm_head.bias", {spec_.vocab_size}, TensorRole::lm_head);
        return std::move(slots_);
    }

private:
    void add(std::string name, std::vector<std::int64_t> shape, TensorRole role) {
        slots_.push_back({std::move(name), std::move(shape), role, layer_, expert_});
    }
    void add_in_layer(std::string_view suffix, std::vector<std::int64_t> shape, TensorRole role) {
        add(layer_tensor(layer_, suffix), std::move(shape), role);
    }

    void add_norm(const std::string& name) {
        add(name, {spec_.hidden_size}, TensorRole::norm);
        if (architecture_.norm == NormForm::layer) add(sibling(name, "bias"), {spec_.hidden_size}, TensorRole::norm);
    }
    void add_layer_norm(std::string_view name) {
        if (!name.empty()) add_norm(layer_tensor(layer_, name));
    }

    void add_linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias, TensorRole role) {
        add(name, {out, in}, role);
        if (bias) add(sibling(name, "bias"), {out}, role);
    }

    void add_mlp(const MlpNames& names, std::int64_t width, TensorRole role, bool bias = false) {
        if (!names.gate.empty()) add_linear(names.gate, width, spec_.hidden_size, bias, role);
        add_linear(names.up, width, spec_.hidden_size, bias, role);
        add_linear(names.down, spec_.hidden_size, width, bias, role);
    }

    void add_projection(std::string_view name, std::int64_t out, std::int64_t in, bool bias) {
        add_linear(layer_tensor(layer_, fmt::format("self_attn.{}.weight", name)), out, in, bias, TensorRole::attention);
    }

    void add_attention() {
        const std::int64_t q = spec_.num_heads * spec_.head_dim, kv = spec_.num_kv_heads * spec_.head_dim;
        add_projection("q_proj", q, spec_.hidden_size, spec_.qkv_bias);
        add_projection("k_proj", kv, spec_.hidden_size, spec_.qkv_bias);
        add_projection("v_proj", kv, spec_.hidden_size, spec_.qkv_bias);
        add_projection("o_proj", spec_.hidden_size, q, spec_.o_bias);
        if (spec_.qk_norm == QkNorm::per_head || spec_.qk_norm == QkNorm::whole) {
            const bool whole = spec_.qk_norm == QkNorm::whole;
            add_in_layer("self_attn.q_norm.weight", {whole ? q : spec_.head_dim}, TensorRole::norm);
            add_in_layer("self_attn.k_norm.weight", {whole ? kv : spec_.head_dim}, TensorRole::norm);
        }
        if (architecture_.attention_sinks) add_in_layer("self_attn.sinks", {spec_.num_heads}, TensorRole::attention);
    }

    void add_latent_attention() {
        const LatentAttention& latent = *spec_.latent;
        const std::int64_t hidden = spec_.hidden_size, heads = spec_.num_heads;
        if (latent.q_rank == 0) {
            add_projection("q_proj", heads * spec_.head_dim, hidden, false);
        } else {
            add_projection("q_a_proj", latent.q_rank, hidden, spec_.qkv_bias);
            add_in_layer("self_attn.q_a_layernorm.weight", {latent.q_rank}, TensorRole::norm);
            add_projection("q_b_proj", heads * spec_.head_dim, latent.q_rank, false);
        }
        add_projection("kv_a_proj_with_mqa", latent.kv_rank + latent.rope_dim, hidden, spec_.qkv_bias);
        add_in_layer("self_attn.kv_a_layernorm.weight", {latent.kv_rank}, TensorRole::norm);
        add_projection("kv_b_proj", heads * (latent.nope_dim + latent.v_dim), latent.kv_rank, false);
        add_projection("o_proj", hidden, heads * latent.v_dim, spec_.o_bias);
    }

    void add_moe() {
        const MoeTable& moe = *architecture_.moe;
        for (const std::string& router : router_names(spec_, layer_)) {
            add(router, {spec_.num_experts, spec_.hidden_size}, TensorRole::router);
            if (moe.router_bias) add(sibling(router, "bias"), {spec_.num_experts}, TensorRole::router_bias);
            if (moe.correction_bias) add(sibling(router, "e_score_correction_bias"), {spec_.num_experts}, TensorRole::router_bias);
        }
        if (const auto& zipped = spec_.layers[static_cast<std::size_t>(layer_)].zipped)
            add_zipped(*zipped);
        else
            for (expert_ = 0; expert_ < spec_.num_experts; ++expert_)
                add_mlp(expert_names(architecture_, layer_, expert_), spec_.expert_width, TensorRole::expert, moe.expert_bias);
        expert_ = -1;
        if (spec_.shared_width == 0) return;
        add_mlp(shared_expert_names(architecture_, layer_), spec_.shared_width, TensorRole::shared_expert);
        if (moe.shared_gate == SharedGate::sigmoid) add_in_layer(moe.shared_gate_name, {1, spec_.hidden_size}, TensorRole::shared_gate);
    }

    void add_zipped(const ZippedExperts& zipped) {
        for (std::size_t g = 0; g < zipped.rows.size(); ++g) {
            const MlpNames names = expert_group_names(architecture_, layer_, static_cast<std::int64_t>(g));
            add(names.gate, {zipped.rows[g], spec_.hidden_size}, TensorRole::expert);
            add(names.up, {zipped.rows[g], spec_.hidden_size}, TensorRole::expert);
        }
        for (expert_ = 0; expert_ < spec_.num_experts; ++expert_)
            add(expert_names(architecture_, layer_, expert_).down, {spec_.hidden_size, zipped.windows[static_cast<std::size_t>(expert_)].width}, TensorRole::expert);
    }

    const ModelSpec& spec_;
    const Architecture& architecture_;
    std::vector<TensorSlot> slots_;
    std::int64_t layer_ = -1, expert_ = -1;
};

}  // namespace

std::vector<TensorSlot> tensor_slots(const ModelSpec& spec) { return SlotList(spec).build(); }

std::int64_t TensorSlot::elements() const {
    std::int64_t elements = 1;
    for (const std::int64_t dim : shape) elements *= dim;
    return elements;
}

std::int64_t active_elements(const ModelSpec& spec, const TensorSlot& slot, std::int64_t active_experts) {
    if (slot.role != TensorRole::expert) return slot.elements();
    const auto& zipped = spec.layers[static_cast<std::size_t>(slot.layer)].zipped;
    if (!zipped) return slot.expert < active_experts ? slot.elements() : 0;
    // Experts of several widths: as many as are active, of the mean width, counted with the first of them.
    const double neurons = static_cast<double>(active_experts) * zipped->mean_width();
    return slot.expert == 0 ? std::llround(3 * neurons * static_cast<double>(spec.hidden_size)) : 0;
}

std::int64_t ModelSpec::num_parameters() const {
    std::int64_t count = 0;
    for (const TensorSlot& slot : tensor_slots(*this)) count += slot.elements();
    return count;
}

std::int64_t ModelSpec::num_active_parameters() const {
    std::int64_t count = 0;
    for (const TensorSlot& slot : tensor_slots(*this)) count += active_elements(*this, slot, top_k);
    return count;
}

}  // namespace mixwright::arch
