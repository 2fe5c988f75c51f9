#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/tile-inl.h"

#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/scratch.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef MIXWRIGHT_KERNELS_ATTENTION
#define MIXWRIGHT_KERNELS_ATTENTION
namespace mixwright::kernels {

constexpr std::int64_t block_keys = 64;

// Queries of a block: with the heads of a group, they make up to 256 rows.
inline std::int64_t block_queries(const Attention& a) { return std::clamp<std::int64_t>(256 / (a.heads / a.kv_heads), 1, 64); }
inline std::int64_t query_blocks(const Attention& a) { return (a.num_queries + block_queries(a) - 1) / block_queries(a); }

}  // namespace mixwright::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

HWY_INLINE void store_narrow(float value, float* out) { *out = value; }
HWY_INLINE void store_narrow(float value, std::uint16_t* out) { *out = narrow(value); }

// e^x for x <= 0 to about 1e-7 relative, 0 far below.
HWY_INLINE VF exp_negative(VF x) {
    const F32 d;
    const hn::ScalableTag<std::int32_t> di;
    const VF clamped = hn::Max(x, hn::Set(d, -87.0f));
    const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
    const VF nf = hn::ConvertTo(d, n);
    const VF r = hn::NegMulAdd(nf, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(nf, hn::Set(d, 0.693359375f), clamped));
    VF p = hn::Set(d, 1.3981999507e-3f);
    p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
    p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
    p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
    p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
    p = hn::MulAdd(hn::Mul(p, r), r, hn::Add(r, hn::Set(d, 1.0f)));
    const VF scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(n)));
    return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.0f)), scaled);
}

HWY_INLINE VF soft_capped(VF score, float cap) {
    const F32 d;
    // cap * tanh(s / cap), from e^(-2 |s| / cap)
    const VF e = exp_negative(hn::Mul(hn::Abs(score), hn::Set(d, -2.0f / cap)));
    const VF tanh = hn::Div(hn::Sub(hn::Set(d, 1.0f), e), hn::Add(hn::Set(d, 1.0f), e));
    return hn::Mul(hn::Set(d, cap), hn::CopySign(tanh, score));
}

// ---- many queries -------------------------------------------------------------------------------------------------
// Queries of all heads of a group stand side by side in panels, as tokens do in products with weights (kernels/matmul.h), and keys
// and values are the weights: scores [key, W] of a panel come out so that maxima and sums over keys are plain vector operations.

// Keys that query `i` may look at: [first, last).
struct Span {
    std::int64_t first, last;
};
HWY_INLINE Span visible(const Attention& a, std::int64_t i) {
    const std::int64_t position = a.num_keys - a.num_queries + i;
    const std::int64_t in_window = a.window > 0 ? position - a.window + 1 : 0, in_chunk = a.chunk > 0 ? position / a.chunk * a.chunk : 0;
    return {std::max({std::int64_t{0}, in_window, in_chunk}), a.causal ? position + 1 : a.num_keys};
}

// What is known of each row (a query of a head), panel after panel, and the keys it may look at.
struct Rows {
    float *highest, *sums, *first, *last;
};

// Turns the scores [count, width] of one panel into weights; updates highest and sums, and leaves in `factors` what earlier sums are
// worth. `masked`: some row may not look at some of these keys.
HWY_INLINE void softmax_block(const Attention& a, const Rows& rows, const bool* key_mask, std::int64_t first_key, std::int64_t count, bool masked, std::int64_t width, float* scores,
                              float* factors) {
    const F32 d;
    const VF nothing = hn::Set(d, minus_infinity), scale = hn::Set(d, a.scale);
    for (std::int64_t row = 0; row < width; row += lanes()) {
        const VF before = hn::LoadU(d, rows.highest + row), first = hn::LoadU(d, rows.first + row), last = hn::LoadU(d, rows.last + row);
        VF top = before;
        for (std::int64_t j = 0; j < count; ++j) {
            VF score = hn::Mul(hn::LoadU(d, scores + j * width + row), scale);
            if (a.softcap > 0) score = soft_capped(score, a.softcap);
            if (masked) {
                const VF key = hn::Set(d, static_cast<float>(first_key + j));
                score = hn::IfThenElse(hn::And(hn::Ge(key, first), hn::Lt(key, last)), score, nothing);
            }
            if (key_mask != nullptr && !key_mask[first_key + j]) score = nothing;
            hn::StoreU(score, d, scores + j * width + row);
            top = hn::Max(top, score);
        }
        // A row that has seen no key yet keeps its sums at zero.
        const VF shift = hn::IfThenElseZero(hn::Gt(top, nothing), top);
        VF sum = hn::Zero(d);
        for (std::int64_t j = 0; j < count; ++j) {
            const VF p = exp_negative(hn::Sub(hn::LoadU(d, scores + j * width + row), shift));
            hn::StoreU(p, d, scores + j * width + row);
            sum = hn::Add(sum, p);
        }
        const VF factor = exp_negative(hn::Sub(before, shift));
        hn::StoreU(factor, d, factors + row);
        hn::StoreU(hn::MulAdd(hn::LoadU(d, rows.sums + row), factor, sum), d, rows.sums + row);
        hn::StoreU(top, d, rows.highest + row);
    }
}

