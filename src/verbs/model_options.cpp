#include "verbs/model_options.h"

#include "model/quantize.h"
#include "verbs/resource_use.h"

namespace mixwright::verbs {

model::Placement placement_for(const CommonOptions& common, const arch::OpenModel& model, const std::string& default_dtype) {
    return {model::compute_dtype(common.dtype.empty() ? default_dtype : common.dtype, model), model::compute_device(common.device)};
}

void declare_quantization(CLI::App& app, ModelOptions& options) {
    app.add_option("--quant", options.quant, "weights in fewer bits: int8, or int4 in groups of 32 (the embedding stays)");
}

void declare_streaming(CLI::App& app, ModelOptions& options) {
    app.add_flag("--stream-layers", options.stream_layers, "one layer in memory at a time, for models larger than RAM")->excludes("--quant");
}

model::Model load_model(const CommonOptions& common, arch::OpenModel files, const ModelOptions& options, const std::string& default_dtype) {
    const auto format = model::quantization(options.quant);
    const model::Placement placement = placement_for(common, files, default_dtype);
    release_startup_memory();
    keep_freed_memory();
    if (options.stream_layers) return model::stream_model(std::move(files), placement);
    model::Model model = model::load_model(std::move(files), placement);
    if (format) model::quantize(model, *format);
    return model;
}

}  // namespace mixwright::verbs
