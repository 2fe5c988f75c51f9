#include "model/decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"
#include "ops/attention.h"
#include "ops/expert_dispatch.h"
#include "ops/rms_norm.h"

namespace mixwright::model {

void Taps::layer_input(std::int64_t, const at::Tensor&) {}
void Taps::mlp_input(std::int64_t, const at::Tensor&) {}
void Taps::routing(std::int64_t, const ops::Routing&) {}

Step Decoder::step(std::int64_t length, at::Device device, KvCache* cache, Taps* taps) const {
    const std::int64_t first = cache != nullptr ? cache->length() : 0;
    const at::Tensor positions = at::arange(first, first + length, at::TensorOptions(at::kLong).device(device));
    return {ops::rope_angles(spec_.rope, spec_.head_dim, spec_.max_positions, positions, first + length), {}, cache, taps};
}

at::Tensor Decoder::embed(const ModelWeights& weights, const at::Tensor& ids) const {
    // The embedding reads unchecked memory in release builds of libtorch's fast paths: look before.
    if (ids.numel() > 0) {
        const auto lowest = ids.min().item<std::int64_t>(), highest = ids.max().item<std::int64_t>();
        if (lowest < 0 || highest >= spec_.vocab_size)
            throw Error(ErrorCode::mismatch, fmt::format("token id {} is not in the vocabulary (0 to {})",
                                                         lowest < 0 ? lowest : highest, spec_.vocab_size - 1),
                        "the tokenizer may belong to another model");
    }
    return at::embedding(weights.embedding, ids);
}

at::Tensor Decoder::attend(const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, const Step& step) const {
    const std::int64_t batch = x_BLD.size(0), length = x_BLD.size(1);
    const auto heads = [&](const at::Tensor& projected, std::int64_t num_heads) {
        return projected.view({batch, length, num_heads, spec_.head_dim}).transpose(1, 2);  // [B, H, L, d]
    };
    at::Tensor q = heads(weights.q(x_BLD), spec_.num_heads);
    at::Tensor k = heads(weights.k(x_BLD), spec_.num_kv_heads);
    at::Tensor v = heads(weights.v(x_BLD), spec_.num_kv_heads);
    if (weights.q_norm.defined()) {
        q = ops::rms_norm(q, weights.q_norm, spec_.rms_norm_eps);
        k = ops::rms_norm(k, weights.k_norm, spec_.rms_norm_eps);
    }
    q = ops::apply_rope(q, step.angles);
    k = ops::apply_rope(k, step.angles);
    if (step.cache != nullptr) std::tie(k, v) = step.cache->append(layer, k, v);

    const std::int64_t window = spec_.layers[static_cast<std::size_t>(layer)].sliding_window;
    return weights.o(ops::attention(q, k, v, {.causal = true, .window = window, .keys = step.key_mask}));
}

at::Tensor Decoder::moe(const MoeWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, Taps* taps) const {
    const at::Tensor x_ND = x_BLD.reshape({-1, spec_.hidden_size});
    const ops::Routing routing =
        ops::route(x_ND, weights.router, spec_.top_k, spec_.norm_topk_prob, spec_.routed_scaling_factor);
    if (taps != nullptr) taps->routing(layer, routing);
    at::Tensor y_ND = weights.stack.defined() ? ops::grouped_experts(x_ND, routing, weights.stack) : ops::dispatch_to_experts(x_ND, routing, weights.experts);
    if (weights.shared.down.weight.defined()) {
        at::Tensor shared = weights.shared(x_ND);
        if (weights.shared_gate.defined()) shared = at::sigmoid(at::linear(x_ND, weights.shared_gate)) * shared;
        y_ND = y_ND + shared;
    }
    return y_ND.view(x_BLD.sizes());
}

at::Tensor Decoder::run_layer(const LayerWeights& weights, std::int64_t layer, const at::Tensor& hidden_BLD, const Step& step) const {
    if (step.taps != nullptr) step.taps->layer_input(layer, hidden_BLD);
    const at::Tensor normed = ops::rms_norm(hidden_BLD, weights.input_norm, spec_.rms_norm_eps);
    const at::Tensor attended = hidden_BLD + attend(weights.attention, layer, normed, step);

    const at::Tensor x = ops::rms_norm(attended, weights.post_attention_norm, spec_.rms_norm_eps);
    if (step.taps != nullptr) step.taps->mlp_input(layer, x);
    const bool is_moe = spec_.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::moe;
    return attended + (is_moe ? moe(weights.moe, layer, x, step.taps) : weights.mlp(x));
}

at::Tensor Decoder::final_norm(const ModelWeights& weights, const at::Tensor& hidden) const {
    return ops::rms_norm(hidden, weights.final_norm, spec_.rms_norm_eps);
}

at::Tensor Decoder::run(const ModelWeights& weights, const at::Tensor& ids, const Step& step) const {
    at::Tensor hidden = embed(weights, ids);
    for (std::int64_t layer = 0; layer < spec_.num_layers; ++layer)
        hidden = run_layer(weights.layers[static_cast<std::size_t>(layer)], layer, hidden, step);
    if (step.cache != nullptr) step.cache->advance(ids.size(1));
    return final_norm(weights, hidden);
}

at::Tensor Decoder::logits(const ModelWeights& weights, const at::Tensor& hidden) const {
    return at::linear(hidden, weights.lm_head);
}

}  // namespace mixwright::model
