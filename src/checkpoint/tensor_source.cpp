#include "checkpoint/tensor_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "checked.h"
#include "error.h"

namespace mixwright::checkpoint {

std::int64_t TensorInfo::numel() const { return checked_numel(shape, "tensor shape"); }

std::uint64_t TensorInfo::num_bytes() const {
    return checked_mul(static_cast<std::uint64_t>(numel()), static_cast<std::uint64_t>(dtype_bytes(dtype)), "tensor size");
}

std::string shape_text(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

TensorBytes TensorSource::slice(const TensorInfo& info, std::uint64_t offset, std::uint64_t length) const {
    TensorBytes piece = bytes(info);
    if (offset > piece.bytes.size() || length > piece.bytes.size() - offset)
        throw Error(ErrorCode::internal, fmt::format("{}: slice past the end of the tensor", printable(info.name)));
    piece.bytes = piece.bytes.subspan(offset, length);
    return piece;
}

void TensorSource::read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const {
    const TensorBytes whole = bytes(info);
    if (offset > whole.bytes.size() || out.size() > whole.bytes.size() - offset)
        throw Error(ErrorCode::internal, fmt::format("{}: read past the end of the tensor", printable(info.name)));
    if (!out.empty()) std::memcpy(out.data(), whole.bytes.data() + offset, out.size());
}

void TensorSource::drop(const TensorInfo&) const {}

const TensorInfo* TensorSource::find(std::string_view name) const {
    const auto& all = tensors();
    const auto it = std::ranges::lower_bound(all, name, {}, [](const TensorInfo& t) -> std::string_view { return t.name; });
    return it != all.end() && it->name == name ? &*it : nullptr;
}

const TensorInfo& TensorSource::at(std::string_view name) const {
    if (const TensorInfo* info = find(name)) return *info;
    // Neighbours in sorted order share the longest prefix: they show what is there instead.
    const auto& all = tensors();
    const auto it = std::ranges::lower_bound(all, name, {}, [](const TensorInfo& t) -> std::string_view { return t.name; });
    std::string near;
    for (auto i = it - std::min<std::ptrdiff_t>(it - all.begin(), 2); i != all.end() && i - it < 2; ++i)
        near += (near.empty() ? "" : ", ") + printable(i->name);
    throw Error(ErrorCode::not_found, fmt::format("tensor {} is missing", printable(name)),
                near.empty() ? "the model has no tensors" : "near it by name: " + near);
}

}  // namespace mixwright::checkpoint
