// Regular expressions of tokenizer.json are written for Oniguruma. This rewrites them for PCRE2, so that both find the
// same matches; it knows syntax only and runs nothing.
#pragma once

#include <string>
#include <string_view>

namespace mixwright::tokenizer {

/// The PCRE2 spelling of `pattern` (to be compiled with UTF, UCP and MULTILINE).
/// Error(unsupported), naming `source`, for syntax that has no counterpart; Error(malformed) for one that is broken.
std::string translate_oniguruma(std::string_view pattern, std::string_view source);

}  // namespace mixwright::tokenizer
