// Which tensors a model has: names and shapes of the canonical per-expert layout.
#include <fmt/format.h>

#include "arch/architecture.h"

namespace mixwright::arch {

std::string layer_tensor(std::int64_t layer, std::string_view suffix) { return fmt::format("model.layers.{}.{}", layer, suffix); }

MlpNames dense_mlp_names(std::int64_t layer) {
    return {layer_tensor(layer, "mlp.gate_proj.weight"), layer_tensor(layer, "mlp.up_proj.weight"),
            layer_tensor(layer, "mlp.down_proj.weight")};
}

MlpNames expert_names(const Architecture& architecture, std::int64_t layer, std::int64_t expert) {
    const MoeTable& moe = *architecture.moe;
    const std::string prefix = layer_tensor(layer, fmt::format("{}.{}.", moe.experts, expert));
    if (moe.expert_names == ExpertNames::w1_w2_w3) return {prefix + "w1.weight", prefix + "w3.weight", prefix + "w2.weight"};
    return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

MlpNames shared_expert_names(const Architecture& architecture, std::int64_t layer) {
    const std::string prefix = layer_tensor(layer, fmt::format("{}.", architecture.moe->shared_expert));
    return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

namespace {

class SlotList {
public:
    explicit SlotList(const ModelSpec& spec) : spec_(spec) {}

    std::vector<TensorSlot> build() {
        const std::int64_t hidden = spec_.hidden_size;
        add("model.embed_tokens.weight", {spec_.vocab_size, hidden}, TensorRole::embedding);
        for (layer_ = 0; layer_ < spec_.num_layers; ++layer_) {
            add_in_layer("input_layernorm.weight", {hidden}, TensorRole::norm);
            add_attention();
            add_in_layer("post_attention_layernorm.weight", {hidden}, TensorRole::norm);
            if (spec_.layers[static_cast<std::size_t>(layer_)].kind == LayerKind::moe)
                add_moe();
            else
                add_dense_mlp();
        }
        layer_ = -1;
        add("model.norm.weight", {hidden}, TensorRole::norm);
        if (!spec_.tied_embeddings) add("lm_head.weight", {spec_.vocab_size, hidden}, TensorRole::lm_head);
        return std::move(slots_);
    }

private:
    void add(std::string name, std::vector<std::int64_t> shape, TensorRole role) {
        slots_.push_back({std::move(name), std::move(shape), role, layer_, expert_});
    }
    void add_in_layer(std::string_view suffix, std::vector<std::int64_t> shape, TensorRole role) {
        add(layer_tensor(layer_, suffix), std::move(shape), role);
    }
    void add_mlp(const MlpNames& names, std::int64_t width, TensorRole role) {
        add(names.gate, {width, spec_.hidden_size}, role);
        add(names.up, {width, spec_.hidden_size}, role);
        add(names.down, {spec_.hidden_size, width}, role);
    }

    void add_attention() {
        const std::int64_t q = spec_.num_heads * spec_.head_dim, kv = spec_.num_kv_heads * spec_.head_dim;
        const auto projection = [&](std::string_view name, std::int64_t out, std::int64_t in, bool bias) {
            add_in_layer(fmt::format("self_attn.{}.weight", name), {out, in}, TensorRole::attention);
            if (bias) add_in_layer(fmt::format("self_attn.{}.bias", name), {out}, TensorRole::attention);
        };
        projection("q_proj", q, spec_.hidden_size, spec_.qkv_bias);
        projection("k_proj", kv, spec_.hidden_size, spec_.qkv_bias);
        projection("v_proj", kv, spec_.hidden_size, spec_.qkv_bias);
        projection("o_proj", spec_.hidden_size, q, spec_.o_bias);
        if (spec_.architecture->qk_norm == QkNorm::per_head) {
            add_in_layer("self_attn.q_norm.weight", {spec_.head_dim}, TensorRole::norm);
            add_in_layer("self_attn.k_norm.weight", {spec_.head_dim}, TensorRole::norm);
        }
    }

    void add_dense_mlp() {
        add_mlp(dense_mlp_names(layer_), spec_.intermediate_size, TensorRole::mlp);
        if (!spec_.mlp_bias) return;
        add_in_layer("mlp.gate_proj.bias", {spec_.intermediate_size}, TensorRole::mlp);
        add_in_layer("mlp.up_proj.bias", {spec_.intermediate_size}, TensorRole::mlp);
        add_in_layer("mlp.down_proj.bias", {spec_.hidden_size}, TensorRole::mlp);
    }

    void add_moe() {
        const MoeTable& moe = *spec_.architecture->moe;
        add_in_layer(moe.router, {spec_.num_experts, spec_.hidden_size}, TensorRole::router);
        for (expert_ = 0; expert_ < spec_.num_experts; ++expert_)
            add_mlp(expert_names(*spec_.architecture, layer_, expert_), spec_.expert_width, TensorRole::expert);
        expert_ = -1;
        if (spec_.shared_width == 0) return;
        add_mlp(shared_expert_names(*spec_.architecture, layer_), spec_.shared_width, TensorRole::shared_expert);
        if (moe.shared_gate == SharedGate::sigmoid) add_in_layer(moe.shared_gate_name, {1, spec_.hidden_size}, TensorRole::shared_gate);
    }

    const ModelSpec& spec_;
    std::vector<TensorSlot> slots_;
    std::int64_t layer_ = -1, expert_ = -1;
};

// Elements of all tensors, counting each expert `experts_counted` / num_experts times.
std::int64_t count_parameters(const ModelSpec& spec, std::int64_t experts_counted) {
    std::int64_t count = 0;
    for (const TensorSlot& slot : tensor_slots(spec)) {
        if (slot.role == TensorRole::expert && slot.expert >= experts_counted) continue;
        std::int64_t elements = 1;
        for (const std::int64_t dim : slot.shape) elements *= dim;
        count += elements;
    }
    return count;
}

}  // namespace

std::vector<TensorSlot> tensor_slots(const ModelSpec& spec) { return SlotList(spec).build(); }
std::int64_t ModelSpec::num_parameters() const { return count_parameters(*this, num_experts); }
std::int64_t ModelSpec::num_active_parameters() const { return count_parameters(*this, top_k); }

}  // namespace mixwright::arch
