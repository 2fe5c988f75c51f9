// StarCoder2: LayerNorms, biases everywhere and a plain MLP.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture starcoder2;
const Architecture starcoder2{
    .model_type = "starcoder2",
    .hf_class = "Starcoder2ForCausalLM",
    .gguf_name = "starcoder2",
    .aliases = {{"rms_norm_eps", "norm_epsilon"}},
    .qkv_bias = {.by_default = true, .config_key = "use_bias"},
    .o_bias = {.by_default = true, .config_key = "use_bias"},
    .mlp_bias = {.by_default = true, .config_key = "use_bias"},
    .activation = Activation::gelu_tanh,
    .mlp = MlpForm::plain,
    .norm = NormForm::layer,
    .sliding_window = SlidingWindow::always,
    .default_rms_norm_eps = 1e-5,
    .default_tied = true,
};

}  // namespace mixwright::arch
