// Gemma 3 (text): Gemma 2 with q/k norms in place of soft caps, five of six layers behind a window with a rope of their own.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture gemma3_text;
const Architecture gemma3_text{
    .model_type = "gemma3_text",
    .hf_class = "Gemma3ForCausalLM",
    .gguf_name = "gemma3",
    .aliases = {{"hidden_act", "hidden_activation"}},
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .activation = Activation::gelu_tanh,
    .norm = NormForm::rms_plus_one,
    .norm_placement = NormPlacement::around,
    .qk_norm = QkNorm::per_head,
    .attention_scale = AttentionScale::query_scalar,
    .softcaps = true,
    .root_scaled_embedding = true,
    .sliding_window = SlidingWindow::pattern,
    .window_pattern = 6,
    .default_window = 4096,
    .local_rope = true,
    .default_head_dim = 256,
    .default_rope_theta = 1e6,
    .default_tied = true,
};

}  // namespace mixwright::arch
