// The models a recipe names, each opened once, headers only, with its LoRA adapter merged on the fly.
#pragma once

#include <memory>
#include <vector>

#include "arch/canonical.h"
#include "surgery/moe_targets.h"
#include "surgery/recipe.h"

namespace mixwright::surgery {

/// One opened model and the name the recipe gives it.
struct SourceModel {
    ModelReference reference;
    arch::OpenModel open;
};

struct SourceModels {
    std::vector<std::shared_ptr<const SourceModel>> all;  // each once, the base first
    std::shared_ptr<const SourceModel> base;
    std::vector<std::shared_ptr<const SourceModel>> experts, shared_experts;  // in the recipe's order

    SourceSpecs specs() const;
};

/// Opens every model of the recipe. One Error tells of all that cannot be opened: what is not there, malformed, or lacks
/// tensors.
SourceModels open_sources(const BuildRecipe& recipe);

}  // namespace mixwright::surgery
