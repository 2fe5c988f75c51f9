#include "checkpoint/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "error.h"

namespace mixwright::checkpoint {
namespace {

// Rounds by searching: the element of a 16-bit type that is nearest, the even one when two are equally near.
template <class ToFloat>
std::uint16_t nearest(float value, std::uint16_t infinity, ToFloat to_float) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::abs(static_cast<double>(value));
    std::uint32_t low = 0, high = infinity;  // to_float(low) <= magnitude < to_float(high), magnitudes ascend with their code
    while (high - low > 1) {
        const std::uint32_t middle = (low + high) / 2;
        (static_cast<double>(to_float(static_cast<std::uint16_t>(middle))) <= magnitude ? low : high) = middle;
    }
    const double below = to_float(static_cast<std::uint16_t>(low));
    // Past the largest number, infinity stands where the next number would.
    const double above = high == infinity ? 2 * below - to_float(static_cast<std::uint16_t>(low - 1)) : to_float(static_cast<std::uint16_t>(high));
    const double down = magnitude - below, up = above - magnitude;
    const std::uint32_t code = down < up || (down == up && low % 2 == 0) ? low : high;
    return static_cast<std::uint16_t>(sign | code);
}

float f16_value(std::uint16_t code) {
    const int exponent = code >> 10 & 31, mantissa = code & 1023;
    return std::ldexp(static_cast<float>(exponent == 0 ? mantissa : mantissa + 1024), (exponent == 0 ? 1 : exponent) - 25);
}

float bf16_value(std::uint16_t code) { return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16); }

std::vector<float> sample_values() {
    std::vector<float> values{0.0f, -0.0f, 1.0f, 65504.0f, 65519.9f, 65520.0f, 65536.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1p-14f, 0x1.ffcp-15f, 0x1.ffep-15f,
                              std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
    std::mt19937 random(1);
    for (int i = 0; i < 200'000; ++i) {
        const float any = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
        if (std::isfinite(any)) values.push_back(any);
        values.push_back(std::ldexp(static_cast<float>(static_cast<std::int32_t>(random())), static_cast<int>(random() % 50) - 70));
    }
    for (std::uint32_t code = 0; code < 0x7C00; ++code)  // halfway between neighbours: ties
        values.push_back(static_cast<float>((static_cast<double>(f16_value(static_cast<std::uint16_t>(code))) + f16_value(static_cast<std::uint16_t>(code + 1))) / 2));
    return values;
}

template <class T>
std::vector<T> converted(const std::vector<float>& values, Dtype to) {
    std::vector<T> out(values.size());
    from_float(values, std::as_writable_bytes(std::span(out)), to);
    return out;
}

TEST(Convert, f16_is_rounded_to_nearest_even) {
    const auto values = sample_values();
    const auto out = converted<std::uint16_t>(values, Dtype::f16);
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], nearest(values[i], 0x7C00, f16_value)) << std::hexfloat << values[i];
}

TEST(Convert, bf16_is_rounded_to_nearest_even) {
    const auto values = sample_values();
    const auto out = converted<std::uint16_t>(values, Dtype::bf16);
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], nearest(values[i], 0x7F80, bf16_value)) << std::hexfloat << values[i];
}

TEST(Convert, every_16_bit_value_survives_the_way_through_f32) {
    std::vector<std::uint16_t> codes(65536);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
        std::vector<float> floats(codes.size());
        to_float(std::as_bytes(std::span(codes)), dtype, floats);
        const auto back = converted<std::uint16_t>(floats, dtype);
        for (std::size_t i = 0; i < codes.size(); ++i) {
            if (std::isnan(floats[i])) {
                float again;
                to_float(std::as_bytes(std::span(&back[i], 1)), dtype, {&again, 1});
                ASSERT_TRUE(std::isnan(again)) << i;
            } else {
                ASSERT_EQ(back[i], codes[i]);
            }
            if (dtype == Dtype::f16 && (i & 0x7C00) != 0x7C00) {
                ASSERT_EQ(std::abs(floats[i]), f16_value(static_cast<std::uint16_t>(i & 0x7FFF)));
            }
        }
    }
}

TEST(Convert, nan_and_infinity_are_kept) {
    const std::vector<float> values{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(),
                                    std::bit_cast<float>(0x7F800001u), std::bit_cast<float>(0xFFFFFFFFu)};
    for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
        const auto out = converted<std::uint16_t>(values, dtype);
        std::vector<float> back(values.size());
        to_float(std::as_bytes(std::span(out)), dtype, back);
        EXPECT_EQ(back[0], values[0]);
        EXPECT_EQ(back[1], values[1]);
        for (int i = 2; i < 5; ++i) EXPECT_TRUE(std::isnan(back[i])) << i;
    }
}

TEST(Convert, f8_holds_the_values_of_its_definition) {
    const std::vector<std::uint8_t> codes{0x00, 0x01, 0x08, 0x38, 0x7E, 0x7F, 0xB8, 0x80};
    std::vector<float> values(codes.size());
    to_float(std::as_bytes(std::span(codes)), Dtype::f8_e4m3, values);
    EXPECT_EQ(values[1], 0x1p-9f);
    EXPECT_EQ(values[2], 0x1p-6f);
    EXPECT_EQ(values[3], 1.0f);
    EXPECT_EQ(values[4], 448.0f);
    EXPECT_TRUE(std::isnan(values[5]));
    EXPECT_EQ(values[6], -1.0f);
    EXPECT_TRUE(std::signbit(values[7]));
    const std::vector<std::uint8_t> e5m2{0x01, 0x3C, 0x7B, 0x7C, 0x7F};
    std::vector<float> wide(e5m2.size());
    to_float(std::as_bytes(std::span(e5m2)), Dtype::f8_e5m2, wide);
    EXPECT_EQ(wide[0], 0x1p-16f);
    EXPECT_EQ(wide[1], 1.0f);
    EXPECT_EQ(wide[2], 57344.0f);
    EXPECT_TRUE(std::isinf(wide[3]));
    EXPECT_TRUE(std::isnan(wide[4]));
}

TEST(Convert, arrays_need_no_alignment_and_any_length_is_right) {
    std::mt19937 random(2);
    for (std::size_t count = 0; count < 70; ++count) {
        std::vector<float> values(count);
        for (float& v : values) v = static_cast<float>(random()) / 1e6f;
        std::vector<std::byte> shifted(4 * count + 1), out(2 * count + 1);
        if (count > 0) std::memcpy(shifted.data() + 1, values.data(), 4 * count);
        convert(std::span(shifted).subspan(1), Dtype::f32, std::span(out).subspan(1), Dtype::bf16);
        const auto expected = converted<std::uint16_t>(values, Dtype::bf16);
        if (count > 0) {
            ASSERT_EQ(std::memcmp(out.data() + 1, expected.data(), 2 * count), 0) << count;
        }
    }
}

TEST(Convert, what_has_no_meaning_is_refused) {
    std::vector<std::byte> four(4), two(2);
    EXPECT_THROW(convert(four, Dtype::i32, two, Dtype::bf16), Error);
    EXPECT_THROW(convert(two, Dtype::bf16, four, Dtype::i32), Error);
    EXPECT_THROW(convert(four, Dtype::f32, four, Dtype::bf16), Error);
    EXPECT_FALSE(can_convert(Dtype::f32, Dtype::f8_e4m3));
    EXPECT_TRUE(can_convert(Dtype::i64, Dtype::i64));
}

}  // namespace
}  // namespace mixwright::checkpoint
