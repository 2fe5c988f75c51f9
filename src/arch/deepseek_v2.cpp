// DeepSeek-V2: multi-head latent attention, routed experts chosen greedily or from the best groups, shared experts.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture deepseek_v2;
const Architecture deepseek_v2{
    .model_type = "deepseek_v2",
    .hf_class = "DeepseekV2ForCausalLM",
    .gguf_name = "deepseek2",
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
        .norm_topk = NormTopk::config_false,
        .shared_expert = "mlp.shared_experts",
        .num_shared_key = "n_shared_experts",
        .first_k_dense = true,
    },
};

}  // namespace mixwright::arch
