// A checkpoint seen through its architecture: every weight under its canonical per-expert Hugging Face name, whatever
// the layout on disk (per-expert, fused [E,2F,D], fused transposed [E,D,2F], GGUF). Slices of mapped files stay mapped.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arch/architecture.h"
#include "checkpoint/checkpoint.h"

namespace mixwright::arch {

struct OpenModel {
    checkpoint::Checkpoint checkpoint;                        // of a GGUF: config and tensors in their Hugging Face form
    ModelSpec spec;
    std::shared_ptr<const checkpoint::TensorSource> tensors;  // canonical names
    std::vector<std::string> unused;                          // tensors on disk that the architecture does not know
};

/// Opens a model and maps its tensors to canonical names. Reads headers only.
/// Error(mismatch) lists tensors that are missing or of another shape than the config says.
OpenModel open_model(std::string_view model);

/// The canonical view of an already opened checkpoint.
OpenModel open_model(checkpoint::Checkpoint checkpoint);

/// Gate, up and down of one expert under their canonical per-expert names, also where it shares rows with others.
std::shared_ptr<const checkpoint::TensorSource> expert_tensors(const OpenModel& model, std::int64_t layer, std::int64_t expert);

}  // namespace mixwright::arch
