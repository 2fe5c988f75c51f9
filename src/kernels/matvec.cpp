#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matvec.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/bf16-inl.h"

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/bf16_dots.h"
#include "kernels/matvec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using I32 = hn::ScalableTag<std::int32_t>;
using U32 = hn::ScalableTag<std::uint32_t>;
using I16 = hn::ScalableTag<std::int16_t>;
using HalfI8 = hn::Rebind<std::int8_t, I16>;
using HalfU8 = hn::Rebind<std::uint8_t, I16>;
using VI = hn::Vec<I32>;

HWY_INLINE float total(VF v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

// ---- activations --------------------------------------------------------------------------------------------------

template <class T>
void store_floats(const T* x, std::int64_t cols, float* out) {
    for (std::int64_t c = 0; c < cols; ++c) out[c] = widen(x[c]);
}

// Blocks of 2N columns, the N even ones first: a vector of 32-bit words of bf16 pairs gives up its even columns by a
// shift and its odd ones by a mask.
template <class T>
void store_even_odd(const T* x, std::int64_t cols, float* out) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
    const std::int64_t padded = (cols + 2 * lanes - 1) / (2 * lanes) * 2 * lanes;
    for (std::int64_t block = 0; block < padded; block += 2 * lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane)
            for (std::int64_t odd = 0; odd < 2; ++odd) {
                const std::int64_t c = block + 2 * lane + odd;
                out[block + odd * lanes + lane] = c < cols ? widen(x[c]) : 0.0f;
            }
}


// To 16 bits; returns the factor that undoes it: NaN when not all of x is finite.
template <class T>
float store_integers(const T* x, std::int64_t cols, std::int64_t padded, std::int16_t* out) {
    const F32 d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    VF highest_lanes = hn::Zero(d), probe_lanes = hn::Zero(d);
    std::int64_t c = 0;
    for (; c + lanes <= cols; c += lanes) {
        const VF v = load_floats(x + c);
        highest_lanes = hn::Max(highest_lanes, hn::Abs(v));
        probe_lanes = hn::MulAdd(v, hn::Zero(d), probe_lanes);  // NaN as soon as a value is not finite
    }
    float highest = hn::GetLane(hn::MaxOfLanes(d, highest_lanes)), probe = total(probe_lanes);
    for (; c < cols; ++c) {
        highest = std::max(highest, std::abs(widen(x[c])));
        probe += widen(x[c]) * 0.0f;
    }
    const float scale = std::isnan(probe) ? probe : std::max(highest, 1e-30f) / 32767.0f, inverse = 1.0f / scale;
    std::fill(out + (std::isnan(probe) ? 0 : cols), out + padded, std::int16_t{0});
    if (std::isnan(probe)) return scale;

    const hn::Rebind<std::int16_t, F32> d16;
    for (c = 0; c + lanes <= cols; c += lanes) {
        const VF v = hn::Mul(load_floats(x + c), hn::Set(d, inverse));
        hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(v)), d16, out + c);
    }
    for (; c < cols; ++c) out[c] = static_cast<std::int16_t>(std::lrint(widen(x[c]) * inverse));
    return scale;
}

template <class T>
void prepare_row(Format format, const T* x, std::int64_t cols, std::int64_t padded, std::byte* out, float* scale, float* sums) {
    switch (format) {
        case Format::f32: store_floats(x, cols, reinterpret_cast<float*>(out)); break;
        case Format::bf16: store_even_odd(x, cols, reinterpret_cast<float*>(out)); break;
        case Format::int8:
        case Format::int4: {
            auto* integers = reinterpret_cast<std::int16_t*>(out);
            *scale = store_integers(x, cols, padded, integers);
            if (format == Format::int4)
                for (std::int64_t group = 0; group < int4_groups(cols); ++group) {
                    std::int32_t sum = 0;
                    for (std::int64_t j = 0; j < int4_group; ++j) sum += integers[group * int4_group + j];
                    sums[group] = static_cast<float>(sum);
                }
        }
    }
}

