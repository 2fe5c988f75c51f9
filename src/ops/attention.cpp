#include "ops/attention.h"

#include <ATen/ATen.h>

#include <limits>
#include <optional>

namespace mixwright::ops {
namespace {

// Additive mask [Lq, Lk] or [B, 1, Lq, Lk]; undefined when every query sees every key.
at::Tensor additive_mask(const AttentionMask& mask, std::int64_t num_queries, std::int64_t num_keys, const at::Tensor& like) {
    const bool windowed = mask.window > 0 && num_keys > mask.window;
    const bool causal = mask.causal && num_queries > 1;
    if (!windowed && !causal && !mask.keys.defined()) return {};

    const at::Tensor keys = at::arange(num_keys, like.options().dtype(at::kLong));
    const at::Tensor queries = at::arange(num_keys - num_queries, num_keys, like.options().dtype(at::kLong)).unsqueeze(1);
    at::Tensor visible = at::ones({num_queries, num_keys}, like.options().dtype(at::kBool));
    if (causal) visible = keys <= queries;
    if (windowed) visible = visible & (keys > queries - mask.window);
    if (mask.keys.defined()) visible = visible & mask.keys.unsqueeze(1).unsqueeze(1);
    // With -inf a row without any visible key (padding) attends to nothing and comes out as zeros, as in transformers.
    return at::zeros(visible.sizes(), like.options()).masked_fill_(visible.logical_not(), -std::numeric_limits<double>::infinity());
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask) {
    const std::int64_t batch = q.size(0), heads = q.size(1), num_queries = q.size(2), dim = q.size(3);
    const std::int64_t kv_heads = k.size(1), num_keys = k.size(2), group = heads / kv_heads;

    if (num_queries == 1 && group > 1) {
        // One query: the heads of a group read the same keys, so they go in as queries of one head and nothing is repeated.
        const at::Tensor bias = additive_mask(mask, 1, num_keys, q);
        const at::Tensor grouped = q.reshape({batch, kv_heads, group, dim});
        return at::scaled_dot_product_attention(grouped, k, v, bias.defined() ? std::optional(bias) : std::nullopt)
            .reshape({batch, 1, heads * dim});
    }
    const bool plain_causal = mask.causal && num_queries == num_keys && num_queries > 1 && !mask.keys.defined() &&
                              (mask.window == 0 || num_keys <= mask.window);
    const at::Tensor bias = plain_causal ? at::Tensor() : additive_mask(mask, num_queries, num_keys, q);
    const at::Tensor keys = group == 1 ? k : k.repeat_interleave(group, 1);
    const at::Tensor values = group == 1 ? v : v.repeat_interleave(group, 1);
    return at::scaled_dot_product_attention(q, keys, values, bias.defined() ? std::optional(bias) : std::nullopt, 0.0, plain_causal)
        .transpose(1, 2)
        .reshape({batch, num_queries, heads * dim});
}

}  // namespace mixwright::ops
