// Into panels of bf16 pairs and out of them, on CPUs that multiply such pairs (bf16_dots.h). A panel is [pairs of columns, 32 tokens, 2].
#pragma once

#include <cstdint>
#include <span>

namespace mixwright::kernels {

/// Rows of weights to hand over at a time where results become rows of tokens: a multiple of bf16_rows_at_once, and outputs that fill
/// whole lines of the cache, so that none is fetched for two tiles. Linear maps, whose outputs threads may share, keep to tile_rows().
constexpr std::int64_t bf16_tile_rows = 96;

/// Puts bf16 rows x[row_of[t]], `stride` elements apart, into a panel of (cols + 1) / 2 pairs; zeros behind the last column and token.
void fill_pairs(const std::uint16_t* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> row_of, std::uint16_t* panel);

/// Puts `count` rows of f32 results [count, 32] into a panel, from its pair 0 on: what is the output of one product becomes the input of the next.
/// A zero beside the last one when count is odd.
void put_pairs(const float* results, std::int64_t count, std::uint16_t* panel);

/// The same for silu(gate) * up, each [count, 32].
void put_swiglu_pairs(const float* gate, const float* up, std::int64_t count, std::uint16_t* panel);

/// f32 results [rows, 32] as rows of tokens in bf16: to[t * stride + o] = results[o * 32 + t] + bias[o] for t < count. bias: bf16, or null.
void turn_to_bf16(const float* results, std::int64_t rows, std::int64_t count, const std::uint16_t* bias, std::uint16_t* to, std::int64_t stride);

}  // namespace mixwright::kernels
