// gpt-oss: biases everywhere, attention sinks, every other layer behind a window, a clamped SwiGLU; experts in MXFP4.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture gpt_oss;
const Architecture gpt_oss{
    .model_type = "gpt_oss",
    .hf_class = "GptOssForCausalLM",
    .gguf_name = "gpt-oss",
    .qkv_bias = {.by_default = true, .config_key = "attention_bias"},
    .o_bias = {.by_default = true, .config_key = "attention_bias"},
    .activation = Activation::clamped_swiglu,
    .attention_sinks = true,
    .sliding_window = SlidingWindow::pattern,
    .window_pattern = 2,
    .default_window = 128,
    .default_head_dim = 64,
    .default_rope_theta = 150000.0,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .router = "mlp.router.weight",
        .num_experts_keys = {"num_local_experts", "num_experts"},
        .expert_width_key = "intermediate_size",
        .router_bias = true,
        .expert_bias = true,
        .norm_topk = NormTopk::always,
    },
    .packed = {
        {.name = "mlp.experts.gate_up_proj", .parts = {"gate_proj.weight", "up_proj.weight"}, .per_expert = true, .transposed = true, .interleaved = true},
        {.name = "mlp.experts.gate_up_proj_bias", .parts = {"gate_proj.bias", "up_proj.bias"}, .per_expert = true, .interleaved = true},
        {.name = "mlp.experts.down_proj", .parts = {"down_proj.weight"}, .per_expert = true, .transposed = true},
        {.name = "mlp.experts.down_proj_bias", .parts = {"down_proj.bias"}, .per_expert = true},
        // As the published checkpoints hold them, in MXFP4.
        {.name = "mlp.experts.gate_up_proj_blocks", .parts = {"gate_proj.weight", "up_proj.weight"}, .per_expert = true, .interleaved = true},
        {.name = "mlp.experts.down_proj_blocks", .parts = {"down_proj.weight"}, .per_expert = true},
    },
};

}  // namespace mixwright::arch
