// OLMoE: 64 small experts with raw softmax weights, and a norm of the whole of q and k.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture olmoe;
const Architecture olmoe{
    .model_type = "olmoe",
    .hf_class = "OlmoeForCausalLM",
    .gguf_name = "olmoe",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .qk_norm = QkNorm::whole,
    .clips_qkv = true,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .num_experts_keys = {"num_experts", "num_local_experts"},
        .expert_width_key = "intermediate_size",
        .norm_topk = NormTopk::config_false,
    },
};

}  // namespace mixwright::arch
