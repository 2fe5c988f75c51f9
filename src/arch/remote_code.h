// The module that teaches transformers to run a form it does not know: chained and zipped mixtures.
#pragma once

#include <string>

#include "arch/architecture.h"

namespace mixwright::arch {

/// Code that goes with the weights of a model. A default one, of no file, when transformers needs none.
struct RemoteCode {
    std::string file;      // "modeling_chained.py"
    std::string text;
    io::Json auto_map;     // of config.json
};
RemoteCode remote_code(const ModelSpec& spec);

}  // namespace mixwright::arch
