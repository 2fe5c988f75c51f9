#include "checkpoint/pickle_globals.h"

#include <array>

namespace mixwright::checkpoint {
namespace {

using enum GlobalKind;

constexpr std::array rows{
    PickleGlobal{"collections", "OrderedDict", ordered_dict},
    PickleGlobal{"torch", "Size", size},
    PickleGlobal{"torch._utils", "_rebuild_tensor", rebuild_tensor},
    PickleGlobal{"torch._utils", "_rebuild_tensor_v2", rebuild_tensor},
    PickleGlobal{"torch._utils", "_rebuild_tensor_v3", rebuild_tensor_v3},
    PickleGlobal{"torch._utils", "_rebuild_parameter", rebuild_parameter},
    PickleGlobal{"torch.storage", "UntypedStorage", untyped_storage},
    PickleGlobal{"torch", "UntypedStorage", untyped_storage},
    PickleGlobal{"torch", "DoubleStorage", storage, Dtype::f64},
    PickleGlobal{"torch", "FloatStorage", storage, Dtype::f32},
    PickleGlobal{"torch", "HalfStorage", storage, Dtype::f16},
    PickleGlobal{"torch", "BFloat16Storage", storage, Dtype::bf16},
    PickleGlobal{"torch", "LongStorage", storage, Dtype::i64},
    PickleGlobal{"torch", "IntStorage", storage, Dtype::i32},
    PickleGlobal{"torch", "ShortStorage", storage, Dtype::i16},
    PickleGlobal{"torch", "CharStorage", storage, Dtype::i8},
    PickleGlobal{"torch", "ByteStorage", storage, Dtype::u8},
    PickleGlobal{"torch", "BoolStorage", storage, Dtype::boolean},
    PickleGlobal{"torch", "float64", dtype, Dtype::f64},
    PickleGlobal{"torch", "float32", dtype, Dtype::f32},
    PickleGlobal{"torch", "float16", dtype, Dtype::f16},
    PickleGlobal{"torch", "bfloat16", dtype, Dtype::bf16},
    PickleGlobal{"torch", "float8_e4m3fn", dtype, Dtype::f8_e4m3},
    PickleGlobal{"torch", "float8_e5m2", dtype, Dtype::f8_e5m2},
    PickleGlobal{"torch", "int64", dtype, Dtype::i64},
    PickleGlobal{"torch", "int32", dtype, Dtype::i32},
    PickleGlobal{"torch", "int16", dtype, Dtype::i16},
    PickleGlobal{"torch", "int8", dtype, Dtype::i8},
    PickleGlobal{"torch", "uint64", dtype, Dtype::u64},
    PickleGlobal{"torch", "uint32", dtype, Dtype::u32},
    PickleGlobal{"torch", "uint16", dtype, Dtype::u16},
    PickleGlobal{"torch", "uint8", dtype, Dtype::u8},
    PickleGlobal{"torch", "bool", dtype, Dtype::boolean},
};

}  // namespace

std::span<const PickleGlobal> pickle_globals() { return rows; }

}  // namespace mixwright::checkpoint
