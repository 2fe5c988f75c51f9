// Where each canonical tensor is on disk: whole, a part of a packed tensor, or one expert of a stack.
#pragma once

#include <string>
#include <vector>

#include "arch/architecture.h"
#include "checkpoint/tensor_source.h"

namespace mixwright::arch {

/// A matrix (or vector, of one column) inside `disk`: element (r, c) at offset + r * row_stride + c * column_stride.
struct Piece {
    checkpoint::TensorInfo info;                 // canonical name, dtype and shape
    const checkpoint::TensorInfo* disk = nullptr;
    std::int64_t offset = 0, row_stride = 0, column_stride = 1;

    std::int64_t rows() const noexcept { return info.shape.empty() ? 1 : info.shape[0]; }
    std::int64_t columns() const noexcept { return info.shape.size() < 2 ? 1 : info.shape[1]; }
    /// Whether the values lie together, in row-major order.
    bool contiguous() const noexcept { return columns() == 1 ? row_stride == 1 : column_stride == 1 && row_stride == columns(); }
};

struct StoredPieces {
    std::vector<Piece> pieces;                   // one a slot of tensor_slots(spec)
    std::vector<std::string> unused;             // tensors of the source that no piece lies in
};

/// Error(mismatch) lists the tensors that are missing or of another shape than `spec` says; `model_name` for messages.
StoredPieces find_pieces(const checkpoint::TensorSource& source, const ModelSpec& spec, const std::string& model_name);

}  // namespace mixwright::arch
