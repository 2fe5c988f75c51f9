// Elementwise steps between the products of experts.
#pragma once

#include <cstdint>

namespace mixwright::ops {

/// out = silu(gate) * up; out may be gate or up.
void silu_mul(const float* gate, const float* up, std::int64_t count, float* out);
void silu_mul(const std::uint16_t* gate, const std::uint16_t* up, std::int64_t count, std::uint16_t* out);
/// sum += weight * x.
void add_weighted(const float* x, float weight, std::int64_t count, float* sum);
void add_weighted(const std::uint16_t* x, float weight, std::int64_t count, float* sum);
/// f32 -> bf16 bits.
void narrow_all(const float* from, std::int64_t count, std::uint16_t* to);

}  // namespace mixwright::ops
