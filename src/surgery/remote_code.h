// The transformers module of an output that needs one.
#pragma once

#include "arch/architecture.h"
#include "checkpoint/writer.h"
#include "io/json.h"

namespace mixwright::surgery {

/// Adds to `plan` and `config` the code that transformers needs for `spec`, when it needs any.
void add_remote_code(const arch::ModelSpec& spec, checkpoint::OutputPlan& plan, io::Json& config);

}  // namespace mixwright::surgery
