#include "model/model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"

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
    if (requested.empty()) return has_cuda ? at::Device(at::kCUDA) : at::Device(at::kCPU);
    std::optional<at::Device> device;
    try {
        device.emplace(std::string(requested));
    } catch (const c10::Error&) {
        device.reset();
    }
    if (!device || !(device->is_cpu() || device->is_cuda()))
        throw Error(ErrorCode::usage, fmt::format("--device: \"{}\" is not a device", printable(requested)), "use cpu, cuda or cuda:N");
    if (device->is_cuda() && !has_cuda)
        throw Error(ErrorCode::usage, fmt::format("--device {}: this libtorch sees no CUDA device", requested),
                    "install a CUDA wheel of torch, or use --device cpu");
    return *device;
}

Model load_model(arch::OpenModel files, Placement placement) {
    ModelWeights weights = load_all(files, placement);
    Decoder decoder(files.spec);
    return {std::move(files), placement, std::move(decoder), std::move(weights)};
}

}  // namespace mixwright::model
