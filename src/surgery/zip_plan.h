// What `zip` will make of a model: decided from the config alone, before any weight is read.
#pragma once

#include "arch/canonical.h"
#include "io/json.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

struct ZipPlan {
    arch::ModelSpec spec;              // of the result; zip_layers() fills in what experts share
    io::Json config;                   // config.json of the result, but for that
};

/// What the result will be. Error(unsupported), Error(usage) when the method cannot do it for this model.
ZipPlan plan_zip(const arch::OpenModel& model, const ZipOptions& options);

/// Share of the experts' bytes that `to` has of `from`'s.
double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to);
/// The same of one MoE layer.
double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to, std::int64_t layer);

}  // namespace mixwright::surgery
