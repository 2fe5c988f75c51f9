// Memory that a thread keeps from one product to the next.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>

namespace mixwright::kernels {

/// Grows, never shrinks; what it held is lost when it grows. Meant to be thread_local.
class Scratch {
public:
    /// Room for `count` f32, aligned for vectors, with anything in it.
    float* of(std::int64_t count) {
        if (count > capacity_) {
            memory_ = hwy::AllocateAligned<float>(static_cast<std::size_t>(count));
            capacity_ = count;
        }
        return memory_.get();
    }

private:
    hwy::AlignedFreeUniquePtr<float[]> memory_;
    std::int64_t capacity_ = 0;
};

}  // namespace mixwright::kernels
