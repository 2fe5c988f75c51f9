// Bounded JSON: refused with an Error, or no deeper than its limit and the same after a round trip.
#include <cstdlib>

#include "error.h"
#include "io/json.h"

using namespace mixwright;

namespace {

std::size_t depth(const io::Json& json) {
    std::size_t deepest = 0;
    if (json.is_structured())
        for (const auto& child : json) deepest = std::max(deepest, depth(child));
    return json.is_structured() ? deepest + 1 : 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const io::JsonLimits limits{.bytes = 1 << 16, .depth = 16};
        const io::Json json = io::parse_json(text, "fuzz", limits);
        if (size > limits.bytes || depth(json) > limits.depth) std::abort();
        if (io::parse_json(json.dump(), "fuzz", {}) != json) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
