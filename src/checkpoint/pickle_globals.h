// The global names a pickled state dict may hold, and what each stands for.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "dtype.h"

namespace mixwright::checkpoint {

enum class GlobalKind { ordered_dict, size, rebuild_tensor, rebuild_tensor_v3, rebuild_parameter, storage, untyped_storage, dtype };

struct PickleGlobal {
    std::string_view module, name;
    GlobalKind kind;
    Dtype dtype = Dtype::u8;  // of storage and dtype
};

std::span<const PickleGlobal> pickle_globals();

}  // namespace mixwright::checkpoint
