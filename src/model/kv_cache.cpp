#include "model/kv_cache.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "error.h"

namespace mixwright::model {
namespace {

constexpr std::int64_t first_capacity = 256;

// x [B, Hkv, L, d] into `buffer` from position `first` on.
void write(at::Tensor& buffer, std::int64_t first, const at::Tensor& x) {
    const std::int64_t length = x.size(2);
    if (!x.is_cpu() || length != 1 || x.stride(3) != 1) {
        buffer.narrow(2, first, length).copy_(x);
        return;
    }
    // One token: a few copies of a head's size, without the cost of tensor operations.
    const std::size_t bytes = static_cast<std::size_t>(x.size(3)) * x.element_size();
    auto* to = static_cast<std::byte*>(buffer.mutable_data_ptr());
    const auto* from = static_cast<const std::byte*>(x.const_data_ptr());
    const auto size = static_cast<std::int64_t>(x.element_size());
    for (std::int64_t b = 0; b < x.size(0); ++b)
        for (std::int64_t h = 0; h < x.size(1); ++h)
            std::memcpy(to + (b * buffer.stride(0) + h * buffer.stride(1) + first * buffer.stride(2)) * size,
                        from + (b * x.stride(0) + h * x.stride(1)) * size, bytes);
}

}  // namespace

KvCache::KvCache(const arch::ModelSpec& spec, std::int64_t max_length)
    : layers_(static_cast<std::size_t>(spec.num_layers)), max_length_(max_length) {}

// Makes `buffer` hold `needed` tokens, keeping those it holds.
void KvCache::reserve(at::Tensor& buffer, const at::Tensor& like, std::int64_t needed) {
    if (buffer.defined() && buffer.size(2) >= needed) return;
    const std::int64_t doubled = buffer.defined() ? buffer.size(2) * 2 : first_capacity;
    const std::int64_t capacity = std::min(std::max(needed, doubled), max_length_);
    const std::vector<std::int64_t> shape{like.size(0), like.size(1), capacity, like.size(3)};
    at::Tensor grown = like.is_cpu() ? memory_.empty(shape, like.scalar_type()) : at::empty(shape, like.options());
    if (length_ > 0) grown.narrow(2, 0, length_).copy_(buffer.narrow(2, 0, length_));
    buffer = std::move(grown);
}

std::pair<at::Tensor, at::Tensor> KvCache::append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v) {
    const std::int64_t added = k.size(2), needed = length_ + added;
    if (needed > max_length_)
        throw Error(ErrorCode::failed, fmt::format("the context is full (got {} tokens, limit {})", needed, max_length_),
                    "shorten the prompt, ask for fewer tokens or raise the context size");
    Layer& cache = layers_[static_cast<std::size_t>(layer)];
    reserve(cache.keys, k, needed);
    reserve(cache.values, v, needed);
    write(cache.keys, length_, k);
    write(cache.values, length_, v);
    return {cache.keys.narrow(2, 0, needed), cache.values.narrow(2, 0, needed)};
}

void KvCache::truncate(std::int64_t length) noexcept { length_ = std::min(length_, length); }

}  // namespace mixwright::model
