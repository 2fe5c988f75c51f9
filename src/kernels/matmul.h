// Products of many rows of activations with weights of any format: what reading a prompt does, bound by arithmetic. Sums are
// f32 whatever the weights are, so a CPU without bf16 instructions loses nothing by them. Written with Highway, chosen for the
// CPU at run time; knows no tensors and starts no threads: callers share the rows of the weights out among threads.
//
// Shape legend: M rows of activations (tokens), K their length, W the width of a panel.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstdint>
#include <span>

#include "kernels/matvec.h"

namespace mixwright::kernels {

/// Activations turned on their side: panels of W tokens, each [K, W] f32, so that one weight meets a whole vector of tokens.
/// The last panel is filled up with zeros.
class Panels {
public:
    Panels(std::int64_t rows, std::int64_t cols);

    /// W on this CPU.
    static std::int64_t width();

    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    std::int64_t count() const { return count_; }
    float* panel(std::int64_t i) { return values_.get() + i * cols_ * width_; }
    const float* panel(std::int64_t i) const { return values_.get() + i * cols_ * width_; }

    /// Fills panel i with rows of `x`, `stride` elements apart: f32, or bf16 bits. Token t of all panels is row row_of[t].
    void fill(std::int64_t i, const float* x, std::int64_t stride, std::span<const std::int32_t> row_of);
    void fill(std::int64_t i, const std::uint16_t* x, std::int64_t stride, std::span<const std::int32_t> row_of);

private:
    std::int64_t rows_, cols_, width_, count_;
    hwy::AlignedFreeUniquePtr<float[]> values_;
};

/// Rows of weights [rows, cols] to hand to one multiply(): as many as stay in the second cache while the panels pass, and few
/// enough that several threads find work.
std::int64_t tile_rows(std::int64_t rows, std::int64_t cols);

/// out[p * panel_step + (o - begin) * W + t] = weights[o] . token t of panel p, for o in [begin, end) and every panel of x.
void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step);

}  // namespace mixwright::kernels
