// GLM-4.5 and 4.6: grouped attention that rotates half of each head, and the experts of DeepSeek-V3.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture glm4_moe;
const Architecture glm4_moe{
    .model_type = "glm4_moe",
    .hf_class = "Glm4MoeForCausalLM",
    .gguf_name = "glm4moe",
    .qkv_bias = {.config_key = "attention_bias"},
    .qk_norm = QkNorm::per_head,
    .qk_norm_key = "use_qk_norm",
    .default_partial_rotary = 0.5,
    .default_rms_norm_eps = 1e-5,
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