void prepare_f32(Format format, const float* x, std::int64_t cols, std::int64_t padded, std::byte* out, float* scale, float* sums) {
    prepare_row(format, x, cols, padded, out, scale, sums);
}
void prepare_bf16(Format format, const std::uint16_t* x, std::int64_t cols, std::int64_t padded, std::byte* out, float* scale, float* sums) {
    prepare_row(format, x, cols, padded, out, scale, sums);
}

// To bf16, zeros behind.
void prepare_pairs_f32(const float* x, std::int64_t cols, std::int64_t padded, std::uint16_t* out) {
    for (std::int64_t c = 0; c < cols; ++c) out[c] = narrow(x[c]);
    std::fill(out + cols, out + padded, std::uint16_t{0});
}

// Products with integers are so much work a byte that a core meets few new lines of memory within the instructions it looks ahead:
// it has to be told of them. bf16 and f32 gain nothing by it.
HWY_INLINE void ask_for(const void* values) {
    constexpr std::ptrdiff_t ahead = 1536;  // bytes
    hwy::Prefetch(static_cast<const std::byte*>(values) + ahead);
}

// ---- products -----------------------------------------------------------------------------------------------------
// Each dot<W, R> multiplies W rows of weights, `spread` rows apart, with R rows of activations into out[r][w].

// sum + the products of 16-bit integers, pairs of neighbours added.
HWY_INLINE VI products(hn::Vec<I16> a, hn::Vec<I16> b, VI sum) {
    VI other = hn::Zero(I32());  // where the other half of the products goes on CPUs that part them; x86 does not
    return hn::Add(hn::ReorderWidenMulAccumulate(I32(), a, b, sum, other), other);
}

