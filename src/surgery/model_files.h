// The files of a model beside its weights: the tokenizer, copied byte for byte, the generation config, the recipe and
// the card.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/writer.h"
#include "surgery/moe_plan.h"

namespace mixwright::surgery {

/// Tokenizer files, chat templates and generation_config.json (made from the config when the base has none), taken from
/// the base's directory.
std::vector<checkpoint::OutputFile> base_files(const arch::OpenModel& base);

/// README.md of the model called `name`: front matter for the hub, what was built from what, the recipe, how to run it.
/// The licence is the sources' when all that have one agree; otherwise it is left out, for a person to decide.
std::string model_card(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan, std::string_view name);

}  // namespace mixwright::surgery
