// Tokens -> tree, by Jinja's grammar.
#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace mixwright::jinja {

/// Failure(syntax) with the line, or Failure(budget) when brackets or blocks nest too deeply. Needs an active Budget.
Tree parse(std::string_view source);

}  // namespace mixwright::jinja
