// Llama 4 (text): experts that see weighed inputs beside a shared one, chunked attention, layers that do not rotate.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture llama4_text;
const Architecture llama4_text{
    .model_type = "llama4_text",
    .hf_class = "Llama4ForCausalLM",
    .gguf_name = "llama4",
    .aliases = {{"intermediate_size", "intermediate_size_mlp"}, {"moe_intermediate_size", "intermediate_size"}},
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .mlp_prefix = "feed_forward",
    .qk_norm = QkNorm::l2_after_rope,
    .qk_norm_key = "use_qk_norm",
    .qk_norm_by_default = true,
    .temperature_tuning = true,
    .sliding_window = SlidingWindow::chunks,
    .default_window = 8192,
    .rope_interleaved = true,
    .no_rope_interval = 4,
    .default_head_dim = 128,
    .default_rope_theta = 500000.0,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .router = "feed_forward.router.weight",
        .experts = "feed_forward.experts",
        .num_experts_keys = {"num_local_experts", "num_experts"},
        .expert_width_key = "moe_intermediate_size",
        .scores = RouterScores::sigmoid,
        .weigh_input = true,
        .norm_topk = NormTopk::never,
        .shared_expert = "feed_forward.shared_expert",
        .default_num_shared = 1,
        .interleaved = true,
    },
    .packed = {
        {.name = "feed_forward.experts.gate_up_proj", .parts = {"gate_proj.weight", "up_proj.weight"}, .per_expert = true, .transposed = true},
        {.name = "feed_forward.experts.down_proj", .parts = {"down_proj.weight"}, .per_expert = true, .transposed = true},
    },
};

}  // namespace mixwright::arch
