#include "model/quantize.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"
#include "kernels/quantize.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"
#include "progress.h"

namespace mixwright::model {
namespace {

using kernels::Format;

void quantize_linear(ops::Linear& linear, Format format) {
    if (!linear.weight.defined() || linear.scales.defined()) return;
    at::Tensor source = linear.weight.contiguous();
    if (source.scalar_type() != at::kBFloat16) source = source.to(at::kFloat);
    const std::int64_t rows = source.size(0), cols = source.size(1);
    const kernels::Weights from = ops::kernel_weights({source}, cols);
    ops::Linear quantized = linear;
    quantized.weight = at::empty({rows, kernels::row_bytes(format, cols)}, format == Format::int8 ? at::kChar : at::kByte);
    quantized.scales = format == Format::int8 ? at::empty({rows}, at::kFloat) : at::empty({rows, 2, kernels::int4_groups(cols)}, at::kBFloat16);
    void *values = quantized.weight.mutable_data_ptr(), *scales = quantized.scales.mutable_data_ptr();
    constexpr std::int64_t rows_a_piece = 16;
    ops::share_work((rows + rows_a_piece - 1) / rows_a_piece, [&](std::int64_t piece) {
        kernels::quantize(from, piece * rows_a_piece, std::min(rows, (piece + 1) * rows_a_piece), format, values, scales);
    });
    linear = std::move(quantized);
}

}  // namespace

std::optional<Format> quantization(std::string_view name) {
    if (name.empty()) return std::nullopt;
    if (name == "int8") return Format::int8;
    if (name == "int4") return Format::int4;
    throw Error(ErrorCode::usage, fmt::format("--quant: \"{}\" is not known", printable(name)), "use int8 or int4");
}

void quantize_layer(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights, Format format) {
    visit_linears(spec, layer, weights, [&](const std::string& name, ops::Linear& linear) {
        // Latent attention takes this one apart and multiplies with its parts.
        if (!name.ends_with("kv_b_proj")) quantize_linear(linear, format);
    });
    bind_experts(spec, layer, weights);
}

void quantize_head(ModelWeights& weights, Format) {
    ops::Linear head{weights.lm_head, weights.lm_head_bias};
    quantize_linear(head, Format::int8);
    weights.quantized_head = std::move(head);
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
    quantize_head(model.weights, format);
    // Of an embedding only the rows in use come back.
    const char* head = spec.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    if (const checkpoint::TensorInfo* info = model.files.tensors->find(head)) model.files.tensors->drop(*info);
}

}  // namespace mixwright::model
