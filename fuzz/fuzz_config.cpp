// A config.json: refused with an Error, or a model whose config can be written and says the same when it is read again.
#include <cstdlib>

#include "arch/architecture.h"
#include "arch/render_config.h"
#include "error.h"
#include "io/json.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    arch::ModelSpec spec;
    io::Json again;
    try {
        spec = arch::parse_config(io::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz"), "fuzz");
        constexpr std::int64_t countable = 4096;
        if (spec.num_layers * (spec.num_experts + 1) <= countable && spec.num_active_parameters() > spec.num_parameters()) std::abort();
        again = arch::render_config(spec);
    } catch (const Error&) {
        return 0;
    }
    if (arch::render_config(arch::parse_config(again, "fuzz")) != again) std::abort();
    return 0;
}