// Values of `count` keys (rounded up to an even number, with zeros) as rows of keys: to[i, j] = v[j, i]. `pairs` is room for as many values.
void turn_values(const float* v, std::int64_t stride, std::int64_t count, std::int64_t dim, float*, float* to) {
    const std::int64_t even = (count + 1) / 2 * 2;
    turn(v, stride, count, dim, to, even);
    for (std::int64_t i = 0; i < dim && count < even; ++i) to[i * even + count] = 0.0f;
}
// Of bf16 two neighbours are turned as one f32.
void turn_values(const std::uint16_t* v, std::int64_t stride, std::int64_t count, std::int64_t dim, float* pairs, std::uint16_t* to) {
    const std::int64_t num_pairs = (count + 1) / 2;
    for (std::int64_t pair = 0; pair < num_pairs; ++pair) {
        const std::uint16_t* low = v + 2 * pair * stride;
        const bool whole = 2 * pair + 1 < count;
        for (std::int64_t i = 0; i < dim; ++i) pairs[pair * dim + i] = std::bit_cast<float>(static_cast<std::uint32_t>(low[i]) | (whole ? static_cast<std::uint32_t>(low[stride + i]) << 16 : 0u));
    }
    turn(pairs, dim, num_pairs, dim, reinterpret_cast<float*>(to), num_pairs);
}

