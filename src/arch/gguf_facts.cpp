#include "arch/gguf_facts.h"

namespace mixwright::arch {
namespace {

constexpr GgufFacts rows[] = {
    {.name = "gemma2", .wide_scalar_layers = 46},
    {.name = "gemma3", .wide_scalar_layers = 62},
    {.name = "glm4moe", .rotates_part = true},
    {.name = "gpt-oss", .truncates_yarn = false},
    {.name = "llama4", .attention_chunk = 8192, .experts_without_qk_norm = 128},
    {.name = "phi3", .rotates_part = true},
    {.name = "phimoe", .rotates_part = true},
    {.name = "qwen3moe", .normalises_topk = true},
};
constexpr GgufFacts plain{};

}  // namespace

const GgufFacts& gguf_facts(std::string_view name) {
    for (const GgufFacts& row : rows)
        if (row.name == name) return row;
    return plain;
}

}  // namespace mixwright::arch
