#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantize.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

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

HWY_INLINE float widen(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
HWY_INLINE std::uint16_t narrow(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

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

// Two groups (64 columns) of a row, `count` of them there, into 32 bytes; `scales` and `least` of both.
void to_int4(const float* x, std::int64_t count, std::uint8_t* out, std::uint16_t* scales, std::uint16_t* least) {
    std::uint8_t codes[2 * int4_group] = {};
    for (std::int64_t group = 0; group < 2; ++group) {
        const float* values = x + group * int4_group;
        const std::int64_t present = std::clamp<std::int64_t>(count - group * int4_group, 0, int4_group);
        const Range range = present > 0 ? range_of(values, present) : Range{0, 0, true};
        if (!range.finite) {
            scales[group] = least[group] = narrow(std::nanf(""));
            continue;
        }
        least[group] = narrow(range.lowest);
        const float from = widen(least[group]);
        scales[group] = narrow(std::max(0.0f, (range.highest - from) / 15.0f));
        const float scale = widen(scales[group]), inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
        for (std::int64_t j = 0; j < present; ++j)
            codes[group * int4_group + j] = static_cast<std::uint8_t>(std::clamp((values[j] - from) * inverse + 0.5f, 0.0f, 15.0f));
    }
    for (std::int64_t j = 0; j < int4_group; ++j) out[j] = static_cast<std::uint8_t>(codes[j] | codes[int4_group + j] << 4);
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
