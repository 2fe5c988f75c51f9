// Memory for weights that are not mapped from a file.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>

namespace mixwright::model {

/// Hands out tensors side by side in large blocks, for which it asks the system to use large pages: a matrix of a layer is smaller than
/// one, and on small pages decoding loses a tenth of what memory gives. A block lives as long as any tensor in it; memory that no tensor has had is not resident.
class WeightMemory {
public:
    /// A tensor without values, contiguous, on the CPU.
    at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype);

private:
    std::shared_ptr<std::byte> block_;
    std::size_t used_ = 0, size_ = 0;
};

}  // namespace mixwright::model
