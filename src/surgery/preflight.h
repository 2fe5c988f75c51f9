// Whether the models of a recipe fit together, from configs, headers and tokenizers alone: before any weight is read,
// all that differs is known, model by model.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "surgery/source_models.h"

namespace mixwright::surgery {

/// How one model differs from the base.
struct Difference {
    enum class Kind {
        impossible,  // there is no MoE of such models
        vocabulary,  // an expert reads other tokens than the base writes: refused unless the user insists
        ignored      // the MoE takes this from the base; the expert was trained with something else
    };
    Kind kind = Kind::impossible;
    std::string model;    // as the recipe names it
    std::string what;     // "hidden_size is 2048, the base has 4096"
};

/// Sizes, norms, rope, biases of every model against the base's; widths of the experts among themselves.
std::vector<Difference> compare_configs(const SourceModels& sources);

/// The tokens of base and experts, id by id.
std::vector<Difference> compare_vocabularies(const SourceModels& sources);

/// Throws one Error(mismatch) that lists every difference which forbids the MoE, and warns of the others.
/// With `allow_mismatch` differing vocabularies are warnings too. `recipe_name` is for the message.
void check_agreement(const std::vector<Difference>& differences, std::string_view recipe_name, bool allow_mismatch);

/// The properties of the models side by side, one line a property, for `--dry-run`. Properties in which all agree are
/// given once.
std::string agreement_table(const SourceModels& sources);

}  // namespace mixwright::surgery
