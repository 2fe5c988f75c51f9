// Products of a few rows of activations with a large matrix of weights: what decoding does, bound by how fast the weights
// come from memory. Written with Highway, chosen for the CPU at run time; knows no tensors and starts no threads: callers
// share the rows of the weights out among threads.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstdint>
#include <span>

namespace mixwright::kernels {

/// How weights lie in memory.
enum class Format : std::uint8_t {
    f32,
    bf16,
    int8,  // a row of int8 and one scale
    int4,  // groups of 32 with a scale and a least value each: w = least + scale * q, q in 0..15
};

constexpr std::int64_t int4_group = 32;

/// Weights [rows, cols], row after row. Owns nothing.
struct Weights {
    Format format = Format::f32;
    std::int64_t rows = 0, cols = 0;
    const void* values = nullptr;
    const void* scales = nullptr;  // int8: f32 [rows]; int4: bf16 [rows, 2, groups], scales and then least values
};

/// Groups of a row of int4 weights; even, because two groups share their bytes (low and high nibbles).
constexpr std::int64_t int4_groups(std::int64_t cols) { return (cols + 2 * int4_group - 1) / (2 * int4_group) * 2; }
/// Bytes of one row of values.
constexpr std::int64_t row_bytes(Format format, std::int64_t cols) {
    switch (format) {
        case Format::f32: return cols * 4;
        case Format::bf16: return cols * 2;
        case Format::int8: return cols;
        case Format::int4: return int4_groups(cols) * int4_group / 2;
    }
    return 0;
}

/// Rows of activations in the order and type in which products with one format read them. int8 and int4 take 16-bit
/// integers with a scale a row: far finer than the weights. Beside bf16 they are f32, or bf16 too where the CPU multiplies pairs of that.
class Activations {
public:
    /// x: rows of f32, or of bf16 bits, `stride` elements apart.
    Activations(Format format, const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride);
    Activations(Format format, const std::uint16_t* x, std::int64_t rows, std::int64_t cols, std::int64_t stride);

    bool pairs() const { return pairs_; }
    const std::byte* row(std::int64_t i) const { return values_.get() + i * stride_; }
    /// int8 and int4: the factor of row i.
    float scale(std::int64_t i) const { return scales_[static_cast<std::size_t>(i)]; }
    /// int4: the sums of the groups of row i, before the scale.
    const float* group_sums(std::int64_t i) const { return sums_.get() + i * groups_; }

private:
    Activations(Format format, std::int64_t rows, std::int64_t cols);

    bool pairs_ = false;  // bf16, for bf16_dots.h
    hwy::AlignedFreeUniquePtr<std::byte[]> values_;
    hwy::AlignedFreeUniquePtr<float[]> scales_, sums_;
    std::int64_t stride_ = 0, groups_ = 0;
};

/// out[i * out_stride + o] = weights[o] . x[x_rows[i]] for o in [begin, end), summed in f32.
void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Activations& x, std::span<const std::int32_t> x_rows, float* out,
              std::int64_t out_stride);

}  // namespace mixwright::kernels
