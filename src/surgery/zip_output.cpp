#include "surgery/zip_output.h"

#include <fmt/format.h>

#include <map>

#include "arch/zipped.h"
#include "checkpoint/safetensors_source.h"
#include "error.h"
#include "surgery/moe_plan.h"
#include "surgery/remote_code.h"

namespace mixwright::surgery {
namespace {

namespace fs = std::filesystem;

std::string zip_report(const arch::OpenModel& model, const ZipOptions& options, const std::vector<ZippedLayer>& layers) {
    io::Json report{{"source", model.checkpoint.path.lexically_normal().filename().string()}, {"method", zip_method_name(options.method)}, {"budget", options.budget == ZipBudget::loss ? "loss" : "uniform"}, {"keep", options.keep}, {"layers", io::Json::array()}};
    for (const ZippedLayer& layer : layers) report["layers"].push_back(layer.json());
    return report.dump(1, ' ', false, io::Json::error_handler_t::replace) + "\n";
}

}  // namespace

checkpoint::OutputPlan zip_output(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers, const fs::path& workplace) {
    std::map<std::int64_t, std::shared_ptr<const checkpoint::TensorSource>> files;
    checkpoint::OutputPlan output;
    for (const arch::TensorSlot& slot : arch::tensor_slots(plan.spec)) {
        if (!is_made(slot.role)) {
            output.tensors.push_back(copy_tensor(slot.name, model.tensors, model.tensors->at(slot.name)));
            continue;
        }
        auto& file = files[slot.layer];
        if (!file) file = checkpoint::open_safetensors_file(layer_file(workplace, slot.layer));
        output.tensors.push_back(copy_tensor(slot.name, file, file->at(slot.name)));
    }
    io::Json config = plan.config;
    if (options.format == ZipFormat::zipped) {
        for (const arch::LayerSpec& layer : plan.spec.layers) config["zipped_experts"].push_back(layer.zipped ? arch::zipped_json(*layer.zipped) : io::Json());
        if (arch::parse_config(config, "config.json of the result").layers != plan.spec.layers)
            throw Error(ErrorCode::unsupported, fmt::format("{}: its config cannot say what the zipped model would be", model.checkpoint.name));
    }
    add_remote_code(plan.spec, output, config);
    output.config = config.dump(2) + "\n";
    output.files.push_back({"zip_report.json", zip_report(model, options, layers)});
    output.inputs = {model.checkpoint.path};
    return output;
}

}  // namespace mixwright::surgery
