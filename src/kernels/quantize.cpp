#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantize.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/bf16-inl.h"

#include <hwy/highway.h>

#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;


struct Range {
    float lowest = std::numeric_limits<float>::infinity(), highest = -std::numeric_limits<float>::infinity();
    bool finite = true;
};

Range range_of(const float* x, std::int64_t count) {
    const hn::ScalableTag<float> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    Range range;
    auto lowest = hn::Set(d, range.lowest), highest = hn::Set(d, range.highest), probe = hn::Zero(d);
    std::int64_t c = 0;
    for (; c + lanes <= count; c += lanes) {
        const auto v = hn::LoadU(d, x + c);
        lowest = hn::Min(lowest, v);
        highest = hn::Max(highest, v);
        probe = hn::MulAdd(v, hn::Zero(d), probe);  // NaN as soon as a value is not finite
    }
    range.lowest = hn::GetLane(hn::MinOfLanes(d, lowest));
    range.highest = hn::GetLane(hn::MaxOfLanes(d, highest));
    float rest = hn::GetLane(hn::SumOfLanes(d, probe));
    for (; c < count; ++c) {
        range.lowest = std::min(range.lowest, x[c]);
        range.highest = std::max(range.highest, x[c]);
        rest += x[c] * 0.0f;
    }
    range.finite = !std::isnan(rest);
    return range;
}

void to_int8(const float* x, std::int64_t cols, std::int8_t* out, float* scale) {
    const Range range = range_of(x, cols);
    const float highest = std::max(-range.lowest, range.highest);
    *scale = !range.finite ? std::nanf("") : highest > 0 ? highest / 127.0f : 1.0f;
    const float inverse = range.finite ? 1.0f / *scale : 0.0f;
    if (!std::isfinite(inverse) || !range.finite) {  // nothing but denormals: as good as zero
        std::fill(out, out + cols, std::int8_t{0});
        return;
    }
    for (std::int64_t c = 0; c < cols; ++c) {
        const float value = x[c] * inverse;
        out[c] = static_cast<std::int8_t>(value + std::copysign(0.5f, value));
    }
}

// Steps tried for a group: its range in so many levels.
constexpr std::int64_t candidates = 8;
HWY_ALIGN constexpr float levels[candidates] = {13.5f, 14.0f, 14.5f, 15.0f, 15.5f, 16.0f, 16.5f, 17.0f};

// A group as it is stored: bf16 scale and least value, and 4-bit codes.
struct GroupCode {
    std::uint16_t scale = 0, least = 0;
    std::uint8_t codes[int4_group] = {};
};

// A group of weights and how much each counts: large ones more, because they carry more of a product; absent ones not at all.
struct Group {
    HWY_ALIGN float x[int4_group] = {};
    HWY_ALIGN float w[int4_group] = {};
    float lowest = 0, range = 0, sum_w = 0, sum_wy = 0;  // y = x - lowest

    Group(const float* values, std::int64_t present, const Range& bounds) : lowest(bounds.lowest), range(bounds.highest - bounds.lowest) {
        const hn::CappedTag<float, int4_group> d;
        const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
        std::copy_n(values, present, x);
        auto squares = hn::Zero(d);
        for (std::int64_t j = 0; j < int4_group; j += lanes) squares = hn::MulAdd(hn::Load(d, x + j), hn::Load(d, x + j), squares);
        const float root = std::sqrt(hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(present));
        for (std::int64_t j = 0; j < present; ++j) {
            w[j] = root + std::abs(x[j]);
            sum_w += w[j];
            sum_wy += w[j] * (x[j] - lowest);
        }
    }
};

// For each candidate the codes of its step, and for these codes the scale and the least value with the smallest squared
// error, in closed form. The one whose error is smallest as it is stored wins. A lane is a candidate.
GroupCode best_code(const Group& group) {
    const hn::CappedTag<float, candidates> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto half = hn::Set(d, 0.5f), highest_code = hn::Set(d, 15.0f), zero = hn::Zero(d);
    HWY_ALIGN float scale[candidates], least[candidates], inverse[candidates], codes_sum[candidates], error[candidates];
    const auto to_step = hn::Set(d, 1.0f / group.range);
    for (std::int64_t c = 0; c < candidates; c += lanes) {
        const auto inverse_step = hn::Mul(hn::Load(d, levels + c), to_step);
        auto q = zero, qq = zero, qy = zero;
        for (std::int64_t j = 0; j < int4_group; ++j) {
            const auto y = hn::Set(d, group.x[j] - group.lowest), code = hn::Floor(hn::Min(hn::MulAdd(y, inverse_step, half), highest_code));
            const auto weighted = hn::Mul(hn::Set(d, group.w[j]), code);
            q = hn::Add(q, weighted);
            qq = hn::MulAdd(weighted, code, qq);
            qy = hn::MulAdd(weighted, y, qy);
        }
        const auto sum_w = hn::Set(d, group.sum_w);
        const auto determinant = hn::Sub(hn::Mul(sum_w, qq), hn::Mul(q, q));
        hn::Store(hn::Div(hn::Sub(hn::Mul(sum_w, qy), hn::Mul(q, hn::Set(d, group.sum_wy))), determinant), d, scale + c);
        hn::Store(q, d, codes_sum + c);
    }
    for (std::int64_t c = 0; c < candidates; ++c) {
        const bool fitted = scale[c] > 0 && scale[c] < group.range;  // not where all codes are one
        scale[c] = widen(narrow(fitted ? scale[c] : group.range / 15.0f));
        // The least value is fitted to the scale as it is stored.
        least[c] = widen(narrow(fitted ? group.lowest + (group.sum_wy - scale[c] * codes_sum[c]) / group.sum_w : group.lowest));
        inverse[c] = scale[c] > 1e-30f ? 1.0f / scale[c] : 0.0f;
    }
    for (std::int64_t c = 0; c < candidates; c += lanes) {
        const auto step = hn::Load(d, scale + c), from = hn::Load(d, least + c), inverse_step = hn::Load(d, inverse + c);
        auto sum = zero;
        for (std::int64_t j = 0; j < int4_group; ++j) {
            const auto x = hn::Set(d, group.x[j]);
            const auto code = hn::Floor(hn::Clamp(hn::MulAdd(hn::Sub(x, from), inverse_step, half), zero, highest_code));
            const auto off = hn::Sub(hn::MulAdd(step, code, from), x);
            sum = hn::MulAdd(hn::Mul(off, off), hn::Set(d, group.w[j]), sum);
        }
        hn::Store(sum, d, error + c);
    }
    const std::int64_t best = std::min_element(error, error + candidates) - error;
    GroupCode result{.scale = narrow(scale[best]), .least = narrow(least[best])};
    for (std::int64_t j = 0; j < int4_group; ++j)
        result.codes[j] = static_cast<std::uint8_t>(std::clamp((group.x[j] - least[best]) * inverse[best] + 0.5f, 0.0f, 15.0f));
    return result;
}