template <class T>
void run_block(const Attention& a, std::int64_t piece) {
    const F32 d;
    constexpr Format format = std::is_same_v<T, float> ? Format::f32 : Format::bf16;
    const std::int64_t blocks = query_blocks(a), group = a.heads / a.kv_heads;
    // The last queries see the most keys: they go first, so that no thread is left alone with them at the end.
    const std::int64_t first_query = (blocks - 1 - piece % blocks) * block_queries(a), kv_head = piece / blocks % a.kv_heads, batch = piece / blocks / a.kv_heads;
    const std::int64_t queries = std::min(block_queries(a), a.num_queries - first_query), num_rows = group * queries;
    const bool* key_mask = a.key_mask != nullptr ? a.key_mask + batch * a.num_keys : nullptr;

    Panels q(num_rows, a.dim, format), weights(num_rows, block_keys, format);
    const std::int64_t width = q.width(), padded = q.count() * width, out_step = a.value_dim * width;
    const T* q_from = static_cast<const T*>(a.q) + batch * a.q_strides[0] + kv_head * group * a.q_strides[1] + first_query * a.q_strides[2];
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(num_rows));
    for (std::int64_t row = 0; row < num_rows; ++row) offsets[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(row / queries * a.q_strides[1] + row % queries * a.q_strides[2]);
    for (std::int64_t p = 0; p < q.count(); ++p) q.fill(p, q_from, 1, offsets);

    thread_local Scratch scratch;
    const std::int64_t score_step = block_keys * width;
    float* next = scratch.of(5 * padded + q.count() * (score_step + 2 * out_step) + block_keys * (a.dim + 2 * a.value_dim) + width * a.value_dim);
    const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
    const Rows rows{take(padded), take(padded), take(padded), take(padded)};
    float *factors = take(padded), *scores = take(q.count() * score_step), *out = take(q.count() * out_step), *added = take(q.count() * out_step);
    auto *keys = reinterpret_cast<T*>(take(block_keys * a.dim)), *values = reinterpret_cast<T*>(take(block_keys * a.value_dim));
    float *pairs = take(block_keys * a.value_dim), *turned = take(width * a.value_dim);
    std::fill(rows.highest, factors, 0.0f);
    std::fill(out, added, 0.0f);
    for (std::int64_t row = 0; row < num_rows; ++row) {
        const std::int64_t head = kv_head * group + row / queries, query = first_query + row % queries;
        rows.highest[row] = a.sinks != nullptr ? a.sinks[head] : minus_infinity;
        rows.sums[row] = a.sinks != nullptr ? 1.0f : 0.0f;
        rows.first[row] = static_cast<float>(visible(a, query).first);
        rows.last[row] = static_cast<float>(visible(a, query).last);
    }

    const Span first_span = visible(a, first_query), last_span = visible(a, first_query + queries - 1);
    for (std::int64_t first_key = first_span.first / block_keys * block_keys; first_key < last_span.last; first_key += block_keys) {
        const std::int64_t count = std::min(block_keys, last_span.last - first_key), even = (count + 1) / 2 * 2;
        const T* k = static_cast<const T*>(a.k) + batch * a.k_strides[0] + kv_head * a.k_strides[1] + first_key * a.k_strides[2];
        const T* v = static_cast<const T*>(a.v) + batch * a.v_strides[0] + kv_head * a.v_strides[1] + first_key * a.v_strides[2];
        const bool together = a.k_strides[2] == a.dim;
        for (std::int64_t j = 0; j < count && !together; ++j) std::copy_n(k + j * a.k_strides[2], a.dim, keys + j * a.dim);
        turn_values(v, a.v_strides[2], count, a.value_dim, pairs, values);

        multiply({format, count, a.dim, together ? k : keys}, 0, count, q, scores, score_step);
        const bool masked = first_key < last_span.first || first_key + count > first_span.last;
        for (std::int64_t p = 0; p < q.count(); ++p) {
            float* of_panel = scores + p * score_step;
            const std::int64_t row = p * width;
            softmax_block(a, {rows.highest + row, rows.sums + row, rows.first + row, rows.last + row}, key_mask, first_key, count, masked, width, of_panel, factors + row);
            std::fill(of_panel + count * width, of_panel + even * width, 0.0f);
            weights.put(p, 0, even, of_panel);
        }
        multiply({format, a.value_dim, even, values}, 0, a.value_dim, weights, added, out_step);
        for (std::int64_t p = 0; p < q.count(); ++p)
            for (std::int64_t row = 0; row < width; row += lanes()) {
                const VF factor = hn::LoadU(d, factors + p * width + row);
                float *to = out + p * out_step + row, *more = added + p * out_step + row;
                for (std::int64_t i = 0; i < out_step; i += width) hn::StoreU(hn::MulAdd(hn::LoadU(d, to + i), factor, hn::LoadU(d, more + i)), d, to + i);
            }
    }

    for (std::int64_t p = 0; p < q.count(); ++p) {
        const std::int64_t count = std::min(width, num_rows - p * width);
        turn(out + p * out_step, width, a.value_dim, count, turned, a.value_dim);
        for (std::int64_t t = 0; t < count; ++t) {
            const std::int64_t row = p * width + t, head = kv_head * group + row / queries, query = first_query + row % queries;
            const float factor = rows.sums[row] > 0 ? 1.0f / rows.sums[row] : 0.0f;
            T* to = static_cast<T*>(a.out) + ((batch * a.num_queries + query) * a.heads + head) * a.value_dim;
            for (std::int64_t i = 0; i < a.value_dim; ++i) store_narrow(turned[t * a.value_dim + i] * factor, to + i);
        }
    }
}

// ---- one query ----------------------------------------------------------------------------------------------------

