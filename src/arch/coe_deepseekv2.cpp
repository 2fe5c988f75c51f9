// Chain-of-Experts (arXiv 2506.18945) on DeepSeek-V2: each MoE block runs several times on its own output.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture coe_deepseekv2;
const Architecture coe_deepseekv2{
    .model_type = "coe_deepseekv2",
    .hf_class = "CoeForCausalLM",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .latent_attention = true,
    .rope_interleaved = true,
    .moe = MoeTable{
        .num_experts_keys = {"n_routed_experts"},
        .expert_width_key = "moe_intermediate_size",
        .router_f32 = true,
        .groups = GroupScore::best,
        .groups_by_method = true,
        .chained = true,
        .norm_topk = NormTopk::config_false,
        .shared_expert = "mlp.shared_experts",
        .num_shared_key = "n_shared_experts",
        .first_k_dense = true,
    },
};

}  // namespace mixwright::arch
