// A model that is on no disk yet: its config, and weights drawn at random when they are asked for.
#pragma once

#include <cstdint>
#include <string>

#include "arch/canonical.h"

namespace mixwright::arch {

/// The model that `config` (a config.json as text editors and recipes write it, `source` naming it) describes, with weights as
/// transformers initialises them: matrices normal with standard deviation `initializer_range` (0.02 when the config does not
/// say), norms one, biases zero. Every value depends on seed, tensor and element alone, on every machine. f32 until written.
/// The config is completed: both spellings of transformers, `architectures`. Errors are those of parse_config.
OpenModel fresh_model(const io::Json& config, std::string_view source, std::uint64_t seed);

}  // namespace mixwright::arch
