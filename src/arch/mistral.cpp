// Mistral 7B and its kin: Llama with an optional sliding window.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture mistral;
const Architecture mistral{
    .model_type = "mistral",
    .hf_class = "MistralForCausalLM",
    .gguf_name = "llama",
    .sliding_window = SlidingWindow::always,
    .gguf_permutes_qk = true,
};

}  // namespace mixwright::arch