struct DotF32 {
    static constexpr int rows_at_once = 4;  // of weights: as many as there are registers for
    template <int W, int R>
    static HWY_INLINE void dot(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, const std::int32_t* x_rows, float (*out)[4]) {
        const F32 d;
        const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
        const auto* values = static_cast<const float*>(weights.values) + row * weights.cols;
        const std::int64_t step = spread * weights.cols;
        VF sums[R][W];
        for (auto& r : sums)
            for (VF& sum : r) sum = hn::Zero(d);
        std::int64_t c = 0;
        for (; c + lanes <= weights.cols; c += lanes) {
            VF w[W];
            for (int i = 0; i < W; ++i) w[i] = hn::LoadU(d, values + i * step + c);
            for (int r = 0; r < R; ++r) {
                const VF activations = hn::Load(d, reinterpret_cast<const float*>(x.row(x_rows[r])) + c);
                for (int i = 0; i < W; ++i) sums[r][i] = hn::MulAdd(w[i], activations, sums[r][i]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < W; ++i) {
                out[r][i] = total(sums[r][i]);
                for (std::int64_t tail = c; tail < weights.cols; ++tail)
                    out[r][i] += values[i * step + tail] * reinterpret_cast<const float*>(x.row(x_rows[r]))[tail];
            }
    }
};

struct DotBf16 {
    static constexpr int rows_at_once = 4;
    template <int W, int R>
    static HWY_INLINE void dot(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, const std::int32_t* x_rows, float (*out)[4]) {
        const F32 d;
        const U32 du;
        const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
        const auto* values = static_cast<const std::uint16_t*>(weights.values) + row * weights.cols;
        const std::int64_t step = spread * weights.cols;
        const auto high = hn::Set(du, 0xffff0000u);
        VF sums[R][W];
        for (auto& r : sums)
            for (VF& sum : r) sum = hn::Zero(d);
        const auto add = [&](const std::uint16_t* from, std::int64_t from_step, std::int64_t c) HWY_ATTR {
            VF even[W], odd[W];
            for (int i = 0; i < W; ++i) {
                const auto pairs = hn::LoadU(du, reinterpret_cast<const std::uint32_t*>(from + i * from_step));
                even[i] = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
                odd[i] = hn::BitCast(d, hn::And(pairs, high));
            }
            for (int r = 0; r < R; ++r) {
                const auto* activations = reinterpret_cast<const float*>(x.row(x_rows[r])) + c;
                const VF x_even = hn::Load(d, activations), x_odd = hn::Load(d, activations + lanes);
                for (int i = 0; i < W; ++i) sums[r][i] = hn::MulAdd(odd[i], x_odd, hn::MulAdd(even[i], x_even, sums[r][i]));
            }
        };
        std::int64_t c = 0;
        for (; c + 2 * lanes <= weights.cols; c += 2 * lanes) add(values + c, step, c);
        if (c < weights.cols) {
            std::uint16_t tail[W][2 * hn::MaxLanes(d)] = {};
            for (int i = 0; i < W; ++i) std::copy(values + i * step + c, values + i * step + weights.cols, tail[i]);
            add(tail[0], 2 * static_cast<std::int64_t>(hn::MaxLanes(d)), c);
        }
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < W; ++i) out[r][i] = total(sums[r][i]);
    }
};

struct DotInt8 {
    static constexpr int rows_at_once = 4;
    template <int W, int R>
    static HWY_INLINE void dot(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, const std::int32_t* x_rows, float (*out)[4]) {
        const F32 df;
        const I32 di;
        const I16 d16;
        const HalfI8 d8;
        const auto lanes = static_cast<std::int64_t>(hn::Lanes(d16));
        // A lane of 32 bits holds 256 pairs of products of 8 and 16 bits.
        const std::int64_t span = 256 * lanes;
        const auto* values = static_cast<const std::int8_t*>(weights.values) + row * weights.cols;
        const std::int64_t step = spread * weights.cols;
        VF sums[R][W];
        for (auto& r : sums)
            for (VF& sum : r) sum = hn::Zero(df);
        const auto add = [&](const std::int8_t* from, std::int64_t from_step, std::int64_t c, VI (&part)[R][W]) HWY_ATTR {
            hn::Vec<I16> w[W];
            for (int i = 0; i < W; ++i) w[i] = hn::PromoteTo(d16, hn::LoadU(d8, from + i * from_step));
            for (int r = 0; r < R; ++r) {
                const auto activations = hn::Load(d16, reinterpret_cast<const std::int16_t*>(x.row(x_rows[r])) + c);
                for (int i = 0; i < W; ++i) part[r][i] = products(w[i], activations, part[r][i]);
            }
        };
        for (std::int64_t first = 0; first < weights.cols; first += span) {
            const std::int64_t last = std::min(weights.cols, first + span);
            VI part[R][W];
            for (auto& r : part)
                for (VI& sum : r) sum = hn::Zero(di);
            std::int64_t c = first;
            for (; c + lanes <= last; c += lanes) {
                for (int i = 0; i < W; ++i) ask_for(values + i * step + c);
                add(values + c, step, c, part);
            }
            if (c < last) {
                std::int8_t tail[W][hn::MaxLanes(d16)] = {};
                for (int i = 0; i < W; ++i) std::copy(values + i * step + c, values + i * step + last, tail[i]);
                add(tail[0], static_cast<std::int64_t>(hn::MaxLanes(d16)), c, part);
            }
            for (int r = 0; r < R; ++r)
                for (int i = 0; i < W; ++i) sums[r][i] = hn::Add(sums[r][i], hn::ConvertTo(df, part[r][i]));
        }
        const auto* scales = static_cast<const float*>(weights.scales) + row;
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < W; ++i) out[r][i] = total(sums[r][i]) * (scales[i * spread] * x.scale(x_rows[r]));
    }
};