// Two groups (64 columns) of a row, `count` of them there, into 32 bytes; `scales` and `least` of both.
void to_int4(const float* x, std::int64_t count, std::uint8_t* out, std::uint16_t* scales, std::uint16_t* least) {
    GroupCode groups[2];
    for (std::int64_t g = 0; g < 2; ++g) {
        const std::int64_t present = std::clamp<std::int64_t>(count - g * int4_group, 0, int4_group);
        if (present == 0) continue;
        const float* values = x + g * int4_group;
        const Range range = range_of(values, present);
        if (!range.finite)
            groups[g].scale = groups[g].least = narrow(std::nanf(""));
        else if (range.highest - range.lowest > 1e-30f)
            groups[g] = best_code(Group(values, present, range));
        else
            groups[g].least = narrow(range.lowest);
    }
    for (std::int64_t g = 0; g < 2; ++g) scales[g] = groups[g].scale, least[g] = groups[g].least;
    for (std::int64_t j = 0; j < int4_group; ++j) out[j] = static_cast<std::uint8_t>(groups[0].codes[j] | groups[1].codes[j] << 4);
}

void quantize(const Weights& from, std::int64_t begin, std::int64_t end, Format to, void* values, void* scales) {
    const std::int64_t cols = from.cols, groups = int4_groups(cols);
    std::vector<float> widened(static_cast<std::size_t>(cols));
    for (std::int64_t row = begin; row < end; ++row) {
        const float* x = widened.data();
        if (from.format == Format::f32) {
            x = static_cast<const float*>(from.values) + row * cols;
        } else {
            const auto* bits = static_cast<const std::uint16_t*>(from.values) + row * cols;
            for (std::int64_t c = 0; c < cols; ++c) widened[static_cast<std::size_t>(c)] = widen(bits[c]);
        }
        if (to == Format::int8) {
            to_int8(x, cols, static_cast<std::int8_t*>(values) + row * cols, static_cast<float*>(scales) + row);
            continue;
        }
        auto* out = static_cast<std::uint8_t*>(values) + row * row_bytes(Format::int4, cols);
        auto* scale = static_cast<std::uint16_t*>(scales) + row * 2 * groups;
        for (std::int64_t group = 0; group < groups; group += 2)
            to_int4(x + group * int4_group, cols - group * int4_group, out + group * int4_group / 2, scale + group, scale + groups + group);
    }
}

void dequantize(const Weights& from, std::int64_t begin, std::int64_t end, std::uint16_t* out) {
    const std::int64_t cols = from.cols, groups = int4_groups(cols);
    for (std::int64_t row = begin; row < end; ++row, out += cols) {
        if (from.format == Format::int8) {
            const auto* values = static_cast<const std::int8_t*>(from.values) + row * cols;
            const float scale = static_cast<const float*>(from.scales)[row];
            for (std::int64_t c = 0; c < cols; ++c) out[c] = narrow(static_cast<float>(values[c]) * scale);
            continue;
        }
        const auto* values = static_cast<const std::uint8_t*>(from.values) + row * row_bytes(Format::int4, cols);
        const auto* scales = static_cast<const std::uint16_t*>(from.scales) + row * 2 * groups;
        for (std::int64_t group = 0; group * int4_group < cols; ++group) {
            const float scale = widen(scales[group]), least = widen(scales[groups + group]);
            const std::uint8_t* bytes = values + group / 2 * int4_group;
            const int shift = group % 2 == 0 ? 0 : 4;
            const std::int64_t first = group * int4_group, count = std::min(int4_group, cols - first);
            for (std::int64_t j = 0; j < count; ++j) out[first + j] = narrow(least + scale * static_cast<float>(bytes[j] >> shift & 15));
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(quantize);
HWY_EXPORT(dequantize);

void quantize(const Weights& from, std::int64_t begin, std::int64_t end, Format to, void* values, void* scales) {
    HWY_DYNAMIC_DISPATCH(quantize)(from, begin, end, to, values, scales);
}

void dequantize(const Weights& from, std::int64_t begin, std::int64_t end, std::uint16_t* out) {
    HWY_DYNAMIC_DISPATCH(dequantize)(from, begin, end, out);
}

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
