#include "arch/chained.h"

#include <fmt/format.h>

#include <deque>

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

}  // namespace mixwright::arch
