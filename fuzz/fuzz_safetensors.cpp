// A whole safetensors file: refused with an Error, or every tensor lies inside it and none meets another.
#include <algorithm>
#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "error.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view file(reinterpret_cast<const char*>(data), size);
    try {
        const auto prefix = std::as_bytes(std::span(file)).first(std::min(size, checkpoint::safetensors_prefix_bytes));
        const std::uint64_t json_bytes = checkpoint::safetensors_json_bytes(prefix, size, "fuzz");
        auto entries = checkpoint::parse_safetensors_json(file.substr(checkpoint::safetensors_prefix_bytes, json_bytes), size, "fuzz").entries;
        std::ranges::sort(entries, {}, [](const auto& e) { return std::pair(e.begin, e.end); });
        std::uint64_t end = checkpoint::safetensors_prefix_bytes + json_bytes;
        for (const auto& entry : entries) {
            if (entry.begin != end || entry.end < entry.begin || entry.info.num_bytes() != entry.end - entry.begin) std::abort();
            end = entry.end;
        }
        if (end != size) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
