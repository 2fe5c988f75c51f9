#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/every_target.h"

namespace mixwright::kernels {
namespace {

struct Case {
    std::int64_t batch = 2, heads = 6, kv_heads = 2, num_queries = 1, num_keys = 1, dim = 16, value_dim = 16, window = 0, chunk = 0;
    bool causal = true, sinks = false, padding = false;
    float softcap = 0;
};

std::uint16_t to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// Random values that bf16 can hold, as f32 and as bits.
struct Values {
    explicit Values(std::int64_t count, unsigned seed) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (std::int64_t i = 0; i < count; ++i) bits.push_back(to_bf16(normal(random)));
        for (const std::uint16_t b : bits) floats.push_back(from_bf16(b));
    }
    std::vector<float> floats;
    std::vector<std::uint16_t> bits;
};

// Largest difference from the definition in double.
double worst_error(const Case& c, Element element) {
    const Values q(c.batch * c.heads * c.num_queries * c.dim, 1), k(c.batch * c.kv_heads * c.num_keys * c.dim, 2),
        v(c.batch * c.kv_heads * c.num_keys * c.value_dim, 3), sinks(c.heads, 4);
    std::vector<char> mask(static_cast<std::size_t>(c.batch * c.num_keys), 1);
    if (c.padding)
        for (std::int64_t j = 0; j < std::min<std::int64_t>(5, c.num_keys - 1); ++j) mask[static_cast<std::size_t>(c.num_keys + j)] = 0;

    Attention a{element, c.batch, c.heads, c.kv_heads, c.num_queries, c.num_keys, c.dim, c.value_dim};
    const bool f32 = element == Element::f32;
    std::vector<float> out_floats(static_cast<std::size_t>(c.batch * c.num_queries * c.heads * c.value_dim), std::nanf(""));
    std::vector<std::uint16_t> out_bits(out_floats.size());
    const auto pick = [&](const Values& x) { return f32 ? static_cast<const void*>(x.floats.data()) : x.bits.data(); };
    a.q = pick(q), a.k = pick(k), a.v = pick(v);
    a.out = f32 ? static_cast<void*>(out_floats.data()) : out_bits.data();
    const std::int64_t strides[3][3] = {{c.heads * c.num_queries * c.dim, c.num_queries * c.dim, c.dim},
                                        {c.kv_heads * c.num_keys * c.dim, c.num_keys * c.dim, c.dim},
                                        {c.kv_heads * c.num_keys * c.value_dim, c.num_keys * c.value_dim, c.value_dim}};
    std::copy(strides[0], strides[0] + 3, a.q_strides);
    std::copy(strides[1], strides[1] + 3, a.k_strides);
    std::copy(strides[2], strides[2] + 3, a.v_strides);
    a.scale = 0.3f, a.softcap = c.softcap, a.causal = c.causal, a.window = c.window, a.chunk = c.chunk;
    a.sinks = c.sinks ? sinks.floats.data() : nullptr;
    a.key_mask = c.padding ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
    for (std::int64_t piece = a.num_pieces(); piece-- > 0;) a.run(piece);

    double worst = 0;
    for (std::int64_t b = 0; b < c.batch; ++b)
        for (std::int64_t h = 0; h < c.heads; ++h)
            for (std::int64_t i = 0; i < c.num_queries; ++i) {
                const std::int64_t kv = b * c.kv_heads + h / (c.heads / c.kv_heads), position = c.num_keys - c.num_queries + i;
                std::vector<double> scores(static_cast<std::size_t>(c.num_keys), -INFINITY);
                double highest = c.sinks ? sinks.floats[static_cast<std::size_t>(h)] : -INFINITY;
                for (std::int64_t j = 0; j < c.num_keys; ++j) {
                    const bool seen = (!c.causal || j <= position) && (c.window == 0 || j > position - c.window) &&
                                      (c.chunk == 0 || j / c.chunk == position / c.chunk) && mask[static_cast<std::size_t>(b * c.num_keys + j)];
                    if (!seen) continue;
                    double score = 0;
                    for (std::int64_t n = 0; n < c.dim; ++n)
                        score += static_cast<double>(q.floats[static_cast<std::size_t>(((b * c.heads + h) * c.num_queries + i) * c.dim + n)]) *
                                 k.floats[static_cast<std::size_t>((kv * c.num_keys + j) * c.dim + n)];
                    score *= 0.3f;
                    if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
                    scores[static_cast<std::size_t>(j)] = score;
                    highest = std::max(highest, score);
                }
                double sum = c.sinks ? std::exp(sinks.floats[static_cast<std::size_t>(h)] - highest) : 0;
                for (double& score : scores) sum += score = std::isinf(highest) ? 0 : std::exp(score - highest);
                for (std::int64_t n = 0; n < c.value_dim; ++n) {
                    double expected = 0;
                    for (std::int64_t j = 0; j < c.num_keys; ++j)
                        expected += scores[static_cast<std::size_t>(j)] * v.floats[static_cast<std::size_t>((kv * c.num_keys + j) * c.value_dim + n)];
                    expected = sum > 0 ? expected / sum : 0;
                    const auto at = static_cast<std::size_t>(((b * c.num_queries + i) * c.heads + h) * c.value_dim + n);
                    const double error = std::abs(expected - (f32 ? out_floats[at] : from_bf16(out_bits[at])));
                    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
                }
            }
    return worst;
}

void expect_exact(const Case& c) {
    EXPECT_LT(worst_error(c, Element::f32), 1e-5);
    EXPECT_LT(worst_error(c, Element::bf16), 0.02);
}

TEST(AttentionKernel, OneQueryAfterAnyNumberOfKeys) {
    for (const std::int64_t keys : {1, 2, 15, 16, 17, 63, 64, 65, 200}) expect_exact({.num_queries = 1, .num_keys = keys});
}

TEST(AttentionKernel, WholeSequencesOfAnyLength) {
    for (const std::int64_t length : {2, 7, 63, 64, 65, 130}) expect_exact({.num_queries = length, .num_keys = length});
}

TEST(AttentionKernel, LaterPartsOfASequence) { expect_exact({.num_queries = 70, .num_keys = 200}); }

TEST(AttentionKernel, EveryGroupingAndSizeOfHeads) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 4}, {9, 3}, {16, 1}})
        for (const auto& [dim, value_dim] : {std::pair{64, 64}, {24, 40}, {128, 65}, {5, 1}})
            for (const std::int64_t queries : {1, 33})
                expect_exact({.heads = heads, .kv_heads = kv_heads, .num_queries = queries, .num_keys = 70, .dim = dim, .value_dim = value_dim});
}

