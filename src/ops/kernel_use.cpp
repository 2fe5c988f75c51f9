#include "ops/kernel_use.h"

namespace mixwright::ops {

bool has_fast_products(at::ScalarType dtype) {
#if defined(__x86_64__)
    if (dtype == at::kFloat) {
        static const bool as_wide_as_the_cpu = __builtin_cpu_supports("avx512f") == 0 || __builtin_cpu_is("intel");
        return as_wide_as_the_cpu;
    }
    static const bool has_instructions = __builtin_cpu_supports("avx512bf16") != 0;  // where there is AMX, there is this
    return dtype != at::kBFloat16 || has_instructions;
#else
    return true;
#endif
}

bool has_faster_panels(at::ScalarType dtype) {
    if (!has_fast_products(dtype)) return true;
#if defined(__x86_64__)
    static const bool multiplies_matrices = __builtin_cpu_supports("amx-bf16") != 0;
    return dtype == at::kBFloat16 && !multiplies_matrices;
#else
    return false;
#endif
}

}  // namespace mixwright::ops
