#include "model/tensor_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace mixwright::model {
namespace {

// Not from malloc, which may give memory that somebody has had before.
std::shared_ptr<std::byte> new_block(std::size_t bytes) {
    void* const block = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    return {static_cast<std::byte*>(block), [bytes](std::byte* address) { ::munmap(address, bytes); }};
}

}  // namespace

at::Tensor TensorMemory::empty(at::IntArrayRef shape, at::ScalarType dtype) {
    constexpr std::size_t block_bytes = 64u << 20, cache_line = 64;
    const std::size_t bytes = (static_cast<std::size_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype) + cache_line - 1) / cache_line * cache_line;
    if (block_ == nullptr || size_ - used_ < bytes) {
        size_ = std::max(block_bytes, bytes);
        block_ = new_block(size_);
        used_ = 0;
    }
    std::byte* const at = block_.get() + used_;
    used_ += bytes;
    return at::from_blob(at, shape, [block = block_](void*) {}, at::TensorOptions(dtype));
}

}  // namespace mixwright::model
