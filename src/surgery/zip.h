// `zip`: a MoE with smaller or fewer experts, made from the original layer by layer on calibration text. This is the plan
// and the loop; the methods are in zip_methods.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "calibrate/domain_tokens.h"
#include "checkpoint/writer.h"
#include "io/json.h"
#include "model/weights.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

/// What became of one layer.
struct ZippedLayer {
    std::int64_t layer = 0;
    std::vector<std::int64_t> tokens;  // of each expert of the original
    double error = 0;                  // of the block's output on held-out tokens: squared, relative, each token counting by its stream
    double fitted_error = 0;           // the same on the tokens it was fitted to
    double unfitted_error = 0;         // on held-out tokens, before the refit
    double recovery_error = 0;         // mean over source experts of how well each one's own output comes back; NaN when it does not
    std::vector<double> recovered;     // of each source expert: error of its own output, read from its successor; NaN for one nothing is routed to
    std::int64_t starved = 0;          // experts with fewer fitting tokens than neurons
    std::string note;                  // what was chosen, for the table
    std::optional<arch::ZippedExperts> zipped;  // of ZipFormat::zipped
    std::optional<TypedShares> typed;

    io::Json json() const;
};

struct ZipPlan {
    arch::ModelSpec spec;              // of the result; zip_layers() fills in what experts share
    io::Json config;                   // config.json of the result, but for that
};

/// What the result will be. Error(unsupported), Error(usage) when the method cannot do it for this model.
ZipPlan plan_zip(const arch::OpenModel& model, const ZipOptions& options);

/// Passes the text through the model layer by layer and makes every MoE layer's new weights, each in a file of its own in
/// `workplace` (with what was measured, so that an interrupted run goes on behind the last one). `identity` changes
/// whenever the result would.
std::vector<ZippedLayer> zip_layers(const arch::OpenModel& model, const calibrate::DomainTokens& text, ZipPlan& plan,
                                    const ZipOptions& options, const model::Placement& placement, const std::filesystem::path& workplace,
                                    const std::string& identity);

/// The output: new experts and routers out of `workplace`, everything else as the original has it; the transformers module of a
/// zipped model with it, and zip_report.json: method, share kept and `layers`.
checkpoint::OutputPlan zip_output(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers,
                                  const std::filesystem::path& workplace);

/// Share of the experts' bytes that `to` has of `from`'s.
double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to);
/// How much faster at best a token can be computed, when time is the bytes of weights it reads: from the mean of what `layers` say
/// is read. 1 without figures. `shared` counts rows that two active experts share once.
double speed_bound(const arch::ModelSpec& from, const std::vector<ZippedLayer>& layers, bool shared);

}  // namespace mixwright::surgery
