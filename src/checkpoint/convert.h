// Conversion of arrays between floating element types. Values are rounded once, to nearest, ties to even; NaN stays NaN
// and infinities stay infinite. f64 becomes a narrower type by way of f32, as in PyTorch.
#pragma once

#include <cstddef>
#include <span>

#include "dtype.h"

namespace mixwright::checkpoint {

/// Whether convert() knows the pair: equal types, or floating source and f64, f32, f16 or bf16 as target.
bool can_convert(Dtype from, Dtype to) noexcept;

/// Converts the elements of `in` into `out`; both hold the same number of them and need no alignment.
/// Error(unsupported) when can_convert() says no.
void convert(std::span<const std::byte> in, Dtype from, std::span<std::byte> out, Dtype to);

/// The elements of `in` as floats. Any floating type, f8 included.
void to_float(std::span<const std::byte> in, Dtype from, std::span<float> out);
/// `in` as elements of `to`: f64, f32, f16 or bf16.
void from_float(std::span<const float> in, std::span<std::byte> out, Dtype to);

}  // namespace mixwright::checkpoint
