#include "arch/remote_code.h"

#include <fmt/format.h>

#include "arch/remote/remote_modules.h"

namespace mixwright::arch {
namespace {

io::Json map(std::string_view module, std::string_view config, std::string_view model) {
    return {{"AutoConfig", fmt::format("{}.{}", module, config)}, {"AutoModelForCausalLM", fmt::format("{}.{}", module, model)}};
}

// The module of every derived form of X: `text` with the name of X filled in.
RemoteCode for_base(std::string_view module, std::string_view text, std::string_view base, std::string_view config, std::string_view model) {
    std::string filled(text);
    constexpr std::string_view blank = "BASE = \"\"";
    filled.replace(filled.find(blank), blank.size(), fmt::format("BASE = \"{}\"", base));
    return {fmt::format("{}.py", module), std::move(filled), map(module, config, model)};
}

}  // namespace

RemoteCode remote_code(const ModelSpec& spec) {
    if (!spec.architecture->moe) return {};
    const std::string_view type = spec.architecture->model_type, base = type.substr(std::min(type.size(), type.find('_') + 1));
    if (spec.architecture->moe->zipped) return for_base("modeling_zipped", remote::modeling_zipped, base, "ZippedConfig", "ZippedForCausalLM");
    if (!spec.architecture->moe->chained) return {};
    if (type.starts_with("chained_")) return for_base("modeling_chained", remote::modeling_chained, base, "ChainedConfig", "ChainedForCausalLM");
    return {"modeling_coe_deepseekv2.py", std::string(remote::modeling_coe_deepseekv2), map("modeling_coe_deepseekv2", "CoeDeepseekv2Config", "CoeDeepseekv2ForCausalLM")};
}

}  // namespace mixwright::arch
