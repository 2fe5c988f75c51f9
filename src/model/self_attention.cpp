#include "model/self_attention.h"

#include <ATen/ATen.h>

#include <array>
#include <vector>

#include "ops/attention.h"
#include "ops/norm.h"

namespace mixwright::model {
namespace {

using arch::QkNorm;

// Latents have norms of their own with an epsilon no config can change.
constexpr double latent_norm_eps = 1e-6;

ops::AttentionMask mask_of(const arch::LayerSpec& layer, const Step& step) {
    return {.causal = true, .window = layer.sliding_window, .chunk = layer.attention_chunk, .keys = step.key_mask};
}

ops::AttentionScores scores_of(const arch::ModelSpec& spec, const AttentionWeights& weights) {
    return {.scale = spec.attention_scale, .softcap = spec.attention_softcap, .sinks = weights.sinks};
}

at::Tensor clipped(const arch::ModelSpec& spec, at::Tensor x) { return spec.qkv_clip > 0 ? x.clamp(-spec.qkv_clip, spec.qkv_clip) : x; }

// The positions of the last `count` tokens of a call.
ops::RopeAngles last_of(const ops::RopeAngles& angles, std::int64_t count) {
    return {model::last_of(angles.cos, -2, count), model::last_of(angles.sin, -2, count), angles.interleaved};
}

// attend(first, length, cache) for the tokens of each sequence of the call, the results side by side; all of them where every
// row is a sequence.
template <class Attend>
at::Tensor for_each_sequence(const Step& step, std::int64_t length, const Attend& attend) {
    if (step.segments.empty()) return attend(0, length, step.cache);
    std::vector<at::Tensor> parts;
    for (const Segment& segment : step.segments) parts.push_back(attend(segment.first, segment.length, segment.cache));
    return at::cat(parts, 1);
}

at::Tensor grouped_attention(const arch::ModelSpec& spec, const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, std::int64_t num_queries, const Step& step) {
    const arch::LayerSpec& form = spec.layers[static_cast<std::size_t>(layer)];
    const std::int64_t batch = x_BLD.size(0), length = x_BLD.size(1);
    const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) { return ops::norm(x, {weight, {}}, spec.architecture->norm, spec.rms_norm_eps); };
    const bool all_ask = num_queries == length;
    const at::Tensor asking = model::last_of(x_BLD, 1, num_queries);
    const std::array projections = all_ask ? ops::project(weights.q, weights.k, weights.v, x_BLD) : std::array{weights.q(asking), weights.k(x_BLD), weights.v(x_BLD)};
    const auto shaped = [&](const at::Tensor& projected, const at::Tensor& norm_weight) {
        return clipped(spec, spec.qk_norm == QkNorm::whole && norm_weight.defined() ? norm(projected, norm_weight) : projected);
    };
    const auto heads = [&](const at::Tensor& projected, std::int64_t num_heads) {
        return projected.view({batch, projected.size(1), num_heads, spec.head_dim}).transpose(1, 2);  // [B, H, L, d]
    };
    at::Tensor q = heads(shaped(projections[0], weights.q_norm), spec.num_heads);
    at::Tensor k = heads(shaped(projections[1], weights.k_norm), spec.num_kv_heads);
    at::Tensor v = heads(shaped(projections[2], {}), spec.num_kv_heads);
    if (spec.qk_norm == QkNorm::per_head) {
        q = norm(q, weights.q_norm);
        k = norm(k, weights.k_norm);
    }
    if (form.rope) {
        const ops::RopeAngles& angles = form.local_rope ? step.local_angles : step.angles;
        q = ops::apply_rope(q, last_of(angles, num_queries));
        k = ops::apply_rope(k, angles);
        if (spec.qk_norm == QkNorm::l2_after_rope) {
            q = ops::l2_norm(q, spec.rms_norm_eps);
            k = ops::l2_norm(k, spec.rms_norm_eps);
        }
    } else if (step.temperature.defined()) {
        q = (q * model::last_of(step.temperature, 0, num_queries)).to(x_BLD.scalar_type());
    }
    return weights.o(for_each_sequence(step, length, [&](std::int64_t first, std::int64_t count, KvCache* cache) {
        at::Tensor keys = k.narrow(2, first, count), values = v.narrow(2, first, count);
        if (cache != nullptr) std::tie(keys, values) = cache->append(layer, keys, values);
        return ops::attention(all_ask ? q.narrow(2, first, count) : q, keys, values, mask_of(form, step), scores_of(spec, weights));
    }));
}

// Keys and values of all heads out of the latents: [B, 1, Lk, r] and [B, 1, Lk, rope] -> [B, H, Lk, nope + rope] and [B, H, Lk, v].
std::pair<at::Tensor, at::Tensor> expand_latents(const arch::ModelSpec& spec, const AttentionWeights& weights, const at::Tensor& latents,
                                                 const at::Tensor& k_rotated) {
    const arch::LatentAttention& sizes = *spec.latent;
    const at::Tensor expanded = weights.kv_b(latents.squeeze(1)).view({latents.size(0), latents.size(2), spec.num_heads, -1}).transpose(1, 2);
    const at::Tensor k_nope = expanded.narrow(-1, 0, sizes.nope_dim), v = expanded.narrow(-1, sizes.nope_dim, sizes.v_dim);
    return {at::cat({k_nope, k_rotated.expand({-1, spec.num_heads, -1, -1})}, -1), v};
}

// One token against many latents: the expansion moves over to the query and the result, and all heads read the latents
// themselves as keys and values.
at::Tensor absorbed_attention(const arch::ModelSpec& spec, const AttentionWeights& weights, const at::Tensor& q_nope, const at::Tensor& q_rotated,
                              const at::Tensor& latents_and_k, const ops::AttentionMask& mask) {
    const arch::LatentAttention& sizes = *spec.latent;
    const at::Tensor kv_b = weights.kv_b.weight.view({spec.num_heads, sizes.nope_dim + sizes.v_dim, sizes.kv_rank});
    const at::Tensor to_keys = kv_b.narrow(1, 0, sizes.nope_dim), to_values = kv_b.narrow(1, sizes.nope_dim, sizes.v_dim);
    const at::Tensor q = at::cat({at::matmul(q_nope, to_keys), q_rotated}, -1);  // [B, H, 1, r + rope]
    const at::Tensor mixed = ops::attention(q, latents_and_k, latents_and_k, mask, scores_of(spec, weights))
                                 .view({q.size(0), q.size(2), spec.num_heads, -1})
                                 .narrow(-1, 0, sizes.kv_rank)
                                 .transpose(1, 2);                               // [B, H, 1, r]
    return at::matmul(mixed, to_values.transpose(1, 2)).transpose(1, 2).flatten(2);
}

at::Tensor latent_attention(const arch::ModelSpec& spec, const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, std::int64_t num_queries, const Step& step) {
    const arch::LatentAttention& sizes = *spec.latent;
    const ops::AttentionMask mask = mask_of(spec.layers[static_cast<std::size_t>(layer)], step);
    const std::int64_t batch = x_BLD.size(0), length = x_BLD.size(1);
    const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) { return ops::norm(x, {weight, {}}, spec.architecture->norm, latent_norm_eps); };

