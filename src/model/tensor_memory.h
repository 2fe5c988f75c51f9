// Memory for tensors that stay.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>

namespace mixwright::model {

/// Hands out tensors side by side in large blocks, apart from the heap, where what stays would lie between what comes and goes. A block lives as
/// long as any tensor in it; memory that nobody wrote to is not resident.
class TensorMemory {
public:
    /// A tensor without values, contiguous, on the CPU.
    at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype);

private:
    std::shared_ptr<std::byte> block_;
    std::size_t used_ = 0, size_ = 0;
};

}  // namespace mixwright::model
