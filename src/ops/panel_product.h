// Products of many rows on a CPU as threads share them: a thread takes some rows ("a unit") and keeps their panels in the cache of
// its core, while the weights pass in the format they lie in.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/matmul.h"

namespace mixwright::ops {

/// Panels for rows of the dtype of x (bf16 or f32), `cols` wide.
kernels::Panels panels_for(const at::Tensor& x, std::int64_t rows, std::int64_t cols);

/// The same, filled: token t of the panels is row row_of[t] of x [N, D], contiguous.
kernels::Panels filled_panels(const at::Tensor& x, std::span<const std::int32_t> row_of);

/// Rows in units of about one size: whole panels, but for what the last one lacks.
struct RowUnits {
    std::int64_t rows, width, count;  // width: of a panel

    /// Where unit i begins, and unit i - 1 ends.
    std::int64_t begin(std::int64_t i) const { return std::min(rows, i * ((rows + width - 1) / width) / count * width); }
    std::int64_t size(std::int64_t i) const { return begin(i + 1) - begin(i); }
};

/// `rows` rows in units whose panels, `cols` wide together, stay in a core's cache, of at least `least` panels each where there are so many,
/// and else enough of them that with `all` rows of work no thread waits long for the last.
RowUnits row_units(const at::Tensor& x, std::int64_t cols, std::int64_t rows, std::int64_t all, std::int64_t least);

/// Memory of this thread for `count` sums between two steps; what was there is lost with the next call.
float* panel_scratch(std::int64_t count);

/// Outputs [begin, end) of a product as rows of tokens: out[t * stride + o] = weights[o] . token t + bias[o], rounded once. T is float or
/// std::uint16_t (bf16 bits); bias may be null. `sums`: (panels + 1) * width * (end - begin) floats.
template <class T>
void multiply_rows(const kernels::Weights& weights, std::int64_t begin, std::int64_t end, const kernels::Panels& panels, const T* bias, float* sums, T* out, std::int64_t stride);

}  // namespace mixwright::ops
