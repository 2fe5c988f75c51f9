// A set of named tensors, wherever their bytes are: the one interface between file formats and everything that
// reads weights. It knows nothing of architectures: names are those of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"

namespace mixwright::checkpoint {

struct TensorInfo {
    std::string name;
    Dtype dtype = Dtype::f32;
    std::vector<std::int64_t> shape;  // row-major; empty for a scalar

    std::int64_t numel() const;
    std::uint64_t num_bytes() const;
    bool operator==(const TensorInfo&) const = default;
};

/// "[1536, 576]"
std::string shape_text(std::span<const std::int64_t> shape);

/// The bytes of one tensor, valid while the object (or a copy) lives: a piece of a mapped file, or a buffer of its own.
struct TensorBytes {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
    bool mapped = false;  // whether `bytes` lie in a mapped file (and cost no memory of ours)
};

class TensorSource {
public:
    virtual ~TensorSource() = default;

    /// Every tensor, sorted by name, names unique.
    virtual const std::vector<TensorInfo>& tensors() const = 0;

    /// The values of `info` (one of tensors()), in its dtype: mapped where the file holds them as they are,
    /// else decoded (dequantised, sliced, transposed) into a new buffer.
    virtual TensorBytes bytes(const TensorInfo& info) const = 0;

    /// Bytes [offset, offset + length) of `info`, as bytes() gives them, without decoding the rest: one expert of a stack.
    virtual TensorBytes slice(const TensorInfo& info, std::uint64_t offset, std::uint64_t length) const;

    /// Writes bytes [offset, offset + out.size()) of `info` into `out` without keeping them resident: for streaming
    /// from input to output in bounded memory. The default goes through bytes().
    virtual void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const;

    /// Tells the source that the pages of `info` are not needed soon.
    virtual void drop(const TensorInfo& info) const;

    /// The file that holds `info`, for messages.
    virtual std::string where(const TensorInfo& info) const = 0;

    /// The tensor called `name`, or null. Binary search.
    const TensorInfo* find(std::string_view name) const;
    /// The tensor called `name`; Error(not_found) naming it and the nearest names there are.
    const TensorInfo& at(std::string_view name) const;
};

}  // namespace mixwright::checkpoint
