#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/bf16-inl.h"

#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include "kernels/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

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

// ---- products of blocks -------------------------------------------------------------------------------------------

constexpr int rows_at_once = hn::MaxLanes(F32()) >= 16 ? 6 : 3;  // as many as there are registers for

// A matrix whose elements are taken one at a time: (row, k) lies at data[row * row_step + k * step].
struct Factors {
    const float* data;
    std::int64_t row_step, step;
};

// c[R][V vectors] (+)= a[R][depth] b[depth][V vectors]
template <int R, int V, bool add>
HWY_INLINE void tile(Factors a, const float* b, std::int64_t b_stride, std::int64_t depth, float* c, std::int64_t c_stride) {
    const F32 d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    VF sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = add ? hn::Load(d, c + r * c_stride + v * lanes) : hn::Zero(d);
    for (std::int64_t k = 0; k < depth; ++k) {
        VF from[V];
        for (int v = 0; v < V; ++v) from[v] = hn::Load(d, b + k * b_stride + v * lanes);
        for (int r = 0; r < R; ++r) {
            const VF factor = hn::Set(d, a.data[r * a.row_step + k * a.step]);
            for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(factor, from[v], sums[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) hn::Store(sums[r][v], d, c + r * c_stride + v * lanes);
}

template <int R, bool add>
HWY_INLINE void tile_row(Factors a, const float* b, std::int64_t b_stride, std::int64_t depth, float* c, std::int64_t c_stride, std::int64_t cols) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
    std::int64_t col = 0;
    for (; col + 4 * lanes <= cols; col += 4 * lanes) tile<R, 4, add>(a, b + col, b_stride, depth, c + col, c_stride);
    for (; col < cols; col += lanes) tile<R, 1, add>(a, b + col, b_stride, depth, c + col, c_stride);
}

// c[rows][cols] (+)= a[rows][depth] b[depth][cols]; cols are whole vectors.
template <bool add>
void product(Factors a, const float* b, std::int64_t b_stride, std::int64_t rows, std::int64_t depth, float* c, std::int64_t c_stride, std::int64_t cols) {
    for (std::int64_t row = 0; row < rows;) {
        const Factors from{a.data + row * a.row_step, a.row_step, a.step};
        const bool whole = row + rows_at_once <= rows;
        if (whole)
            tile_row<rows_at_once, add>(from, b, b_stride, depth, c + row * c_stride, c_stride, cols);
        else
            tile_row<1, add>(from, b, b_stride, depth, c + row * c_stride, c_stride, cols);
        row += whole ? rows_at_once : 1;
    }
}

// ---- many queries -------------------------------------------------------------------------------------------------
// Scores are kept by key, [key][row] with rows (head of the group, query): keys need no transposing, and maxima and sums
// over keys are plain vector operations.

// Keys that query `i` may look at: [first, last).
struct Span {
    std::int64_t first, last;
};
HWY_INLINE Span visible(const Attention& a, std::int64_t i) {
    const std::int64_t position = a.num_keys - a.num_queries + i;
    const std::int64_t in_window = a.window > 0 ? position - a.window + 1 : 0, in_chunk = a.chunk > 0 ? position / a.chunk * a.chunk : 0;
    return {std::max({std::int64_t{0}, in_window, in_chunk}), a.causal ? position + 1 : a.num_keys};
}

// A part of the scratch memory for each thing a block needs.
struct Block {
    std::int64_t rows, out_stride;  // rows padded to whole vectors
    float *q, *keys, *values, *scores, *out, *highest, *sums, *factors, *first, *last;
};

// Turns scores [count][rows] into weights; updates highest and sums, and leaves in factors what earlier sums are worth.
// `masked`: some row may not look at some of these keys.
HWY_INLINE void softmax_block(const Attention& a, const Block& block, const bool* key_mask, std::int64_t first_key, std::int64_t count, bool masked) {
    const F32 d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const VF nothing = hn::Set(d, minus_infinity);
    for (std::int64_t row = 0; row < block.rows; row += lanes) {
        float* scores = block.scores + row;
        const VF before = hn::Load(d, block.highest + row), first = hn::Load(d, block.first + row), last = hn::Load(d, block.last + row);
        VF top = before;
        for (std::int64_t j = 0; j < count; ++j) {
            VF score = hn::Load(d, scores + j * block.rows);
            if (a.softcap > 0) score = soft_capped(score, a.softcap);
            if (masked) {
                const VF key = hn::Set(d, static_cast<float>(first_key + j));
                score = hn::IfThenElse(hn::And(hn::Ge(key, first), hn::Lt(key, last)), score, nothing);
            }
            if (key_mask != nullptr && !key_mask[first_key + j]) score = nothing;
            hn::Store(score, d, scores + j * block.rows);
            top = hn::Max(top, score);
        }
        // A row that has seen no key yet keeps its sums at zero.
        const VF shift = hn::IfThenElseZero(hn::Gt(top, nothing), top);
        VF sum = hn::Zero(d);
        for (std::int64_t j = 0; j < count; ++j) {
            const VF p = exp_negative(hn::Sub(hn::Load(d, scores + j * block.rows), shift));
            hn::Store(p, d, scores + j * block.rows);
            sum = hn::Add(sum, p);
        }
        const VF factor = exp_negative(hn::Sub(before, shift));
        hn::Store(factor, d, block.factors + row);
        hn::Store(hn::MulAdd(hn::Load(d, block.sums + row), factor, sum), d, block.sums + row);
        hn::Store(top, d, block.highest + row);
    }
}

template <class T>
HWY_INLINE void widen_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols, float* to, std::int64_t to_stride) {
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) to[row * to_stride + col] = widen(from[row * stride + col]);
}