    const bool all_ask = num_queries == length;
    const at::Tensor asking = model::last_of(x_BLD, 1, num_queries);
    const at::Tensor projected = sizes.q_rank > 0 ? weights.q_b(norm(weights.q_a(asking), weights.q_a_norm)) : weights.q(asking);
    const at::Tensor heads = projected.view({batch, num_queries, spec.num_heads, spec.head_dim}).transpose(1, 2);
    const at::Tensor q_nope = heads.narrow(-1, 0, sizes.nope_dim);
    const at::Tensor q_rotated = ops::apply_rope(heads.narrow(-1, sizes.nope_dim, sizes.rope_dim), last_of(step.angles, num_queries));

    const at::Tensor compressed = weights.kv_a(x_BLD).unsqueeze(1);              // [B, 1, L, r + rope]
    const at::Tensor all_latents = norm(compressed.narrow(-1, 0, sizes.kv_rank), weights.kv_a_norm);
    const at::Tensor all_rotated = ops::apply_rope(compressed.narrow(-1, sizes.kv_rank, sizes.rope_dim), step.angles);
    return weights.o(for_each_sequence(step, length, [&](std::int64_t first, std::int64_t count, KvCache* cache) {
        const auto of_sequence = [&](const at::Tensor& x) { return x.narrow(2, first, count); };
        const auto queries = [&](const at::Tensor& x) { return all_ask ? of_sequence(x) : x; };
        at::Tensor latents = of_sequence(all_latents), k_rotated = of_sequence(all_rotated);
        if (cache != nullptr) {
            // The cache holds latents, not heads: one key as wide as a latent and its rotated part, and no value.
            const at::Tensor both = at::cat({latents, k_rotated}, -1);
            const at::Tensor cached = cache->append(layer, both, both.narrow(-1, 0, 0)).first;
            const bool plain = !weights.kv_b.lora_a.defined();
            if (queries(q_nope).size(2) == 1 && plain) return absorbed_attention(spec, weights, queries(q_nope), queries(q_rotated), cached, mask);
            latents = cached.narrow(-1, 0, sizes.kv_rank);
            k_rotated = cached.narrow(-1, sizes.kv_rank, sizes.rope_dim);
        }
        const auto [k, v] = expand_latents(spec, weights, latents, k_rotated);
        return ops::attention(at::cat({queries(q_nope), queries(q_rotated)}, -1), k, v, mask, scores_of(spec, weights));
    }));
}

}  // namespace

at::Tensor last_of(const at::Tensor& x, std::int64_t dim, std::int64_t count) {
    const std::int64_t size = x.size(dim);
    return count == size ? x : x.narrow(dim, size - count, count);
}

at::Tensor self_attention(const arch::ModelSpec& spec, const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, std::int64_t num_queries, const Step& step) {
    return spec.latent ? latent_attention(spec, weights, layer, x_BLD, num_queries, step) : grouped_attention(spec, weights, layer, x_BLD, num_queries, step);
}

}  // namespace mixwright::model
