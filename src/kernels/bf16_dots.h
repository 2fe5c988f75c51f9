// Sums of products of bf16 pairs, as CPUs with AVX512-BF16 make them: twice the arithmetic of f32 an instruction, exact products,
// f32 sums. Highway 1.0 does not know the instruction, hence this file beside its kernels.
#pragma once

#include <cstdint>
#include <span>

/// For functions with instructions that only those CPUs have.
#if defined(__x86_64__)
#define MIXWRIGHT_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#endif

namespace mixwright::kernels {

/// Tokens of a panel, and the rows of weights to hand over at a time for best use of the registers.
constexpr std::int64_t bf16_panel_width = 32, bf16_rows_at_once = 12;

/// Whether this CPU has the instruction. What follows runs only there.
bool has_bf16_dots();
/// For tests: whether it may be used where it is.
void allow_bf16_dots(bool allowed);

/// Rows of weights [rows, 2 * pairs] in bf16, `stride` (even) elements apart, times a panel [pairs, 32, 2] of activations: out[r * 32 + t] = the
/// dot product of row r and token t, added to what is there when `add`. The panel is aligned to 64 bytes. Of a panel with at most 16
/// `tokens`, out holds no others.
void multiply_pairs(const std::uint16_t* weights, std::int64_t stride, std::int64_t rows, std::int64_t pairs, const std::uint16_t* panel, std::int64_t tokens, bool add, float* out);

/// out[i * out_stride + o] = weights[o] . x[i] for o in [0, rows): few rows of activations with many of weights [rows, cols], which lie one behind
/// the other. Activations are padded with zeros to a multiple of 32 columns.
void dot_pairs(const std::uint16_t* weights, std::int64_t rows, std::int64_t cols, std::span<const std::uint16_t* const> x, float* out, std::int64_t out_stride);

}  // namespace mixwright::kernels
