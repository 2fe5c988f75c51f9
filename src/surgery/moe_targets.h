// The architectures a MoE of dense models can be written as, and why one of them does not fit: decided from the recipe
// and configs alone.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/architecture.h"
#include "io/json.h"
#include "surgery/recipe.h"

namespace mixwright::surgery {

struct MoeTarget {
    std::string_view name;                         // as mergekit-moe calls it
    std::string_view model_type;                   // its row in arch::registry()
    std::vector<std::string_view> accepts;         // model_types of the dense models
    bool needs_shared_expert = false;
    bool only_simple_rope = false;                 // its reference code knows linear and dynamic scaling only
    bool only_default_head_dim = false;            // its reference code computes hidden_size / num_attention_heads
    std::string_view extra_config = "{}";          // JSON merged into config.json

    const arch::Architecture& architecture() const { return arch::find_architecture(model_type); }
};

/// In order of preference: Mixtral first, as in mergekit-moe.
std::span<const MoeTarget> moe_targets();

/// Configs of the models of a recipe, in its order.
struct SourceSpecs {
    const arch::ModelSpec* base = nullptr;
    std::vector<const arch::ModelSpec*> experts, shared_experts;
};

/// Why `target` cannot take this recipe; empty when it can.
std::vector<std::string> refusals(const MoeTarget& target, const BuildRecipe& recipe, const SourceSpecs& sources);

/// The target that `architecture:` asks for, or the first that fits.
/// Error(recipe) on an unknown name, Error(mismatch) with the reasons of every candidate when none fits.
const MoeTarget& choose_target(const BuildRecipe& recipe, const SourceSpecs& sources);

/// The MoE that `target` makes of these models.
arch::ModelSpec moe_spec(const MoeTarget& target, const BuildRecipe& recipe, const SourceSpecs& sources);

/// Its config.json.
io::Json moe_config(const MoeTarget& target, const arch::ModelSpec& spec);

}  // namespace mixwright::surgery
