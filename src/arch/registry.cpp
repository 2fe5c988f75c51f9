// Every architecture, one line each.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "arch/architecture.h"
#include "arch/chained.h"
#include "arch/zipped.h"
#include "error.h"
#include "nearest.h"

namespace mixwright::arch {

extern const Architecture llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, granite, olmo2, smollm3, starcoder2;
extern const Architecture mixtral, qwen2_moe, qwen3_moe, deepseek, deepseek_v2, deepseek_v3, coe_deepseekv2, olmoe, phimoe;
extern const Architecture granitemoe, granitemoeshared, gpt_oss, glm4_moe, llama4_text, dbrx;

std::span<const Architecture* const> registry() {
    static constexpr std::array rows{
        &llama, &mistral, &qwen2, &qwen3, &phi3, &gemma2, &gemma3_text, &granite, &olmo2, &smollm3, &starcoder2,
        &mixtral, &qwen2_moe, &qwen3_moe, &deepseek, &deepseek_v2, &deepseek_v3, &coe_deepseekv2, &olmoe, &phimoe,
        &granitemoe, &granitemoeshared, &gpt_oss, &glm4_moe, &llama4_text, &dbrx,
    };
    return rows;
}

const Architecture& find_architecture(std::string_view model_type) {
    for (const Architecture* derived : {chained_form(model_type), zipped_form(model_type)})
        if (derived != nullptr) return *derived;
    std::vector<std::string_view> names;
    for (const Architecture* row : registry()) {
        if (row->model_type == model_type) return *row;
        names.push_back(row->model_type);
    }
    throw Error(ErrorCode::unsupported, fmt::format("model_type \"{}\" is not supported", printable(model_type)),
                fmt::format("{}supported: {}", did_you_mean(model_type, names), fmt::join(names, ", ")));
}

}  // namespace mixwright::arch
