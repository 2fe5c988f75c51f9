#include "ops/attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <optional>

#include "ops/attention_kernel.h"
#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

// Additive mask [Lq, Lk] or [B, 1, Lq, Lk]; undefined when every query sees every key.
at::Tensor additive_mask(const AttentionMask& mask, std::int64_t num_queries, std::int64_t num_keys, const at::Tensor& like) {
    const bool windowed = mask.window > 0 && num_keys > mask.window;
    const bool causal = mask.causal && num_queries > 1;
    const bool chunked = mask.chunk > 0 && num_keys > mask.chunk;
    if (!windowed && !chunked && !causal && !mask.keys.defined()) return {};

    const at::Tensor keys = at::arange(num_keys, like.options().dtype(at::kLong));
    const at::Tensor queries = at::arange(num_keys - num_queries, num_keys, like.options().dtype(at::kLong)).unsqueeze(1);
    at::Tensor visible = at::ones({num_queries, num_keys}, like.options().dtype(at::kBool));
    if (causal) visible = keys <= queries;
    if (windowed) visible = visible & (keys > queries - mask.window);
    if (chunked) visible = visible & (keys.div(mask.chunk, "floor") == queries.div(mask.chunk, "floor"));
    if (mask.keys.defined()) visible = visible & mask.keys.unsqueeze(1).unsqueeze(1);
    // With -inf a row without any visible key (padding) attends to nothing and comes out as zeros, as in transformers.
    return at::zeros(visible.sizes(), like.options()).masked_fill_(visible.logical_not(), -std::numeric_limits<double>::infinity());
}

// For scores that scaled_dot_product_attention cannot shape. q, keys and values have the same number of heads.
at::Tensor shaped_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& bias, double scale,
                            const AttentionScores& form) {
    at::Tensor scores = at::matmul(q, keys.transpose(2, 3)) * scale;
    if (form.softcap > 0) scores = at::tanh(scores / form.softcap) * form.softcap;
    if (bias.defined()) scores = scores + bias;
    if (!form.sinks.defined()) return at::matmul(at::softmax(scores, -1, at::kFloat).to(q.scalar_type()), values);
    const at::Tensor sinks = form.sinks.to(scores.scalar_type()).view({1, -1, 1, 1}).expand({scores.size(0), -1, scores.size(2), 1});
    const at::Tensor weights = at::softmax(at::cat({scores, sinks}, -1), -1, at::kFloat).narrow(-1, 0, scores.size(-1));
    return at::matmul(weights.to(q.scalar_type()), values);
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask, const AttentionScores& form) {
    const std::int64_t batch = q.size(0), heads = q.size(1), num_queries = q.size(2), dim = q.size(3);
    const std::int64_t kv_heads = k.size(1), num_keys = k.size(2), group = heads / kv_heads, value_dim = v.size(3);
    const double scale = form.scale > 0 ? form.scale : 1 / std::sqrt(static_cast<double>(dim));
    const bool shaped = form.softcap > 0 || form.sinks.defined();

    if (attention_kernel_applies(q, k, v)) {
        const kernels::Attention kernel{.scale = static_cast<float>(scale), .softcap = static_cast<float>(form.softcap), .causal = mask.causal,
                                        .window = mask.window, .chunk = mask.chunk};
        return attend_with_kernel(q, k, v, kernel, form.sinks, mask.keys);
    }
    if (q.is_cpu() && q.scalar_type() == at::kBFloat16 && !has_fast_products(at::kBFloat16))
        return attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), mask, form).to(q.scalar_type());
    if (num_queries == 1 && group > 1 && !shaped) {
        // One query: the heads of a group read the same keys, so they go in as queries of one head and nothing is repeated.
        const at::Tensor bias = additive_mask(mask, 1, num_keys, q);
        const at::Tensor grouped = q.reshape({batch, kv_heads, group, dim});
        return at::scaled_dot_product_attention(grouped, k, v, bias.defined() ? std::optional(bias) : std::nullopt, 0.0, false, scale)
            .reshape({batch, 1, heads * value_dim});
    }
    const bool plain_causal = mask.causal && num_queries == num_keys && num_queries > 1 && !mask.keys.defined() && !shaped &&
                              (mask.window == 0 || num_keys <= mask.window) && (mask.chunk == 0 || num_keys <= mask.chunk);
    const at::Tensor bias = plain_causal ? at::Tensor() : additive_mask(mask, num_queries, num_keys, q);
    const at::Tensor keys = group == 1 ? k : k.repeat_interleave(group, 1);
    at::Tensor values = group == 1 ? v : v.repeat_interleave(group, 1);
    // Multi-head latent attention has values narrower than keys, for which libtorch's fused kernels are not made: zeros beside them cost
    // less than all scores in memory.
    if (!shaped && value_dim < dim) values = at::constant_pad_nd(values, {0, dim - value_dim});
    const at::Tensor attended = shaped ? shaped_attention(q, keys, values, bias, scale, form)
                                       : at::scaled_dot_product_attention(q, keys, values, bias.defined() ? std::optional(bias) : std::nullopt,
                                                                          0.0, plain_causal, scale);
    return attended.narrow(3, 0, value_dim).transpose(1, 2).reshape({batch, num_queries, heads * value_dim});
}

}  // namespace mixwright::ops
