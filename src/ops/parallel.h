// Loops shared out among libtorch's own threads, those that its operations before and after run on.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace mixwright::ops {

/// work(first, last) for parts of [begin, end) of at least `grain` each, one a thread, of which there are at::get_num_threads().
/// at::parallel_for is a template that runs on one thread wherever it is compiled without OpenMP, and says nothing: this one is
/// compiled with it, once.
void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, c10::function_ref<void(std::int64_t, std::int64_t)> work);

}  // namespace mixwright::ops
