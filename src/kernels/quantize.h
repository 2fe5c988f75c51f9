// Weights in fewer bits, and back.
#pragma once

#include <cstdint>

#include "kernels/matvec.h"

namespace mixwright::kernels {

/// Bytes of `rows` rows of scales.
constexpr std::int64_t scale_bytes(Format format, std::int64_t rows, std::int64_t cols) {
    return format == Format::int8 ? rows * 4 : format == Format::int4 ? rows * int4_groups(cols) * 4 : 0;
}

/// Quantises rows [begin, end) of `from` (f32 or bf16) into int8 or int4 `values` and `scales`, laid out as in Weights.
/// A row (int8) or group (int4) that holds anything but finite numbers comes out as NaN.
void quantize(const Weights& from, std::int64_t begin, std::int64_t end, Format to, void* values, void* scales);

/// Rows [begin, end) as bf16 bits, `out` [end - begin, cols].
void dequantize(const Weights& from, std::int64_t begin, std::int64_t end, std::uint16_t* out);

}  // namespace mixwright::kernels
