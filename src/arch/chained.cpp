#include "arch/chained.h"

#include <fmt/format.h>

#include <deque>

#include "arch/remote/remote_modules.h"
#include "error.h"

namespace mixwright::arch {
namespace {

constexpr std::string_view prefix = "chained_";

// Tables of strings that live as long as the process, made from the registry's.
class ChainedTables {
public:
    ChainedTables() {
        for (const Architecture* row : registry()) {
            if (!row->moe || row->moe->chained) continue;
            Architecture chained = *row;
            chained.model_type = kept(fmt::format("{}{}", prefix, row->model_type));
            chained.hf_class = kept(fmt::format("Chained{}", row->hf_class));
            chained.gguf_name = {};
            chained.moe->chained = true;
            tables_.push_back(std::move(chained));
        }
    }
    const Architecture* find(std::string_view model_type) const {
        for (const Architecture& table : tables_)
            if (table.model_type == model_type) return &table;
        return nullptr;
    }

private:
    std::string_view kept(std::string text) { return names_.emplace_back(std::move(text)); }

    std::deque<std::string> names_;
    std::deque<Architecture> tables_;
};

}  // namespace

const Architecture* chained_form(std::string_view model_type) {
    if (!model_type.starts_with(prefix)) return nullptr;
    static const ChainedTables tables;
    return tables.find(model_type);
}

const Architecture& chained_form_of(const Architecture& architecture) {
    if (architecture.moe && architecture.moe->chained) return architecture;
    const Architecture* chained = chained_form(fmt::format("{}{}", prefix, architecture.model_type));
    if (chained == nullptr)
        throw Error(ErrorCode::unsupported, fmt::format("{} has no experts to chain", architecture.model_type), "chain a mixture of experts");
    return *chained;
}

RemoteCode remote_code(const ModelSpec& spec) {
    if (!spec.architecture->moe || !spec.architecture->moe->chained) return {};
    const std::string_view type = spec.architecture->model_type;
    const auto map = [](std::string_view module, std::string_view config, std::string_view model) {
        return io::Json{{"AutoConfig", fmt::format("{}.{}", module, config)}, {"AutoModelForCausalLM", fmt::format("{}.{}", module, model)}};
    };
    if (!type.starts_with(prefix))
        return {"modeling_coe_deepseekv2.py", std::string(remote::modeling_coe_deepseekv2), map("modeling_coe_deepseekv2", "CoeDeepseekv2Config", "CoeDeepseekv2ForCausalLM")};
    std::string text(remote::modeling_chained);
    constexpr std::string_view blank = "BASE = \"\"";
    text.replace(text.find(blank), blank.size(), fmt::format("BASE = \"{}\"", type.substr(prefix.size())));
    return {"modeling_chained.py", std::move(text), map("modeling_chained", "ChainedConfig", "ChainedForCausalLM")};
}

}  // namespace mixwright::arch
