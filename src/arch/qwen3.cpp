// Qwen3 dense: per-head RMSNorm of q and k before rope.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture qwen3;
const Architecture qwen3{
    .model_type = "qwen3",
    .hf_class = "Qwen3ForCausalLM",
    .gguf_name = "qwen3",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .qk_norm = QkNorm::per_head,
    .sliding_window = SlidingWindow::switched_from_layer,
    .default_head_dim = 128,
};

}  // namespace mixwright::arch
