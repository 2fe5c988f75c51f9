#include "arch/gguf_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "error.h"

namespace mixwright::arch {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;

void GgufView::add(TensorInfo info, Part part) {
    const std::string name = info.name;
    if (!parts_.try_emplace(name, std::move(info), part).second)
        throw Error(ErrorCode::malformed, fmt::format("{}: two tensors stand for {}", source_->where(*part.stored), printable(name)));
}

void GgufView::finish() {
    for (const auto& [name, entry] : parts_) infos_.push_back(entry.first);
}

TensorBytes GgufView::bytes(const TensorInfo& info) const {
    const Part& part = part_of(info);
    const std::uint64_t size = info.num_bytes();
    if (part.form == Form::as_stored) return source_->slice(*part.stored, part.offset, size);
    const std::shared_ptr<std::byte[]> buffer(new std::byte[size]);
    read(info, 0, {buffer.get(), size});
    return {{buffer.get(), size}, buffer, false};
}

void GgufView::read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const {
    const Part& part = part_of(info);
    if (out.empty()) return;
    switch (part.form) {
        case Form::as_stored: return source_->read(*part.stored, part.offset + offset, out);
        case Form::halves: return read_rows(info, part, offset, out);
        case Form::minus_one: return read_less_one(part, offset, out);
        case Form::latent_heads: return read_latent_heads(info, part, offset, out);
    }
}

void GgufView::drop(const TensorInfo& info) const {
    const Part& part = part_of(info);
    source_->drop(*part.stored);
    if (part.values != nullptr) source_->drop(*part.values);
}

const GgufView::Part& GgufView::part_of(const TensorInfo& info) const {
    const auto it = parts_.find(info.name);
    if (it == parts_.end()) throw Error(ErrorCode::internal, fmt::format("{} is not of this model", printable(info.name)));
    return it->second.second;
}

void GgufView::read_rows(const TensorInfo& info, const Part& part, std::uint64_t offset, std::span<std::byte> out) const {
    const std::uint64_t row_bytes = info.num_bytes() / static_cast<std::uint64_t>(info.shape[0]);
    const auto d = static_cast<std::uint64_t>(info.shape[0] / part.heads);
    while (!out.empty()) {
        const std::uint64_t row = offset / row_bytes, within = offset % row_bytes;
        const std::uint64_t count = std::min<std::uint64_t>(row_bytes - within, out.size());
        const std::uint64_t head = row / d, r = row % d, stored_row = head * d + r % (d / 2) * 2 + r / (d / 2);
        source_->read(*part.stored, part.offset + stored_row * row_bytes + within, out.first(count));
        out = out.subspan(count);
        offset += count;
    }
}

void GgufView::read_less_one(const Part& part, std::uint64_t offset, std::span<std::byte> out) const {
    constexpr std::uint64_t size = sizeof(float);
    const std::uint64_t first = offset / size, last = (offset + out.size() + size - 1) / size;
    std::vector<float> values(last - first);
    source_->read(*part.stored, part.offset + first * size, std::as_writable_bytes(std::span(values)));
    for (float& value : values) value -= 1.0f;
    std::memcpy(out.data(), std::as_bytes(std::span(values)).data() + offset % size, out.size());
}

void GgufView::read_latent_heads(const TensorInfo& info, const Part& part, std::uint64_t offset, std::span<std::byte> out) const {
    const auto rank = static_cast<std::uint64_t>(part.stored->shape[1]), nope = static_cast<std::uint64_t>(part.stored->shape[2]),
               v = static_cast<std::uint64_t>(part.values->shape[1]), size = static_cast<std::uint64_t>(dtype_bytes(info.dtype));
    const std::uint64_t key_bytes = nope * rank * size, value_bytes = v * rank * size, head_bytes = key_bytes + value_bytes;
    std::vector<std::byte> keys(key_bytes), head(head_bytes);
    while (!out.empty()) {
        const std::uint64_t h = offset / head_bytes, within = offset % head_bytes, count = std::min<std::uint64_t>(head_bytes - within, out.size());
        source_->read(*part.stored, h * key_bytes, keys);
        for (std::uint64_t r = 0; r < rank; ++r)
            for (std::uint64_t n = 0; n < nope; ++n) std::memcpy(head.data() + (n * rank + r) * size, keys.data() + (r * nope + n) * size, size);
        source_->read(*part.values, h * value_bytes, std::span(head).subspan(key_bytes));
        std::memcpy(out.data(), head.data() + within, count);
        out = out.subspan(count);
        offset += count;
    }
}

}  // namespace mixwright::arch
