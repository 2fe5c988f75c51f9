// Whether experts read the tokens that the base writes: compare_vocabularies() of preflight.h.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "surgery/preflight.h"

namespace mixwright::surgery {
namespace {

using Kind = Difference::Kind;

std::optional<tokenizer::Tokenizer> load_tokenizer(const SourceModel& model, std::vector<Difference>& differences) {
    try {
        return arch::open_tokenizer(model.open.checkpoint.path.string());
    } catch (const Error& error) {
        // An expert's directory without a tokenizer is common: its weights are all that is taken.
        if (error.code() != ErrorCode::not_found)
            differences.push_back({Kind::ignored, model.reference.text(), "its tokenizer cannot be compared: " + error.message()});
        return std::nullopt;
    }
}

}  // namespace

std::vector<Difference> compare_vocabularies(const SourceModels& sources) {
    std::vector<Difference> differences;
    const auto base = load_tokenizer(*sources.base, differences);
    if (!base) return differences;
    for (const auto& model : sources.all) {
        if (model == sources.base) continue;
        const auto other = load_tokenizer(*model, differences);
        if (!other) continue;
        const std::size_t shared = std::min(base->vocab_size(), other->vocab_size());
        std::string examples;
        std::size_t count = 0;
        for (std::size_t id = 0; id < shared; ++id) {
            const auto token = static_cast<tokenizer::TokenId>(id);
            if (base->id_to_token(token) == other->id_to_token(token)) continue;
            if (++count <= 3)
                examples += fmt::format("{}{} is \"{}\", the base has \"{}\"", count > 1 ? "; " : "", id,
                                        printable(other->id_to_token(token), 40), printable(base->id_to_token(token), 40));
        }
        if (count > 0)
            differences.push_back({Kind::vocabulary, model->reference.text(),
                                   fmt::format("{} of {} tokens differ: {}{}", count, shared, examples, count > 3 ? "; ..." : "")});
        if (base->vocab_size() != other->vocab_size())
            differences.push_back({Kind::ignored, model->reference.text(),
                                   fmt::format("its vocabulary has {} tokens, the base's {}; the MoE keeps the base's",
                                               other->vocab_size(), base->vocab_size())});
    }
    return differences;
}

}  // namespace mixwright::surgery
