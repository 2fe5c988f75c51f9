// Whether experts read the tokens that the base writes: compare_vocabularies() of preflight.h.
#include <fmt/format.h>

#include <optional>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "surgery/preflight.h"
#include "tokenizer/same_tokens.h"

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
        const tokenizer::TokenDifference tokens = tokenizer::compare_tokens(*other, *base);
        if (tokens.differing > 0)
            differences.push_back({Kind::vocabulary, model->reference.text(),
                                   fmt::format("{} of {} tokens differ from the base's: {}", tokens.differing, tokens.compared, tokens.examples)});
        if (base->vocab_size() != other->vocab_size())
            differences.push_back({Kind::ignored, model->reference.text(),
                                   fmt::format("its vocabulary has {} tokens, the base's {}; the MoE keeps the base's",
                                               other->vocab_size(), base->vocab_size())});
    }
    return differences;
}

}  // namespace mixwright::surgery
