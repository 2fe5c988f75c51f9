// What the verbs that run a model share: the model argument, its device and dtype.
#pragma once

#include <string>

#include "model/model.h"
#include "verbs/verb.h"

namespace mixwright::verbs {

/// Where and in which type to compute: --device and --dtype, or `default_dtype` ("" for the model's own).
model::Placement placement_for(const CommonOptions& common, const arch::OpenModel& model, const std::string& default_dtype = {});

/// How a model is kept in memory.
struct ModelOptions {
    std::string quant;
    bool stream_layers = false;
};

/// --quant
void declare_quantization(CLI::App& app, ModelOptions& options);
/// --stream-layers; after declare_quantization, because the two exclude each other.
void declare_streaming(CLI::App& app, ModelOptions& options);

/// Loads a model as the options say.
model::Model load_model(const CommonOptions& common, arch::OpenModel files, const ModelOptions& options, const std::string& default_dtype = {});

}  // namespace mixwright::verbs
