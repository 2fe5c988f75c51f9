// Element types of tensors on disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mixwright {

enum class Dtype { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

/// Size of one element in bytes.
std::size_t dtype_bytes(Dtype dtype) noexcept;
/// Name in a safetensors header: "BF16", "F32", ...
std::string_view safetensors_name(Dtype dtype) noexcept;
std::optional<Dtype> dtype_from_safetensors(std::string_view name) noexcept;
/// Name in config.json and recipes: "bfloat16", "float32", ...
std::string_view torch_name(Dtype dtype) noexcept;
/// Accepts "bfloat16", "torch.bfloat16", "bf16", "BF16" and so on.
std::optional<Dtype> dtype_from_name(std::string_view name) noexcept;
/// Whether values are floating point (and may be converted between each other).
bool is_floating(Dtype dtype) noexcept;

}  // namespace mixwright
