// Products of many rows on a CPU as threads share them: a thread takes some rows ("a unit") and keeps their panels in the cache of
// its core, while the weights pass in the format they lie in.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kernels/matmul.h"

namespace mixwright::ops {

/// Panels for rows of the dtype of x (bf16 or f32), `cols` wide.
kernels::Panels panels_for(const at::Tensor& x, std::int64_t rows, std::int64_t cols);

/// The same, filled: token t of the panels is row row_of[t] of x [N, D], contiguous.
kernels::Panels filled_panels(const at::Tensor& x, std::span<const std::int32_t> row_of);

/// Of `count` rows, how many to a unit, whose panels are `cols` wide together: units of about one size that stay in a core's cache, at least
/// `least` panels each, and else enough of them that with `all` rows of work no thread waits long for the last.
std::int64_t unit_rows(const at::Tensor& x, std::int64_t cols, std::int64_t count, std::int64_t all, std::int64_t least);

/// Memory of this thread for `count` sums between two steps; what was there is lost with the next call.
float* panel_scratch(std::int64_t count);

/// Outputs [begin, end) of a product as rows of tokens: out[t * stride + o] = weights[o] . token t + bias[o], rounded once. T is float or
/// std::uint16_t (bf16 bits); bias may be null. `sums`: (panels + 1) * width * (end - begin) floats.
template <class T>
void multiply_rows(const kernels::Weights& weights, std::int64_t begin, std::int64_t end, const kernels::Panels& panels, const T* bias, float* sums, T* out, std::int64_t stride);

}  // namespace mixwright::ops
