// Granite MoE with a shared expert beside the routed ones.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture granitemoeshared;
const Architecture granitemoeshared{
    .model_type = "granitemoeshared",
    .hf_class = "GraniteMoeSharedForCausalLM",
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
        .shared_expert = "shared_mlp",
        .shared_width_key = "shared_intermediate_size",
    },
    .packed = {
        {.name = "block_sparse_moe.input_linear.weight", .parts = {"gate_proj.weight", "up_proj.weight"}, .per_expert = true},
        {.name = "block_sparse_moe.output_linear.weight", .parts = {"down_proj.weight"}, .per_expert = true},
        {.name = "shared_mlp.input_linear.weight", .parts = {"shared_mlp.gate_proj.weight", "shared_mlp.up_proj.weight"}},
        {.name = "shared_mlp.output_linear.weight", .parts = {"shared_mlp.down_proj.weight"}},
    },
};

}  // namespace mixwright::arch
