#include "model/weight_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace mixwright::model {
namespace {

constexpr std::size_t page_bytes = 2u << 20, block_bytes = 64u << 20;

constexpr std::size_t round_up(std::size_t bytes, std::size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

std::shared_ptr<std::byte> large_pages(std::size_t bytes) {
    auto* const block = static_cast<std::byte*>(std::aligned_alloc(page_bytes, bytes));
    if (block == nullptr) throw std::bad_alloc();
    ::madvise(block, bytes, MADV_HUGEPAGE);  // where the system has none, nothing happens
    return {block, [](std::byte* pointer) { std::free(pointer); }};
}

}  // namespace

at::Tensor WeightMemory::empty(at::IntArrayRef shape, at::ScalarType dtype) {
    constexpr std::size_t cache_line = 64;
    const std::size_t bytes = round_up(static_cast<std::size_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype), cache_line);
    if (block_ == nullptr || size_ - used_ < bytes) {
        size_ = std::max(block_bytes, round_up(bytes, page_bytes));
        block_ = large_pages(size_);
        used_ = 0;
    }
    std::byte* const at = block_.get() + used_;
    used_ += bytes;
    return at::from_blob(at, shape, [block = block_](void*) {}, at::TensorOptions(dtype));
}

}  // namespace mixwright::model
