// Elementwise arithmetic that the compiler can vectorise: call it in plain loops inside functions marked
// MIXWRIGHT_VECTORISED, which are compiled for several instruction sets and chosen from when the program starts.
#pragma once

#include <bit>
#include <cstdint>

#define MIXWRIGHT_VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define MIXWRIGHT_INLINE [[gnu::always_inline]] inline

namespace mixwright::ops {

/// bf16 bits -> f32.
MIXWRIGHT_INLINE float widen(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
MIXWRIGHT_INLINE float widen(float value) { return value; }

/// f32 -> T, to nearest even. NaN stays NaN for every NaN that arithmetic makes.
template <class T>
MIXWRIGHT_INLINE T narrow(float value);
template <>
MIXWRIGHT_INLINE float narrow<float>(float value) {
    return value;
}
template <>
MIXWRIGHT_INLINE std::uint16_t narrow<std::uint16_t>(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/// e^x to about 1e-7 relative; 0 far below, large but finite far above; NaN stays NaN.
MIXWRIGHT_INLINE float fast_exp(float x) {
    // x = n ln 2 + r with |r| <= ln 2 / 2; n is added to the exponent of a polynomial in r.
    constexpr float log2e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, shift = 12582912.0f;
    const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float shifted = clamped * log2e + shift;
    const float n = shifted - shift;
    const float r = (clamped - n * ln2_high) - n * ln2_low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(shift)) << 23;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
}

/// 1 / sqrt(x) to a rounding or two, large but finite at 0. The library's root may set errno, which keeps a loop from being vectorised.
MIXWRIGHT_INLINE float fast_rsqrt(float x) {
    // Newton's iteration from a first guess by halving the exponent: errors of 3e-2, 2e-3, 5e-6, 3e-11.
    float y = std::bit_cast<float>(0x5f3759dfu - (std::bit_cast<std::uint32_t>(x) >> 1));
    for (int i = 0; i < 3; ++i) y *= 1.5f - (0.5f * x * y) * y;
    return y;
}

/// The root of x >= 0 to a rounding or two.
MIXWRIGHT_INLINE float fast_sqrt(float x) { return x * fast_rsqrt(x); }

}  // namespace mixwright::ops
