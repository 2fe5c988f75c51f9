// A pickle: refused with an Error, or every tensor it describes lies inside the storage it names.
#include <cstdlib>

#include "checkpoint/unpickler.h"
#include "error.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        checkpoint::ByteReader reader(std::as_bytes(std::span(data, size)), "fuzz");
        for (const auto& tensor : checkpoint::Pickle::read(reader).tensors()) {
            std::uint64_t values = 1;
            for (const std::int64_t dim : tensor.shape) values *= static_cast<std::uint64_t>(dim);
            if (values > tensor.storage_bytes) std::abort();
        }
    } catch (const Error&) {
    }
    return 0;
}
