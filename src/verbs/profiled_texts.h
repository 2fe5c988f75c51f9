// Texts as `profile` looks at them, and the page that shows it: for the verbs that report on routing.
#pragma once

#include <string>
#include <vector>

#include "arch/canonical.h"
#include "calibrate/profile.h"

namespace mixwright::verbs {

/// Each of `paths` as a text of its own, `tokens` of each in sequences of `context`, with a sample to be shown token by token.
std::vector<calibrate::ProfiledText> profiled_texts(const std::string& model_name, const arch::OpenModel& model, const std::vector<std::string>& paths,
                                                    std::int64_t tokens, std::int64_t context);

/// Before the work for it begins: Error(usage) when `path` is a folder, or lies in one that is not there.
void check_page(const std::string& path);
/// Writes the page to `path`. Error(io) names it.
void write_page(const std::string& path, const std::string& page);

/// The last part of a path that may end in a slash.
std::string last_name(const std::string& path);

}  // namespace mixwright::verbs
