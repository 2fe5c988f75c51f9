// Memory for tensors that stay: weights that are not mapped from a file, keys and values.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace mixwright::model {

/// Hands out tensors side by side in large blocks, apart from the heap, where what stays would lie between what comes and goes. A block lives as
/// long as any tensor in it; memory that no tensor has had, or that nobody wrote to, is not resident.
class TensorMemory {
public:
    /// large: pages of 2 MB where the system has them. A matrix of a layer is often smaller than one, and from small pages decoding gets a tenth
    /// less out of the memory; but one that is written to in one place is resident as a whole.
    enum class Pages : std::uint8_t { small, large };
    explicit TensorMemory(Pages pages) : pages_(pages) {}

    /// A tensor without values, contiguous, on the CPU.
    at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype);

private:
    Pages pages_;
    std::shared_ptr<std::byte> block_;
    std::size_t used_ = 0, size_ = 0;
};

}  // namespace mixwright::model
