// Granite 3 MoE and PowerMoE: Granite with experts whose top-k weights sum to one.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture granitemoe;
const Architecture granitemoe{
    .model_type = "granitemoe",
    .hf_class = "GraniteMoeForCausalLM",
    .gguf_name = "granitemoe",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .attention_scale = AttentionScale::multiplier,
    .multipliers = true,
    .gguf_permutes_qk = true,
    .moe = MoeTable{
        .router = "block_sparse_moe.router.layer.weight",
        .experts = "block_sparse_moe.experts",
        .num_experts_keys = {"num_local_experts", "num_experts"},
        .expert_width_key = "intermediate_size",
        .norm_topk = NormTopk::always,
    },
    .packed = {
        {.name = "block_sparse_moe.input_linear.weight", .parts = {"gate_proj.weight", "up_proj.weight"}, .per_expert = true},
        {.name = "block_sparse_moe.output_linear.weight", .parts = {"down_proj.weight"}, .per_expert = true},
    },
};

}  // namespace mixwright::arch
