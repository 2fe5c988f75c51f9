// Gemma 2: norms around attention and MLP, soft-capped scores and logits, every other layer behind a window.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture gemma2;
const Architecture gemma2{
    .model_type = "gemma2",
    .hf_class = "Gemma2ForCausalLM",
    .gguf_name = "gemma2",
    .aliases = {{"hidden_act", "hidden_activation"}},
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .activation = Activation::gelu_tanh,
    .norm = NormForm::rms_plus_one,
    .norm_placement = NormPlacement::around,
    .attention_scale = AttentionScale::query_scalar,
    .softcaps = true,
    .default_attention_softcap = 50.0,
    .default_logit_softcap = 30.0,
    .root_scaled_embedding = true,
    .sliding_window = SlidingWindow::pattern,
    .window_pattern = 2,
    .default_window = 4096,
    .default_head_dim = 256,
    .default_tied = true,
};

}  // namespace mixwright::arch
