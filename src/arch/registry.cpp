// Every architecture, one line each.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "arch/architecture.h"
#include "arch/chained.h"
#include "error.h"
#include "nearest.h"

namespace mixwright::arch {

extern const Architecture llama, mistral, qwen2, qwen3;
extern const Architecture mixtral, qwen2_moe, qwen3_moe, deepseek, deepseek_v2, coe_deepseekv2;

std::span<const Architecture* const> registry() {
    static constexpr std::array rows{
        &llama, &mistral, &qwen2, &qwen3,
        &mixtral, &qwen2_moe, &qwen3_moe, &deepseek, &deepseek_v2, &coe_deepseekv2,
    };
    return rows;
}

const Architecture& find_architecture(std::string_view model_type) {
    if (const Architecture* chained = chained_form(model_type)) return *chained;
    std::vector<std::string_view> names;
    for (const Architecture* row : registry()) {
        if (row->model_type == model_type) return *row;
        names.push_back(row->model_type);
    }
    throw Error(ErrorCode::unsupported, fmt::format("model_type \"{}\" is not supported", printable(model_type)),
                fmt::format("{}supported: {}", did_you_mean(model_type, names), fmt::join(names, ", ")));
}

}  // namespace mixwright::arch