struct DotInt4 {
    static constexpr int rows_at_once = 4;
    template <int W, int R>
    static HWY_INLINE void dot(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, const std::int32_t* x_rows, float (*out)[4]) {
        const F32 df;
        const I32 di;
        const I16 d16;
        const HalfU8 d8;
        constexpr std::int64_t lanes = std::min<std::int64_t>(hn::MaxLanes(d16), int4_group);
        const std::int64_t groups = int4_groups(weights.cols), step = spread * groups * int4_group / 2, scale_step = spread * 2 * groups;
        const auto* values = static_cast<const std::uint8_t*>(weights.values) + row * groups * int4_group / 2;
        const auto* scales = static_cast<const std::uint16_t*>(weights.scales) + row * 2 * groups;
        const auto low = hn::Set(d16, 15);
        VF sums[R][W];
        for (auto& r : sums)
            for (VF& sum : r) sum = hn::Zero(df);
        for (std::int64_t pair = 0; pair < groups / 2; ++pair)
            for (int i = 0; i < W; ++i) {
                VI first[R], second[R];
                for (int r = 0; r < R; ++r) first[r] = second[r] = hn::Zero(di);
                for (std::int64_t part = 0; part < int4_group; part += lanes) {
                    const std::uint8_t* const from = values + i * step + pair * int4_group + part;
                    ask_for(from);
                    const auto bytes = hn::PromoteTo(d16, hn::LoadU(d8, from));
                    const auto w_first = hn::And(bytes, low), w_second = hn::ShiftRight<4>(bytes);
                    for (int r = 0; r < R; ++r) {
                        const auto* activations = reinterpret_cast<const std::int16_t*>(x.row(x_rows[r])) + pair * 2 * int4_group + part;
                        first[r] = products(w_first, hn::Load(d16, activations), first[r]);
                        second[r] = products(w_second, hn::Load(d16, activations + int4_group), second[r]);
                    }
                }
                const VF scale_first = hn::Set(df, widen(scales[i * scale_step + 2 * pair])), scale_second = hn::Set(df, widen(scales[i * scale_step + 2 * pair + 1]));
                for (int r = 0; r < R; ++r) {
                    sums[r][i] = hn::MulAdd(hn::ConvertTo(df, first[r]), scale_first, sums[r][i]);
                    sums[r][i] = hn::MulAdd(hn::ConvertTo(df, second[r]), scale_second, sums[r][i]);
                }
            }
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < W; ++i) {
                const std::uint16_t* least = scales + i * scale_step + groups;
                const float* group_sums = x.group_sums(x_rows[r]);
                std::int64_t group = 0;
                for (; group + static_cast<std::int64_t>(hn::Lanes(df)) <= groups; group += static_cast<std::int64_t>(hn::Lanes(df)))
                    sums[r][i] = hn::MulAdd(load_floats(least + group), hn::LoadU(df, group_sums + group), sums[r][i]);
                float sum = total(sums[r][i]);
                for (; group < groups; ++group) sum += widen(least[group]) * group_sums[group];
                out[r][i] = sum * x.scale(x_rows[r]);
            }
    }
};

template <class Dot, int W, int R>
HWY_INLINE void block(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, const std::int32_t* x_rows, float* out,
                      std::int64_t out_stride) {
    float results[R][4];
    Dot::template dot<W, R>(weights, row, spread, x, x_rows, results);
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < W; ++i) out[r * out_stride + i * spread] = results[r][i];
}

// All activations pass a few rows of weights while those lie in the first cache.
template <class Dot, int W>
HWY_INLINE void rows_of_weights(const Weights& weights, std::int64_t row, std::int64_t spread, const Activations& x, std::span<const std::int32_t> x_rows,
                                float* out, std::int64_t out_stride) {
    const auto count = static_cast<std::int64_t>(x_rows.size());
    const auto some = [&]<int R>(std::int64_t i) HWY_ATTR { block<Dot, W, R>(weights, row, spread, x, &x_rows[static_cast<std::size_t>(i)], out + i * out_stride, out_stride); };
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) some.template operator()<4>(i);
    if (i + 2 <= count) {
        some.template operator()<2>(i);
        i += 2;
    }
    if (i < count) some.template operator()<1>(i);
}

// The rows that pass together lie far apart, so that each is a stream of its own through memory: a core follows several
// streams at once, and fetches from memory twice as fast as along rows that lie one behind the other.
template <class Dot>
HWY_INLINE void multiply_rows(const Weights& weights, std::int64_t begin, std::int64_t end, const Activations& x, std::span<const std::int32_t> x_rows,
                              float* out, std::int64_t out_stride) {
    const std::int64_t spread = (end - begin) / Dot::rows_at_once, rest = begin + spread * Dot::rows_at_once;
    for (std::int64_t row = begin; row < begin + spread; ++row) rows_of_weights<Dot, Dot::rows_at_once>(weights, row, spread, x, x_rows, out + row, out_stride);
    for (std::int64_t row = rest; row < end; ++row) rows_of_weights<Dot, 1>(weights, row, 1, x, x_rows, out + row, out_stride);
}

