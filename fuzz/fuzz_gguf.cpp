// A whole GGUF file: refused with an Error, or every tensor lies inside it and none meets another.
#include <algorithm>
#include <cstdlib>

#include "checkpoint/gguf_header.h"
#include "error.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        auto tensors = checkpoint::parse_gguf_header(std::as_bytes(std::span(data, size)), "fuzz").tensors;
        std::ranges::sort(tensors, {}, &checkpoint::GgufTensor::offset);
        std::uint64_t end = 0;
        for (const auto& tensor : tensors) {
            if (tensor.offset < end || tensor.bytes > size || tensor.offset > size - tensor.bytes) std::abort();
            end = tensor.offset + tensor.bytes;
        }
    } catch (const Error&) {
    }
    return 0;
}
