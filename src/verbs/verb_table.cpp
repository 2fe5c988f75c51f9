#include "verbs/verb_table.h"

#include <array>

namespace mixwright::verbs {
namespace {

const std::array table{
    VerbEntry{"inspect", "what a model is: architecture, parameters, tensors, problems",
              "  mixwright inspect ./my-moe\n"
              "  mixwright inspect Qwen/Qwen3-0.6B --json\n"
              "  mixwright inspect model.gguf --verify\n",
              make_inspect},
};

}  // namespace

std::span<const VerbEntry> verb_table() { return table; }

}  // namespace mixwright::verbs
