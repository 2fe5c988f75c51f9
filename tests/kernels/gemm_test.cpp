#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "kernels/every_target.h"
#include "kernels/sample_weights.h"

namespace mixwright::kernels {
namespace {

// A factor [rows, cols] with what it means, in one of the ways it may lie in memory.
struct StoredFactor {
    StoredFactor(std::int64_t rows, std::int64_t cols, bool transposed, bool gathered, Format format, unsigned seed) {
        const std::int64_t stored_rows = transposed ? cols : rows, stored_cols = transposed ? rows : cols, stride = stored_cols + 3, spread = gathered ? 2 : 1;
        std::mt19937 random(seed);
        std::normal_distribution<float> distribution;
        std::vector<float> normal(static_cast<std::size_t>(std::max<std::int64_t>(1, spread * stored_rows) * stride));
        for (float& value : normal) value = distribution(random);
        if (format == Format::bf16) {
            bits.resize(normal.size());
            std::transform(normal.begin(), normal.end(), bits.begin(), to_bf16);
        } else {
            floats = normal;
        }
        order.resize(static_cast<std::size_t>(stored_rows));
        for (std::int64_t i = 0; i < stored_rows; ++i) order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(gathered ? spread * stored_rows - 1 - 2 * i : i);
        factor = {format == Format::bf16 ? static_cast<const void*>(bits.data()) : floats.data(), format, stride, transposed, gathered ? order.data() : nullptr};
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < cols; ++j) {
                const auto at = static_cast<std::size_t>(order[static_cast<std::size_t>(transposed ? j : i)] * stride + (transposed ? i : j));
                truth.push_back(format == Format::bf16 ? from_bf16(bits[at]) : floats[at]);
            }
    }
    StoredFactor(const StoredFactor&) = delete;
    StoredFactor& operator=(const StoredFactor&) = delete;

    std::vector<float> floats;
    std::vector<std::uint16_t> bits;
    std::vector<std::int32_t> order;
    std::vector<double> truth;  // [rows, cols]
    Factor factor;
};

void expect_product(std::int64_t m, std::int64_t k, std::int64_t n, bool a_transposed, bool b_transposed, bool gathered, Format format) {
    SCOPED_TRACE(testing::Message() << m << " x " << k << " x " << n << (a_transposed ? ", a on its side" : "") << (b_transposed ? ", b on its side" : "")
                                    << (gathered ? ", gathered" : "") << (format == Format::bf16 ? ", bf16" : ""));
    const StoredFactor a(m, k, a_transposed, gathered, format, 1), b(k, n, b_transposed, gathered, format, 2);
    const std::int64_t stride = n + 1;
    std::vector<float> c(static_cast<std::size_t>(m * stride), 7.0f);
    std::vector<std::uint16_t> c_bits(c.size(), to_bf16(7.0f));
    gemm(a.factor, b.factor, m, k, n, {format == Format::bf16 ? static_cast<void*>(c_bits.data()) : c.data(), format, stride});
    for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (std::int64_t l = 0; l < k; ++l) sum += a.truth[static_cast<std::size_t>(i * k + l)] * b.truth[static_cast<std::size_t>(l * n + j)];
            const auto at = static_cast<std::size_t>(i * stride + j);
            const double found = format == Format::bf16 ? from_bf16(c_bits[at]) : c[at];
            ASSERT_NEAR(found, sum, format == Format::bf16 ? 0.005 * std::abs(sum) + 1e-3 : 1e-6 * std::abs(sum) + 1e-5 * std::sqrt(1.0 + static_cast<double>(k))) << i << ", " << j;
        }
        // What lies between the rows of the result is not ours.
        const auto beside = static_cast<std::size_t>(i * stride + n);
        ASSERT_EQ(format == Format::bf16 ? from_bf16(c_bits[beside]) : c[beside], 7.0f);
    }
}

TEST(Gemm, EqualsTheDefinitionHoweverTheFactorsLie) {
    for_every_target([] {
        for (const Format format : {Format::f32, Format::bf16})
            for (const bool a_transposed : {false, true})
                for (const bool b_transposed : {false, true})
                    for (const bool gathered : {false, true})
                        for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{1, 1, 1}, {7, 0, 5}, {6, 33, 16}, {13, 300, 37}, {200, 40, 70}})
                            expect_product(m, k, n, a_transposed, b_transposed, gathered, format);
    });
}

}  // namespace
}  // namespace mixwright::kernels
