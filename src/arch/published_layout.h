// Canonical tensors back into the layout that the architecture's own checkpoints have on disk: the inverse of stored_pieces.
#pragma once

#include <vector>

#include "arch/architecture.h"
#include "checkpoint/writer.h"

namespace mixwright::arch {

/// `tensors`, under the canonical names of `spec` and in any order, as other readers of the architecture look for them:
/// packed where its table says so (phi3's qkv_proj, gpt-oss' gate_up_proj), else as they are. Values do not change. A packed
/// tensor holds one expert in memory while it is written. Error(mismatch) when parts of one packed tensor differ in dtype.
std::vector<checkpoint::OutputTensor> published(const ModelSpec& spec, std::vector<checkpoint::OutputTensor> tensors);

}  // namespace mixwright::arch
