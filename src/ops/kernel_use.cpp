#include "ops/kernel_use.h"

namespace mixwright::ops {

bool has_fast_products(at::ScalarType dtype) {
    if (dtype != at::kBFloat16) return true;
#if defined(__x86_64__)
    static const bool has_instructions = __builtin_cpu_supports("avx512bf16") != 0;  // AMX comes with it
    return has_instructions;
#else
    return true;
#endif
}

}  // namespace mixwright::ops
