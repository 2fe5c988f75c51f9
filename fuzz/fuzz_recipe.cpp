// A recipe of `build`, through the YAML reader of all recipes: refused with an Error that names the line, or read.
#include <cstdlib>

#include "error.h"
#include "surgery/recipe.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const auto recipe = surgery::parse_build_recipe(text, "fuzz");
        if (recipe.experts.empty() || recipe.top_k() < 1 || recipe.top_k() > static_cast<std::int64_t>(recipe.experts.size())) std::abort();
    } catch (const Error& e) {
        if (!std::string_view(e.what()).starts_with("fuzz")) std::abort();
    }
    return 0;
}