// Scores of one head against all keys, then the weighted values: each key and value is read once.
template <class T>
void run_single(const Attention& a, std::int64_t piece) {
    const F32 d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const std::int64_t head = piece % a.heads, batch = piece / a.heads, kv_head = head / (a.heads / a.kv_heads);
    const Span span = visible(a, 0);
    const std::int64_t count = span.last - span.first, padded = (count + lanes - 1) / lanes * lanes, out_size = (a.value_dim + lanes - 1) / lanes * lanes;
    const std::int64_t dim_size = (a.dim + lanes - 1) / lanes * lanes;
    const auto scratch = hwy::AllocateAligned<float>(static_cast<std::size_t>(padded + out_size + dim_size));
    float *scores = scratch.get(), *out = scores + padded, *q = out + out_size;
    const T* from = static_cast<const T*>(a.q) + batch * a.q_strides[0] + head * a.q_strides[1];
    for (std::int64_t i = 0; i < a.dim; ++i) q[i] = widen(from[i]) * a.scale;

    const T* k = static_cast<const T*>(a.k) + batch * a.k_strides[0] + kv_head * a.k_strides[1] + span.first * a.k_strides[2];
    const bool* key_mask = a.key_mask != nullptr ? a.key_mask + batch * a.num_keys + span.first : nullptr;
    for (std::int64_t j = 0; j < count; ++j, k += a.k_strides[2]) {
        VF sum = hn::Zero(d), other = sum;
        std::int64_t i = 0;
        for (; i + 2 * lanes <= a.dim; i += 2 * lanes) {
            sum = hn::MulAdd(load_floats(k + i), hn::Load(d, q + i), sum);
            other = hn::MulAdd(load_floats(k + i + lanes), hn::Load(d, q + i + lanes), other);
        }
        float score = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum, other)));
        for (; i < a.dim; ++i) score += widen(k[i]) * q[i];
        scores[j] = key_mask != nullptr && !key_mask[j] ? minus_infinity : score;
    }
    std::fill(scores + count, scores + padded, minus_infinity);
    if (a.softcap > 0)
        for (std::int64_t j = 0; j < padded; j += lanes) {
            const VF score = hn::Load(d, scores + j);
            hn::Store(hn::IfThenElse(hn::Eq(score, hn::Set(d, minus_infinity)), score, soft_capped(score, a.softcap)), d, scores + j);
        }
    VF top = hn::Set(d, a.sinks != nullptr ? a.sinks[head] : minus_infinity);
    for (std::int64_t j = 0; j < padded; j += lanes) top = hn::Max(top, hn::Load(d, scores + j));
    const float highest = hn::GetLane(hn::MaxOfLanes(d, top));
    float sum = a.sinks != nullptr ? std::exp(a.sinks[head] - highest) : 0.0f;
    if (highest == minus_infinity) {
        std::fill(scores, scores + padded, 0.0f);
    } else {
        VF total = hn::Zero(d);
        for (std::int64_t j = 0; j < padded; j += lanes) {
            const VF p = exp_negative(hn::Sub(hn::Load(d, scores + j), hn::Set(d, highest)));
            hn::Store(p, d, scores + j);
            total = hn::Add(total, p);
        }
        sum += hn::GetLane(hn::SumOfLanes(d, total));
    }

    std::fill(out, out + out_size, 0.0f);
    const T* v = static_cast<const T*>(a.v) + batch * a.v_strides[0] + kv_head * a.v_strides[1] + span.first * a.v_strides[2];
    constexpr int at_once = 4;  // vectors of the result in registers
    std::int64_t i = 0;
    for (; i + at_once * lanes <= a.value_dim; i += at_once * lanes) {
        VF sums[at_once];
        for (VF& s : sums) s = hn::Zero(d);
        for (std::int64_t j = 0; j < count; ++j) {
            const VF p = hn::Set(d, scores[j]);
            for (int n = 0; n < at_once; ++n) sums[n] = hn::MulAdd(p, load_floats(v + j * a.v_strides[2] + i + n * lanes), sums[n]);
        }
        for (int n = 0; n < at_once; ++n) hn::Store(sums[n], d, out + i + n * lanes);
    }
    for (; i < a.value_dim; ++i)
        for (std::int64_t j = 0; j < count; ++j) out[i] += scores[j] * widen(v[j * a.v_strides[2] + i]);
    const float factor = sum > 0 ? 1.0f / sum : 0.0f;
    T* to = static_cast<T*>(a.out) + (batch * a.heads + head) * a.value_dim;
    for (i = 0; i < a.value_dim; ++i) store_narrow(out[i] * factor, to + i);
}

void attention_f32(const Attention& a, std::int64_t piece) { a.num_queries == 1 ? run_single<float>(a, piece) : run_block<float>(a, piece); }
void attention_bf16(const Attention& a, std::int64_t piece) {
    a.num_queries == 1 ? run_single<std::uint16_t>(a, piece) : run_block<std::uint16_t>(a, piece);
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(attention_f32);
HWY_EXPORT(attention_bf16);

std::int64_t Attention::num_pieces() const { return num_queries == 1 ? batch * heads : batch * kv_heads * query_blocks(*this); }

void Attention::run(std::int64_t piece) const {
    if (element == Element::f32)
        HWY_DYNAMIC_DISPATCH(attention_f32)(*this, piece);
    else
        HWY_DYNAMIC_DISPATCH(attention_bf16)(*this, piece);
}

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
