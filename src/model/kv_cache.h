// Keys and values of the tokens a model has already seen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "arch/architecture.h"
#include "model/tensor_memory.h"

namespace mixwright::model {

/// One contiguous cache per layer, [B, Hkv, capacity, d], grown by doubling up to a limit.
class KvCache {
public:
    /// At most `max_length` tokens a sequence; memory is taken as it is needed.
    KvCache(const arch::ModelSpec& spec, std::int64_t max_length);

    /// Tokens held by every layer: the position of the next one.
    std::int64_t length() const noexcept { return length_; }
    std::int64_t max_length() const noexcept { return max_length_; }

    /// Appends k and v [B, Hkv, L, d] of `layer`; returns all keys and values so far, [B, Hkv, length() + L, d].
    /// Error(failed) when that exceeds max_length().
    std::pair<at::Tensor, at::Tensor> append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v);
    /// Called once all layers have appended L tokens.
    void advance(std::int64_t num_tokens) noexcept { length_ += num_tokens; }
    /// Forgets all but the first `length` tokens.
    void truncate(std::int64_t length) noexcept;

private:
    struct Layer {
        at::Tensor keys, values;
    };
    void reserve(at::Tensor& buffer, const at::Tensor& like, std::int64_t needed);

    std::vector<Layer> layers_;
    TensorMemory memory_;
    std::int64_t length_ = 0, max_length_;
};

}  // namespace mixwright::model
