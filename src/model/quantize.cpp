#include "model/quantize.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"
#include "ops/quantized_linear.h"
#include "progress.h"

namespace mixwright::model {
namespace {

using kernels::Format;

void quantize_linear(ops::Linear& linear, Format format) {
    if (linear.weight.defined() && !linear.scales.defined()) linear = ops::quantized(linear, format);
}

void quantize_layer(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights, Format format) {
    visit_linears(spec, layer, weights, [&](const std::string& name, ops::Linear& linear) {
        // Latent attention takes this one apart and multiplies with its parts.
        if (!name.ends_with("kv_b_proj")) quantize_linear(linear, format);
    });
    // Norms, routers and biases move out of the file, whose pages are given back: a large one would come back whole for a norm.
    visit_layer_tensors(spec, layer, weights, [](const std::string&, at::Tensor& tensor) {
        if (tensor.defined() && tensor.is_floating_point()) tensor = tensor.clone();
    });
    bind_experts(spec, layer, weights);
}

void quantize_head(ModelWeights& weights) {
    ops::Linear head{weights.lm_head, weights.lm_head_bias};
    quantize_linear(head, Format::int8);
    weights.quantized_head = std::move(head);
}

}  // namespace

std::optional<Format> quantization(std::string_view name) {
    if (name.empty()) return std::nullopt;
    if (name == "int8") return Format::int8;
    if (name == "int4") return Format::int4;
    throw Error(ErrorCode::usage, fmt::format("--quant: \"{}\" is not known", printable(name)), "use int8 or int4");
}

void quantize(Model& model, Format format) {
    if (!model.placement.device.is_cpu())
        throw Error(ErrorCode::unsupported, fmt::format("--quant on {}: quantised weights run on the CPU", model.placement.device.str()), "add --device cpu");
    const arch::ModelSpec& spec = model.decoder.spec();
    Progress progress("quantising", static_cast<std::uint64_t>(spec.num_layers), "layers");
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
        quantize_layer(spec, layer, model.weights.layers[static_cast<std::size_t>(layer)], format);
        drop_layer(model.files, layer);
        progress.advance();
    }
    quantize_head(model.weights);
    // Of an embedding only the pages in use come back.
    const char* head = spec.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    if (const checkpoint::TensorInfo* info = model.files.tensors->find(head)) model.files.tensors->drop(*info);
}

}  // namespace mixwright::model
