// SmolLM3: Llama of which every fourth layer does not rotate.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture smollm3;
const Architecture smollm3{
    .model_type = "smollm3",
    .hf_class = "SmolLM3ForCausalLM",
    .gguf_name = "smollm3",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .mlp_bias = {.config_key = "mlp_bias"},
    .sliding_window = SlidingWindow::switched_no_rope_layers,
    .no_rope_interval = 4,
    .gguf_permutes_qk = true,
    .default_rope_theta = 2e6,
    .default_tied = true,
};

}  // namespace mixwright::arch
