// DeepSeek-MoE (v1): Llama attention, routed experts, shared experts added without a gate, the first layers dense.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture deepseek;
const Architecture deepseek{
    .model_type = "deepseek",
    .hf_class = "DeepseekForCausalLM",
    .gguf_name = "deepseek",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .gguf_permutes_qk = true,
    .moe = MoeTable{
        .num_experts_keys = {"n_routed_experts"},
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = NormTopk::config_false,
        .shared_expert = "mlp.shared_experts",
        .num_shared_key = "n_shared_experts",
        .first_k_dense = true,
    },
};

}  // namespace mixwright::arch
