#include "kernels/matvec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/every_target.h"
#include "kernels/sample_weights.h"

namespace mixwright::kernels {
namespace {

// Largest difference from a sum in double, as a share of what a sum of that many terms typically is.
double worst_error(const Sample& sample, std::int64_t num_rows, bool from_bits) {
    const std::int64_t cols = sample.weights.cols, rows = sample.weights.rows;
    const std::vector<float> x = normal_rows(num_rows, cols);
    std::vector<std::uint16_t> bits(x.size());
    std::transform(x.begin(), x.end(), bits.begin(), to_bf16);
    const Activations activations = from_bits ? Activations(sample.weights.format, bits.data(), num_rows, cols, cols)
                                              : Activations(sample.weights.format, x.data(), num_rows, cols, cols);
    // In reverse, so that the choice of rows is seen to be followed.
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_rows));
    std::iota(order.rbegin(), order.rend(), 0);
    std::vector<float> out(static_cast<std::size_t>(num_rows * rows), std::nanf(""));
    const std::int64_t half = rows / 2;
    multiply(sample.weights, 0, half, activations, order, out.data(), rows);
    multiply(sample.weights, half, rows, activations, order, out.data(), rows);

    double worst = 0;
    for (std::int64_t i = 0; i < num_rows; ++i)
        for (std::int64_t o = 0; o < rows; ++o) {
            double expected = 0;
            for (std::int64_t c = 0; c < cols; ++c)
                expected += static_cast<double>(sample.truth[static_cast<std::size_t>(o * cols + c)]) *
                            x[static_cast<std::size_t>(order[static_cast<std::size_t>(i)] * cols + c)];
            const double difference = std::abs(out[static_cast<std::size_t>(i * rows + o)] - expected) / std::sqrt(cols);
            worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        }
    return worst;
}

// bf16 weights that were dequantised were rounded once more than those of the product.
double tolerance(Format format) { return format == Format::int8 || format == Format::int4 ? 0.02 : 1e-5; }

class Matvec : public testing::TestWithParam<Format> {};

TEST_P(Matvec, EqualsTheSumInDoubleForEveryTail) {
    for (const std::int64_t cols : {1, 3, 15, 16, 31, 33, 63, 64, 65, 96, 127, 200, 577, 1024})
        EXPECT_LT(worst_error(Sample(GetParam(), 13, cols), 3, cols % 2 == 0), tolerance(GetParam())) << cols << " columns";
}

TEST_P(Matvec, TakesAnyNumberOfRows) {
    for (std::int64_t rows = 1; rows <= 9; ++rows) EXPECT_LT(worst_error(Sample(GetParam(), 9, 130), rows, true), tolerance(GetParam())) << rows << " rows";
    EXPECT_LT(worst_error(Sample(GetParam(), 1, 130), 1, false), tolerance(GetParam()));
}

TEST_P(Matvec, IsTheSameOnEveryTargetOfThisCpu) {
    const Sample sample(GetParam(), 6, 333);
    for_every_target([&] { EXPECT_LT(worst_error(sample, 5, true), tolerance(GetParam())); });
}

TEST_P(Matvec, LongRowsDoNotOverflow) {
    const std::int64_t cols = 20000;
    const Sample sample(GetParam(), 4, cols);
    const std::vector<float> x(static_cast<std::size_t>(cols), 1.0f);
    const Activations activations(GetParam(), x.data(), 1, cols, cols);
    const std::int32_t row = 0;
    float out[4];
    multiply(sample.weights, 0, 4, activations, {&row, 1}, out, 4);
    for (std::int64_t o = 0; o < 4; ++o)
        EXPECT_NEAR(out[o], std::accumulate(sample.truth.begin() + o * cols, sample.truth.begin() + (o + 1) * cols, 0.0), 1.5);
}

TEST_P(Matvec, NotANumberComesOutAsOne) {
    const Sample sample(GetParam(), 4, 70);
    std::vector<float> x = normal_rows(1, 70);
    x[66] = std::numeric_limits<float>::infinity();
    x[2] = -x[66];
    const Activations activations(GetParam(), x.data(), 1, 70, 70);
    const std::int32_t row = 0;
    float out[4];
    multiply(sample.weights, 0, 4, activations, {&row, 1}, out, 4);
    EXPECT_FALSE(std::isfinite(out[0]));
}

std::string format_name(const testing::TestParamInfo<Format>& info) {
    constexpr const char* names[] = {"f32", "bf16", "int8", "int4"};
    return names[static_cast<std::size_t>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(, Matvec, testing::Values(Format::f32, Format::bf16, Format::int8, Format::int4), format_name);

TEST(Quantize, ErrorsAreThoseOfTheBits) {
    // A step of s gives a mean square of s^2 / 12; the range of a normal row or group sets s.
    EXPECT_LT(Sample(Format::int8, 16, 512).error, std::pow(3.5 / 127, 2) / 12);
    // Fitted groups do better than steps of their range, 4.2 in the mean.
    EXPECT_LT(Sample(Format::int4, 16, 512).error, std::pow(3.85 / 15, 2) / 12);
}

TEST(Quantize, ConstantsAndZerosAreExact) {
    std::vector<float> weights(128, 0.0f);
    std::fill(weights.begin() + 64, weights.end(), 0.5f);
    for (const Format format : {Format::int8, Format::int4}) {
        std::vector<std::byte> values(static_cast<std::size_t>(2 * row_bytes(format, 64))), scales(static_cast<std::size_t>(scale_bytes(format, 2, 64)));
        quantize({Format::f32, 2, 64, weights.data()}, 0, 2, format, values.data(), scales.data());
        std::vector<std::uint16_t> back(128);
        dequantize({format, 2, 64, values.data(), scales.data()}, 0, 2, back.data());
        for (std::size_t i = 0; i < 128; ++i) EXPECT_FLOAT_EQ(from_bf16(back[i]), weights[i]);
    }
}

}  // namespace
}  // namespace mixwright::kernels