void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Activations& x, std::span<const std::int32_t> x_rows, float* out,
              std::int64_t out_stride) {
    switch (weights.format) {
        case Format::f32: return multiply_rows<DotF32>(weights, begin, end, x, x_rows, out, out_stride);
        case Format::bf16: return multiply_rows<DotBf16>(weights, begin, end, x, x_rows, out, out_stride);
        case Format::int8: return multiply_rows<DotInt8>(weights, begin, end, x, x_rows, out, out_stride);
        case Format::int4: return multiply_rows<DotInt4>(weights, begin, end, x, x_rows, out, out_stride);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(prepare_pairs_f32);
HWY_EXPORT(prepare_f32);
HWY_EXPORT(prepare_bf16);
HWY_EXPORT(multiply);

namespace {

constexpr std::int64_t padding = 64;  // columns: as many as any target takes at a time

constexpr std::int64_t padded_cols(std::int64_t cols) { return (cols + padding - 1) / padding * padding; }

}  // namespace

Activations::Activations(Format format, std::int64_t rows, std::int64_t cols)
    : pairs_(format == Format::bf16 && has_bf16_dots()) {
    const bool integers = format == Format::int8 || format == Format::int4;
    stride_ = padded_cols(cols) * (integers || pairs_ ? 2 : 4);
    values_ = hwy::AllocateAligned<std::byte>(static_cast<std::size_t>(rows * stride_));
    if (integers) scales_ = hwy::AllocateAligned<float>(static_cast<std::size_t>(rows));
    if (format != Format::int4) return;
    groups_ = int4_groups(cols);
    sums_ = hwy::AllocateAligned<float>(static_cast<std::size_t>(rows * groups_));
}

Activations::Activations(Format format, const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride) : Activations(format, rows, cols) {
    for (std::int64_t i = 0; i < rows; ++i)
        if (pairs_)
            HWY_DYNAMIC_DISPATCH(prepare_pairs_f32)(x + i * stride, cols, padded_cols(cols), reinterpret_cast<std::uint16_t*>(values_.get() + i * stride_));
        else
            HWY_DYNAMIC_DISPATCH(prepare_f32)(format, x + i * stride, cols, padded_cols(cols), values_.get() + i * stride_, scales_.get() + i, sums_.get() + i * groups_);
}

Activations::Activations(Format format, const std::uint16_t* x, std::int64_t rows, std::int64_t cols, std::int64_t stride) : Activations(format, rows, cols) {
    for (std::int64_t i = 0; i < rows; ++i)
        if (pairs_) {
            auto* to = reinterpret_cast<std::uint16_t*>(values_.get() + i * stride_);
            std::fill(std::copy_n(x + i * stride, cols, to), to + padded_cols(cols), std::uint16_t{0});
        } else {
            HWY_DYNAMIC_DISPATCH(prepare_bf16)(format, x + i * stride, cols, padded_cols(cols), values_.get() + i * stride_, scales_.get() + i, sums_.get() + i * groups_);
        }
}

void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Activations& x, std::span<const std::int32_t> x_rows, float* out,
              std::int64_t out_stride) {
    if (!x.pairs()) return HWY_DYNAMIC_DISPATCH(multiply)(weights, begin, end, x, x_rows, out, out_stride);
    std::array<const std::uint16_t*, 64> rows;
    for (std::size_t first = 0; first < x_rows.size(); first += rows.size()) {
        const auto some = x_rows.subspan(first, std::min(rows.size(), x_rows.size() - first));
        std::ranges::transform(some, rows.begin(), [&](std::int32_t row) { return reinterpret_cast<const std::uint16_t*>(x.row(row)); });
        dot_pairs(static_cast<const std::uint16_t*>(weights.values) + begin * weights.cols, end - begin, weights.cols, {rows.data(), some.size()},
                  out + begin + static_cast<std::int64_t>(first) * out_stride, out_stride);
    }
}

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
