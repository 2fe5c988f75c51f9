#include "model/tensor_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <new>

namespace mixwright::model {
namespace {

constexpr std::size_t page_bytes = 2u << 20, block_bytes = 64u << 20;

constexpr std::size_t round_up(std::size_t bytes, std::size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// Not from malloc, which may give memory that somebody has had before.
std::shared_ptr<std::byte> new_block(std::size_t bytes, TensorMemory::Pages pages) {
    const std::size_t mapped = bytes + page_bytes;  // room to begin where a large page can
    void* const begin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (begin == MAP_FAILED) throw std::bad_alloc();
    const std::shared_ptr<void> owner(begin, [mapped](void* address) { ::munmap(address, mapped); });
    void* block = begin;
    std::size_t space = mapped;
    std::align(page_bytes, bytes, block, space);
    if (pages == TensorMemory::Pages::large) ::madvise(block, bytes, MADV_HUGEPAGE);  // where the system has none, nothing happens
    return {owner, static_cast<std::byte*>(block)};
}

}  // namespace

at::Tensor TensorMemory::empty(at::IntArrayRef shape, at::ScalarType dtype) {
    constexpr std::size_t cache_line = 64;
    const std::size_t bytes = round_up(static_cast<std::size_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype), cache_line);
    if (block_ == nullptr || size_ - used_ < bytes) {
        size_ = std::max(block_bytes, round_up(bytes, page_bytes));
        block_ = new_block(size_, pages_);
        used_ = 0;
    }
    std::byte* const at = block_.get() + used_;
    used_ += bytes;
    return at::from_blob(at, shape, [block = block_](void*) {}, at::TensorOptions(dtype));
}

}  // namespace mixwright::model
