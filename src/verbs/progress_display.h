// How progress is shown: a bar with rate and ETA on a terminal, plain lines elsewhere, JSON lines on request.
#pragma once

#include "verbs/verb.h"

namespace mixwright::verbs {

/// Installs the progress sink that `common` asks for. Everything goes to stderr.
void install_progress_display(const CommonOptions& common);

}  // namespace mixwright::verbs
