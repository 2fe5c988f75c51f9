#include "ops/parallel.h"

#include <ATen/Parallel.h>

#ifndef _OPENMP
#error "compile this file with OpenMP (cmake/layers.cmake): without it every loop would run on one thread"
#endif

namespace mixwright::ops {

void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, c10::function_ref<void(std::int64_t, std::int64_t)> work) {
    at::parallel_for(begin, end, grain, work);
}

}  // namespace mixwright::ops