TEST(AttentionKernel, Windows) {
    for (const std::int64_t window : {1, 5, 64, 100}) {
        expect_exact({.num_queries = 150, .num_keys = 150, .window = window});
        expect_exact({.num_queries = 1, .num_keys = 150, .window = window});
    }
}

TEST(AttentionKernel, Chunks) {
    expect_exact({.num_queries = 150, .num_keys = 150, .chunk = 48});
    expect_exact({.num_queries = 1, .num_keys = 150, .chunk = 48});
}

TEST(AttentionKernel, PaddingSinksAndSoftCaps) {
    for (const std::int64_t queries : {1, 80}) {
        expect_exact({.num_queries = queries, .num_keys = 80, .padding = true});
        expect_exact({.num_queries = queries, .num_keys = 80, .sinks = true});
        expect_exact({.num_queries = queries, .num_keys = 80, .softcap = 2.0f});
        expect_exact({.num_queries = queries, .num_keys = 80, .window = 9, .sinks = true, .padding = true, .softcap = 3.0f});
        expect_exact({.num_queries = queries, .num_keys = 80, .causal = false});
    }
}

TEST(AttentionKernel, IsTheSameOnEveryTargetOfThisCpu) {
    for_every_target([] {
        for (const std::int64_t queries : {1, 40, 77}) {
            expect_exact({.num_queries = queries, .num_keys = 101, .dim = 24, .value_dim = 40});
            expect_exact({.num_queries = queries, .num_keys = 100, .dim = 64, .value_dim = 63, .window = 20, .sinks = true, .padding = true});
        }
    });
}

}  // namespace
}  // namespace mixwright::kernels
