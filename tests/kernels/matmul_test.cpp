#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/bf16_dots.h"
#include "kernels/bf16_panels.h"
#include "kernels/every_target.h"
#include "kernels/sample_weights.h"

namespace mixwright::kernels {
namespace {

// Largest difference from a sum in double, as a share of what a sum of that many terms typically is.
double worst_error(const Sample& sample, std::int64_t num_rows, bool from_bits, Format kept = Format::f32) {
    const std::int64_t cols = sample.weights.cols, rows = sample.weights.rows;
    const std::vector<float> x = normal_rows(num_rows, cols);
    std::vector<std::uint16_t> bits(x.size());
    std::transform(x.begin(), x.end(), bits.begin(), to_bf16);
    // In reverse, so that the choice of rows is seen to be followed.
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_rows));
    std::iota(order.rbegin(), order.rend(), 0);
    Panels panels(num_rows, cols, kept);
    const std::int64_t width = panels.width();
    for (std::int64_t p = 0; p < panels.count(); ++p) from_bits ? panels.fill(p, bits.data(), cols, order) : panels.fill(p, x.data(), cols, order);

    std::vector<float> out(static_cast<std::size_t>(panels.count() * rows * width), 1e9f);  // what was there must not count
    const std::int64_t tile = tile_rows(rows, cols);
    for (std::int64_t begin = 0; begin < rows; begin += tile)
        multiply(sample.weights, begin, std::min(rows, begin + tile), panels, out.data() + begin * width, rows * width);

    double worst = 0;
    for (std::int64_t t = 0; t < num_rows; ++t)
        for (std::int64_t o = 0; o < rows; ++o) {
            double sum = 0;
            for (std::int64_t c = 0; c < cols; ++c)
                sum += static_cast<double>(x[static_cast<std::size_t>(order[static_cast<std::size_t>(t)] * cols + c)]) * sample.truth[static_cast<std::size_t>(o * cols + c)];
            const float found = out[static_cast<std::size_t>((t / width * rows + o) * width + t % width)];
            worst = std::max(worst, std::abs(found - sum) / std::sqrt(static_cast<double>(cols)));
        }
    return worst;
}

TEST(Matmul, EqualsTheDefinitionInEveryFormat) {
    for_every_target([] {
        for (const Format format : {Format::f32, Format::bf16, Format::int8, Format::int4})
            for (const std::int64_t cols : {5, 64, 200})
                for (const std::int64_t rows : {1, 6, 53})
                    for (const std::int64_t tokens : {1, 16, 41})
                        // int4 weights are rounded to bf16 only in what stands for the truth here.
                        EXPECT_LT(worst_error(Sample(format, rows, cols), tokens, tokens % 2 == 0), format == Format::int4 || format == Format::int8 ? 2e-2 : 1e-5)
                            << static_cast<int>(format) << ": " << tokens << " x " << cols << " -> " << rows;
    });
}

TEST(Matmul, AddsUpLongRowsBlockByBlock) {
    for_every_target([] {
        for (const Format format : {Format::f32, Format::bf16, Format::int4})
            EXPECT_LT(worst_error(Sample(format, 9, 2500), 20, true), format == Format::int4 ? 2e-2 : 1e-5) << static_cast<int>(format);
    });
}

TEST(Matmul, MultipliesActivationsInBf16) {
    for_every_target([] {
        for (const Format format : {Format::bf16, Format::int8, Format::int4})
            for (const std::int64_t cols : {5, 64, 200, 1025, 2500})
                for (const std::int64_t rows : {1, 6, 53})
                    for (const std::int64_t tokens : {1, 32, 41})
                        EXPECT_LT(worst_error(Sample(format, rows, cols), tokens, true, Format::bf16), format == Format::bf16 ? 1e-5 : 2e-2)
                            << static_cast<int>(format) << ": " << tokens << " x " << cols << " -> " << rows;
    });
}

