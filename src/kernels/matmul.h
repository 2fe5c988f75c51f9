// Products of many rows of activations with weights of any format: what reading a prompt does, bound by arithmetic. Sums are
// f32 whatever the weights are, so a CPU without bf16 instructions loses nothing by them; bf16 activations on one that has them
// are multiplied in bf16 (bf16_dots.h). Written with Highway, chosen for the CPU at run time; knows no tensors and starts no
// threads: callers share the rows of the weights out among threads.
//
// Shape legend: M rows of activations (tokens), K their length, W the width of a panel.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/matvec.h"

namespace mixwright::kernels {

/// Activations turned on their side: panels of W tokens, each [K, W] f32 or [K / 2, W, 2] bf16, so that one weight (or a pair of
/// them) meets a whole vector of tokens. The last panel is filled up with zeros.
class Panels {
public:
    /// For activations in that format, f32 or bf16.
    Panels(std::int64_t rows, std::int64_t cols, Format format);

    /// How activations of that format are kept on this CPU: bf16 only where it multiplies pairs of them.
    static Format kept_as(Format format);

    Format format() const { return format_; }
    /// W.
    std::int64_t width() const { return width_; }
    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    std::int64_t count() const { return count_; }
    /// Where column `col` (even, for bf16) of panel i begins; T is float or, for bf16, std::uint16_t.
    template <class T>
    T* panel(std::int64_t i, std::int64_t col = 0) { return reinterpret_cast<T*>(values_.get() + i * panel_bytes_) + col * width_; }
    template <class T>
    const T* panel(std::int64_t i, std::int64_t col = 0) const { return const_cast<Panels*>(this)->panel<T>(i, col); }

    /// Fills panel i with rows of `x`, `stride` elements apart: f32, or bf16 bits. Token t of all panels is row row_of[t]. Panels kept as bf16 take bf16.
    void fill(std::int64_t i, const float* x, std::int64_t stride, std::span<const std::int32_t> row_of);
    void fill(std::int64_t i, const std::uint16_t* x, std::int64_t stride, std::span<const std::int32_t> row_of);
    /// Sets columns [begin, begin + count) of panel i, begin even, to results [count, W] of a product.
    void put(std::int64_t i, std::int64_t begin, std::int64_t count, const float* results);

private:
    Format format_;
    std::int64_t rows_, cols_, width_, count_, panel_bytes_;
    hwy::AlignedFreeUniquePtr<std::byte[]> values_;
};

/// Rows of weights [rows, cols] to hand to one multiply(): as many as stay in the second cache while the panels pass, and few
/// enough that several threads find work. An even number.
std::int64_t tile_rows(std::int64_t rows, std::int64_t cols);

/// out[p * panel_step + (o - begin) * W + t] = weights[o] . token t of panel p, for o in [begin, end) and every panel of x. What stands
/// there for tokens that the last panel lacks has no meaning.
/// Panels kept as bf16 meet weights rounded to bf16.
void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step);

/// Results of one panel as rows of tokens: to[t * stride + o] = from[o * width + t] for o < rows and t < count.
void turn(const float* from, std::int64_t width, std::int64_t rows, std::int64_t count, float* to, std::int64_t stride);

}  // namespace mixwright::kernels
