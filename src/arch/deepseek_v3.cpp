// DeepSeek-V3 and R1: latent attention, sigmoid scores with a correction bias, experts from the best groups.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture deepseek_v3;
const Architecture deepseek_v3{
    .model_type = "deepseek_v3",
    .hf_class = "DeepseekV3ForCausalLM",
    .gguf_name = "deepseek2",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .latent_attention = true,
    .rope_interleaved = true,
    .rope_interleaved_key = "rope_interleave",
    .moe = MoeTable{
        .num_experts_keys = {"n_routed_experts"},
        .expert_width_key = "moe_intermediate_size",
        .scores = RouterScores::sigmoid,
        .router_f32 = true,
        .correction_bias = true,
        .groups = GroupScore::best_two,
        .norm_topk = NormTopk::config_true,
        .shared_expert = "mlp.shared_experts",
        .num_shared_key = "n_shared_experts",
        .first_k_dense = true,
    },
};

}  // namespace mixwright::arch
