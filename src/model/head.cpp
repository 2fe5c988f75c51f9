#include "model/head.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/vocabulary_loss.h"

namespace mixwright::model {

ops::HeadForm head_form(const Decoder& decoder, const ModelWeights& weights) {
    const arch::ModelSpec& spec = decoder.spec();
    return {.bias = weights.lm_head_bias, .divisor = spec.logits_divisor, .softcap = spec.logit_softcap};
}

at::Tensor token_losses(const Decoder& decoder, const ModelWeights& weights, const at::Tensor& hidden_ND, const at::Tensor& targets_N) {
    constexpr std::int64_t chunk = 256;  // times a vocabulary of 150,000 in f32: 150 MB
    at::Tensor losses = at::empty({hidden_ND.size(0)}, hidden_ND.options().dtype(at::kFloat));
    for (std::int64_t begin = 0; begin < hidden_ND.size(0); begin += chunk) {
        const std::int64_t n = std::min(chunk, hidden_ND.size(0) - begin);
        losses.narrow(0, begin, n).copy_(ops::token_losses(decoder.logits(weights, hidden_ND.narrow(0, begin, n)), targets_N.narrow(0, begin, n)));
    }
    return losses;
}

}  // namespace mixwright::model