TEST(Panels, TakeResultsAsActivations) {
    for (const Format format : {Format::f32, Format::bf16})
        for (const std::int64_t cols : {5, 48}) {
            Panels filled(3, cols, format), put(3, cols, format);
            const std::int64_t width = filled.width();
            std::vector<std::uint16_t> bits;
            std::ranges::transform(normal_rows(3, cols), std::back_inserter(bits), to_bf16);
            const std::vector<std::int32_t> order{0, 1, 2};
            filled.fill(0, bits.data(), cols, order);
            std::vector<float> results(static_cast<std::size_t>(cols * width));
            for (std::int64_t t = 0; t < 3; ++t)
                for (std::int64_t c = 0; c < cols; ++c)
                    results[static_cast<std::size_t>(c * width + t)] = std::bit_cast<float>(static_cast<std::uint32_t>(bits[static_cast<std::size_t>(t * cols + c)]) << 16);
            put.put(0, 0, 2, results.data());
            put.put(0, 2, cols - 2, results.data() + 2 * width);
            const Sample sample(Format::bf16, 7, cols);
            std::vector<float> of_filled(static_cast<std::size_t>(7 * width)), of_put(of_filled.size());
            multiply(sample.weights, 0, 7, filled, of_filled.data(), 0);
            multiply(sample.weights, 0, 7, put, of_put.data(), 0);
            EXPECT_EQ(of_filled, of_put);
        }
}

TEST(Panels, TakeSwigluOfResults) {
    if (!has_bf16_dots()) GTEST_SKIP() << "this CPU multiplies no pairs of bf16";
    constexpr std::int64_t width = bf16_panel_width;
    for (const std::int64_t count : {1, 2, 7, 36}) {
        std::vector<float> gate = normal_rows(count, width), up = normal_rows(count, width);
        for (float& g : gate) g *= 8;
        std::ranges::copy(std::array{0.0f, -100.0f, 100.0f, -1e30f, 1e30f, std::numeric_limits<float>::quiet_NaN()}, gate.begin());
        std::vector<std::uint16_t> panel(static_cast<std::size_t>((count + 1) / 2 * 2 * width), 0xffff);
        put_swiglu_pairs(gate.data(), up.data(), count, panel.data());
        for (std::int64_t o = 0; o < (count + 1) / 2 * 2; ++o)
            for (std::int64_t t = 0; t < width; ++t) {
                const float got = from_bf16(panel[static_cast<std::size_t>((o / 2 * width + t) * 2 + o % 2)]);
                if (o == count) {
                    EXPECT_EQ(got, 0.0f);
                    continue;
                }
                const auto at = static_cast<std::size_t>(o * width + t);
                const double g = gate[at], wanted = g / (1 + std::exp(-g)) * up[at];
                if (std::isnan(wanted)) {
                    EXPECT_TRUE(std::isnan(got));
                } else {
                    EXPECT_NEAR(got, wanted, std::abs(wanted) / 255 + 1e-6) << g;
                }
            }
    }
}

TEST(Panels, TurnIntoRowsOfTokensInBf16) {
    if (!has_bf16_dots()) GTEST_SKIP() << "this CPU multiplies no pairs of bf16";
    constexpr std::int64_t width = bf16_panel_width;
    for (const std::int64_t rows : {1, 31, 32, 60, 70})
        for (const std::int64_t count : {1, 15, 16, 17, 32})
            for (const bool biased : {false, true}) {
                const std::vector<float> results = normal_rows(rows, width), bias_values = normal_rows(1, rows);
                std::vector<std::uint16_t> bias;
                std::ranges::transform(bias_values, std::back_inserter(bias), to_bf16);
                constexpr std::uint16_t untouched = 0x1234;
                const std::int64_t stride = rows + 3;
                std::vector<std::uint16_t> to(static_cast<std::size_t>((count + 1) * stride), untouched);
                turn_to_bf16(results.data(), rows, count, biased ? bias.data() : nullptr, to.data(), stride);
                for (std::int64_t t = 0; t <= count; ++t)
                    for (std::int64_t o = 0; o < stride; ++o) {
                        const std::uint16_t got = to[static_cast<std::size_t>(t * stride + o)];
                        if (t == count || o >= rows)
                            EXPECT_EQ(got, untouched);
                        else
                            EXPECT_EQ(got, to_bf16(results[static_cast<std::size_t>(o * width + t)] + (biased ? from_bf16(bias[static_cast<std::size_t>(o)]) : 0.0f)));
                    }
            }
}

TEST(Matmul, TurnsResultsIntoRowsOfTokens) {
    for_every_target([] {
        for (const std::int64_t rows : {1, 4, 11})
            for (const std::int64_t count : {1, 4, 15}) {
                const std::vector<float> from = normal_rows(rows, 16);
                std::vector<float> to(static_cast<std::size_t>(count * rows), 1e9f);
                turn(from.data(), 16, rows, count, to.data(), rows);
                for (std::int64_t o = 0; o < rows; ++o)
                    for (std::int64_t t = 0; t < count; ++t) EXPECT_EQ(to[static_cast<std::size_t>(t * rows + o)], from[static_cast<std::size_t>(o * 16 + t)]);
            }
    });
}

}  // namespace
}  // namespace mixwright::kernels
