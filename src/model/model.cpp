#include "model/model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"
#include "progress.h"

namespace mixwright::model {

at::ScalarType compute_dtype(std::string_view requested, const arch::OpenModel& model) {
    if (requested.empty()) {
        const std::optional<Dtype> own = model.spec.dtype;
        return own && is_floating(*own) && dtype_bytes(*own) >= 2 ? scalar_type(*own) : at::kFloat;
    }
    const auto dtype = dtype_from_name(requested);
    if (!dtype || !is_floating(*dtype) || dtype_bytes(*dtype) < 2)
        throw Error(ErrorCode::usage, fmt::format("--dtype: \"{}\" is not a compute type", printable(requested)),
                    "use bfloat16, float16, float32 or float64");
    return scalar_type(*dtype);
}

at::Device compute_device(std::string_view requested) {
    const bool has_cuda = at::globalContext().hasCUDA();
    std::optional<at::Device> device;
    try {
        device.emplace(requested.empty() ? (has_cuda ? "cuda" : "cpu") : std::string(requested));
    } catch (const c10::Error&) {
        device.reset();
    }
    if (!device || !(device->is_cpu() || device->is_cuda()))
        throw Error(ErrorCode::usage, fmt::format("--device: \"{}\" is not a device", printable(requested)), "use cpu, cuda or cuda:N");
    if (device->is_cuda() && !has_cuda)
        throw Error(ErrorCode::usage, fmt::format("--device {}: this libtorch sees no CUDA device", requested),
                    "install a CUDA wheel of torch, or use --device cpu");
    // f32 is f32, whatever the environment tells libtorch about TF32.
    if (device->is_cuda()) at::globalContext().setAllowTF32CuBLAS(false);
    return *device;
}

at::Tensor Model::run(const at::Tensor& ids, const Step& step) const {
    if (!streamed) return decoder.run(weights, ids, step);
    at::Tensor hidden = decoder.embed(weights, ids);
    for (std::int64_t layer = 0; layer < decoder.spec().num_layers; ++layer) {
        check_interrupted();
        hidden = decoder.run_layer(load_layer(files, layer, placement), layer, hidden, step);
        drop_layer(files, layer);
    }
    step.advance(ids.size(1));
    return decoder.final_norm(weights, hidden);
}

Model stream_model(arch::OpenModel files, Placement placement) {
    ModelWeights weights = load_outer(files, placement);
    Decoder decoder(files.spec);
    return {std::move(files), placement, std::move(decoder), std::move(weights), true};
}

Model load_model(arch::OpenModel files, Placement placement) {
    ModelWeights weights = load_all(files, placement);
    Decoder decoder(files.spec);
    return {std::move(files), placement, std::move(decoder), std::move(weights)};
}

}  // namespace mixwright::model
