#include "surgery/source_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "checkpoint/lora.h"
#include "error.h"

namespace mixwright::surgery {
namespace {

std::shared_ptr<const SourceModel> open_one(const ModelReference& reference) {
    checkpoint::Checkpoint checkpoint = checkpoint::open_checkpoint(reference.model);
    if (!reference.lora.empty())
        checkpoint.tensors = checkpoint::merge_lora(checkpoint.tensors, checkpoint::resolve_model(reference.lora));
    auto model = std::make_shared<SourceModel>(SourceModel{reference, arch::open_model(std::move(checkpoint))});
    const auto& spec = model->open.spec;
    if (spec.is_moe())
        throw Error(ErrorCode::unsupported,
                    fmt::format("{}: is a mixture of experts already ({}), a MoE is built from dense models", reference.text(),
                                spec.architecture->model_type),
                    "take one expert out of it first: mixwright split");
    return model;
}

// Collects failures, so that one run tells of every model that cannot be used.
class Failures {
public:
    void add(const Error& error) {
        if (std::ranges::find(messages_, error.message()) != messages_.end()) return;
        if (!code_) {
            code_ = error.code();
            hint_ = error.hint();
        }
        messages_.push_back(error.message());
    }
    void raise() const {
        if (!code_) return;
        if (messages_.size() == 1) throw Error(*code_, messages_[0], hint_);
        throw Error(*code_, fmt::format("{} models cannot be used:\n  {}", messages_.size(), fmt::join(messages_, "\n  ")), hint_);
    }

private:
    std::optional<ErrorCode> code_;
    std::string hint_;
    std::vector<std::string> messages_;
};

}  // namespace

SourceSpecs SourceModels::specs() const {
    SourceSpecs specs{.base = &base->open.spec};
    for (const auto& model : experts) specs.experts.push_back(&model->open.spec);
    for (const auto& model : shared_experts) specs.shared_experts.push_back(&model->open.spec);
    return specs;
}

SourceModels open_sources(const BuildRecipe& recipe) {
    SourceModels sources;
    Failures failures;
    const auto open = [&](const ModelReference& reference) -> std::shared_ptr<const SourceModel> {
        const auto known = std::ranges::find(sources.all, reference, [](const auto& model) { return model->reference; });
        if (known != sources.all.end()) return *known;
        try {
            return sources.all.emplace_back(open_one(reference));
        } catch (const Error& error) {
            failures.add(error);
            return nullptr;
        }
    };
    sources.base = open(recipe.base);
    for (const ExpertRecipe& expert : recipe.experts) sources.experts.push_back(open(expert.source));
    for (const ExpertRecipe& expert : recipe.shared_experts) sources.shared_experts.push_back(open(expert.source));
    failures.raise();
    return sources;
}

}  // namespace mixwright::surgery
