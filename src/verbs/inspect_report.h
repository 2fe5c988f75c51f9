// What `inspect` finds out about a model, before anything is printed.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/tensor_scan.h"
#include "io/json.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::verbs {

struct Problem {
    bool fatal = false;  // the model cannot be used as it is
    std::string what;    // printable
};

struct RoleTotals {
    std::uint64_t tensors = 0, parameters = 0, bytes = 0;
};

struct InspectReport {
    checkpoint::Checkpoint checkpoint;
    std::shared_ptr<const checkpoint::TensorSource> tensors;  // canonical names where the model opened, else those of the file
    std::optional<arch::ModelSpec> spec;                      // when the config could be read
    std::map<std::string, RoleTotals> roles;                  // "attention", "expert", ...; "other" for what the architecture does not know
    std::map<std::string, checkpoint::StoredType> stored;     // by type on disk
    std::optional<tokenizer::Tokenizer> tokenizer;            // when there is one and it could be read
    std::optional<std::string> chat_template;
    io::Json adapter;                                         // adapter_config.json of an adapter directory, else null
    std::map<std::string, checkpoint::TensorScan> scans;      // by name, after verify()
    std::vector<Problem> problems;

    std::uint64_t num_parameters() const;
    bool usable() const;
};

/// Reads headers and configs only. Errors of the model become problems; Error is thrown where there is nothing to report on.
InspectReport inspect_model(const std::string& path);

/// Reads every weight and adds what is wrong with the values: NaN, infinities, routers that cannot tell experts apart.
void verify_weights(InspectReport& report, bool digests);

std::string_view role_name(arch::TensorRole role);
std::string_view format_name(checkpoint::Format format);

}  // namespace mixwright::verbs
