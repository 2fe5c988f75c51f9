#include "checkpoint/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "error.h"

// The loops below are written for the compiler's vectoriser; it makes a version for each instruction set, and the loader
// picks one. Not under sanitizers, which do not get on with such functions.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define MIXWRIGHT_VECTOR_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define MIXWRIGHT_VECTOR_CLONES
#endif

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t block_elements = 2048;  // of floats between two types: stays in the first-level cache

template <class T>
T load(const std::byte* at, std::size_t i) {
    T value;
    std::memcpy(&value, at + i * sizeof(T), sizeof(T));
    return value;
}

template <class T>
void store(std::byte* at, std::size_t i, T value) {
    std::memcpy(at + i * sizeof(T), &value, sizeof(T));
}

constexpr float f16_bits_to_float(std::uint32_t half) {
    const std::uint32_t magnitude = half & 0x7FFF;
    // The exponent moves from bias 15 to bias 127 by a multiplication, which subnormals take part in.
    const float finite = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const std::uint32_t special = (magnitude << 13) | 0x7F800000;  // infinity, NaN
    const std::uint32_t bits = magnitude >= 0x7C00 ? special : std::bit_cast<std::uint32_t>(finite);
    return std::bit_cast<float>(bits | (half & 0x8000) << 16);
}

inline std::uint16_t float_to_f16_bits(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    const std::uint32_t normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
    // Below 2^-14 the sum with 0.5 rounds at 2^-24, the step of f16 subnormals.
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
    const std::uint32_t nan = 0x7E00 | (magnitude >> 13 & 0x1FF);
    std::uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x477FF000 ? 0x7C00u : half;
    half = magnitude > 0x7F800000 ? nan : half;
    return static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000));
}

inline std::uint16_t float_to_bf16_bits(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const std::uint32_t nan = bits >> 16 | 0x40;
    return static_cast<std::uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
}

// 4 bits of exponent with bias 7, 3 of mantissa, no infinities, one NaN for each sign.
constexpr std::array<float, 256> make_f8_e4m3_table() {
    std::array<float, 256> table{};
    for (unsigned code = 0; code < 256; ++code) {
        const unsigned exponent = code >> 3 & 15, mantissa = code & 7;
        float value = exponent == 0 ? static_cast<float>(mantissa) : static_cast<float>(8 + mantissa);
        for (unsigned e = exponent == 0 ? 1 : exponent; e < 10; ++e) value /= 2;
        for (unsigned e = 10; e < exponent; ++e) value *= 2;
        if ((code & 0x7F) == 0x7F) value = std::numeric_limits<float>::quiet_NaN();
        table[code] = code & 0x80 ? -value : value;
    }
    return table;
}
constexpr auto f8_e4m3_table = make_f8_e4m3_table();

MIXWRIGHT_VECTOR_CLONES void bf16_to_float(const std::byte* in, float* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
        out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(in, i)) << 16);
}

MIXWRIGHT_VECTOR_CLONES void f16_to_float(const std::byte* in, float* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) out[i] = f16_bits_to_float(load<std::uint16_t>(in, i));
}

MIXWRIGHT_VECTOR_CLONES void f64_to_float(const std::byte* in, float* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(load<double>(in, i));
}

MIXWRIGHT_VECTOR_CLONES void float_to_bf16(const float* in, std::byte* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) store(out, i, float_to_bf16_bits(in[i]));
}

MIXWRIGHT_VECTOR_CLONES void float_to_f16(const float* in, std::byte* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) store(out, i, float_to_f16_bits(in[i]));
}

MIXWRIGHT_VECTOR_CLONES void float_to_f64(const float* in, std::byte* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) store(out, i, static_cast<double>(in[i]));
}

[[noreturn]] void refuse(Dtype from, Dtype to) {
    throw Error(ErrorCode::unsupported, fmt::format("cannot convert {} to {}", torch_name(from), torch_name(to)));
}

bool is_f8(Dtype dtype) { return dtype == Dtype::f8_e4m3 || dtype == Dtype::f8_e5m2; }

void check_count(std::size_t in_bytes, Dtype from, std::size_t out_bytes, Dtype to) {
    if (in_bytes % dtype_bytes(from) != 0 || in_bytes / dtype_bytes(from) != out_bytes / dtype_bytes(to) || out_bytes % dtype_bytes(to) != 0)
        throw Error(ErrorCode::internal, "conversion between arrays of different lengths");
}

}  // namespace

bool can_convert(Dtype from, Dtype to) noexcept { return from == to || (is_floating(from) && is_floating(to) && !is_f8(to)); }

void to_float(std::span<const std::byte> in, Dtype from, std::span<float> out) {
    check_count(in.size(), from, out.size_bytes(), Dtype::f32);
    switch (from) {
        case Dtype::f64: return f64_to_float(in.data(), out.data(), out.size());
        case Dtype::f32:
            if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
            return;
        case Dtype::f16: return f16_to_float(in.data(), out.data(), out.size());
        case Dtype::bf16: return bf16_to_float(in.data(), out.data(), out.size());
        case Dtype::f8_e4m3:
            for (std::size_t i = 0; i < out.size(); ++i) out[i] = f8_e4m3_table[std::to_integer<std::size_t>(in[i])];
            return;
        case Dtype::f8_e5m2:  // the upper byte of an f16
            for (std::size_t i = 0; i < out.size(); ++i) out[i] = f16_bits_to_float(std::to_integer<std::uint32_t>(in[i]) << 8);
            return;
        default: refuse(from, Dtype::f32);
    }
}

void from_float(std::span<const float> in, std::span<std::byte> out, Dtype to) {
    check_count(in.size_bytes(), Dtype::f32, out.size(), to);
    switch (to) {
        case Dtype::f64: return float_to_f64(in.data(), out.data(), in.size());
        case Dtype::f32:
            if (!in.empty()) std::memcpy(out.data(), in.data(), out.size());
            return;
        case Dtype::f16: return float_to_f16(in.data(), out.data(), in.size());
        case Dtype::bf16: return float_to_bf16(in.data(), out.data(), in.size());
        default: refuse(Dtype::f32, to);
    }
}

void convert(std::span<const std::byte> in, Dtype from, std::span<std::byte> out, Dtype to) {
    if (!can_convert(from, to)) refuse(from, to);
    check_count(in.size(), from, out.size(), to);
    if (from == to) {
        if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
        return;
    }
    std::array<float, block_elements> block;
    const std::size_t count = in.size() / dtype_bytes(from);
    for (std::size_t begin = 0; begin < count; begin += block_elements) {
        const std::size_t size = std::min(block_elements, count - begin);
        const std::span<float> floats(block.data(), size);
        to_float(in.subspan(begin * dtype_bytes(from), size * dtype_bytes(from)), from, floats);
        from_float(floats, out.subspan(begin * dtype_bytes(to), size * dtype_bytes(to)), to);
    }
}

}  // namespace mixwright::checkpoint