template <class T>
void run_block(const Attention& a, std::int64_t piece) {
    const F32 d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const std::int64_t blocks = query_blocks(a), group = a.heads / a.kv_heads;
    // The last queries see the most keys: they go first, so that no thread is left alone with them at the end.
    const std::int64_t first_query = (blocks - 1 - piece % blocks) * block_queries(a), kv_head = piece / blocks % a.kv_heads,
                       batch = piece / blocks / a.kv_heads;
    const std::int64_t queries = std::min(block_queries(a), a.num_queries - first_query), rows = group * queries;
    const bool* key_mask = a.key_mask != nullptr ? a.key_mask + batch * a.num_keys : nullptr;

    Block block{(rows + lanes - 1) / lanes * lanes, (a.value_dim + lanes - 1) / lanes * lanes};
    std::int64_t total = 0;
    const std::pair<float* Block::*, std::int64_t> parts[] = {
        {&Block::q, a.dim * block.rows}, {&Block::keys, block_keys * a.dim}, {&Block::values, block_keys * block.out_stride},
        {&Block::scores, block_keys * block.rows}, {&Block::out, block.rows * block.out_stride}, {&Block::highest, block.rows},
        {&Block::sums, block.rows}, {&Block::factors, block.rows}, {&Block::first, block.rows}, {&Block::last, block.rows}};
    for (const auto& [part, size] : parts) total += (size + 15) / 16 * 16;
    const auto scratch = hwy::AllocateAligned<float>(static_cast<std::size_t>(total));
    std::fill(scratch.get(), scratch.get() + total, 0.0f);
    float* next = scratch.get();
    for (const auto& [part, size] : parts) {
        block.*part = next;
        next += (size + 15) / 16 * 16;
    }
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t head = kv_head * group + row / queries, query = first_query + row % queries;
        const T* from = static_cast<const T*>(a.q) + batch * a.q_strides[0] + head * a.q_strides[1] + query * a.q_strides[2];
        for (std::int64_t i = 0; i < a.dim; ++i) block.q[i * block.rows + row] = widen(from[i]) * a.scale;
        block.highest[row] = a.sinks != nullptr ? a.sinks[head] : minus_infinity;
        block.sums[row] = a.sinks != nullptr ? 1.0f : 0.0f;
        block.first[row] = static_cast<float>(visible(a, query).first);
        block.last[row] = static_cast<float>(visible(a, query).last);
    }

    const Span first_span = visible(a, first_query), last_span = visible(a, first_query + queries - 1);
    for (std::int64_t first_key = first_span.first / block_keys * block_keys; first_key < last_span.last; first_key += block_keys) {
        const std::int64_t count = std::min(block_keys, last_span.last - first_key);
        const T* k = static_cast<const T*>(a.k) + batch * a.k_strides[0] + kv_head * a.k_strides[1] + first_key * a.k_strides[2];
        const T* v = static_cast<const T*>(a.v) + batch * a.v_strides[0] + kv_head * a.v_strides[1] + first_key * a.v_strides[2];
        widen_rows(k, a.k_strides[2], count, a.dim, block.keys, a.dim);
        widen_rows(v, a.v_strides[2], count, a.value_dim, block.values, block.out_stride);
        product<false>({block.keys, a.dim, 1}, block.q, block.rows, count, a.dim, block.scores, block.rows, block.rows);

        const bool masked = first_key < last_span.first || first_key + count > first_span.last;
        softmax_block(a, block, key_mask, first_key, count, masked);
        for (std::int64_t row = 0; row < rows; ++row)
            if (const float factor = block.factors[row]; factor != 1.0f)
                for (std::int64_t i = 0; i < block.out_stride; ++i) block.out[row * block.out_stride + i] *= factor;
        product<true>({block.scores, 1, block.rows}, block.values, block.out_stride, rows, count, block.out, block.out_stride, block.out_stride);
    }

    for (std::int64_t row = 0; row < rows; ++row) {
        const float factor = block.sums[row] > 0 ? 1.0f / block.sums[row] : 0.0f;
        const std::int64_t head = kv_head * group + row / queries, query = first_query + row % queries;
        T* to = static_cast<T*>(a.out) + ((batch * a.num_queries + query) * a.heads + head) * a.value_dim;
        for (std::int64_t i = 0; i < a.value_dim; ++i) store_narrow(block.out[row * block.out_stride + i] * factor, to + i);
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
