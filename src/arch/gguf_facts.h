// What llama.cpp's graphs know of an architecture and GGUF files therefore do not say: a row for each general.architecture
// that needs one.
#pragma once

#include <cstdint>
#include <string_view>

namespace mixwright::arch {

struct GgufFacts {
    std::string_view name;                       // general.architecture
    bool normalises_topk = false;                // the top-k weights sum to one unless expert_weights_norm denies it
    bool rotates_part = false;                   // rope.dimension_count may be less than the length of a head
    bool truncates_yarn = true;
    std::int64_t attention_chunk = 0;            // positions of a chunk, unless the file says that there are none
    std::int64_t experts_without_qk_norm = 0;    // the model of so many experts has no q/k norms
    std::int64_t wide_scalar_layers = 0;         // the model of so many layers scales by hidden_size / heads, not by head_dim
};

/// The row of `name`, or one without peculiarities.
const GgufFacts& gguf_facts(std::string_view name);

}  // namespace mixwright::arch
