#include "dtype.h"

#include <array>

namespace mixwright {
namespace {

struct DtypeRow {
    Dtype dtype;
    std::size_t bytes;
    std::string_view safetensors, torch, shorthand;
    bool floating;
};

constexpr std::array rows{
    DtypeRow{Dtype::f64, 8, "F64", "float64", "f64", true},
    DtypeRow{Dtype::f32, 4, "F32", "float32", "f32", true},
    DtypeRow{Dtype::f16, 2, "F16", "float16", "f16", true},
    DtypeRow{Dtype::bf16, 2, "BF16", "bfloat16", "bf16", true},
    DtypeRow{Dtype::f8_e4m3, 1, "F8_E4M3", "float8_e4m3fn", "f8_e4m3", true},
    DtypeRow{Dtype::f8_e5m2, 1, "F8_E5M2", "float8_e5m2", "f8_e5m2", true},
    DtypeRow{Dtype::i64, 8, "I64", "int64", "i64", false},
    DtypeRow{Dtype::i32, 4, "I32", "int32", "i32", false},
    DtypeRow{Dtype::i16, 2, "I16", "int16", "i16", false},
    DtypeRow{Dtype::i8, 1, "I8", "int8", "i8", false},
    DtypeRow{Dtype::u64, 8, "U64", "uint64", "u64", false},
    DtypeRow{Dtype::u32, 4, "U32", "uint32", "u32", false},
    DtypeRow{Dtype::u16, 2, "U16", "uint16", "u16", false},
    DtypeRow{Dtype::u8, 1, "U8", "uint8", "u8", false},
    DtypeRow{Dtype::boolean, 1, "BOOL", "bool", "boolean", false},
};

const DtypeRow& row(Dtype dtype) noexcept { return rows[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t dtype_bytes(Dtype dtype) noexcept { return row(dtype).bytes; }
std::string_view safetensors_name(Dtype dtype) noexcept { return row(dtype).safetensors; }
std::string_view torch_name(Dtype dtype) noexcept { return row(dtype).torch; }
bool is_floating(Dtype dtype) noexcept { return row(dtype).floating; }

std::optional<Dtype> dtype_from_safetensors(std::string_view name) noexcept {
    for (const DtypeRow& r : rows)
        if (r.safetensors == name) return r.dtype;
    return std::nullopt;
}

std::optional<Dtype> dtype_from_name(std::string_view name) noexcept {
    if (name.starts_with("torch.")) name.remove_prefix(6);
    for (const DtypeRow& r : rows)
        if (r.torch == name || r.shorthand == name || r.safetensors == name) return r.dtype;
    return std::nullopt;
}

}  // namespace mixwright
