// Python's arithmetic on values.
#pragma once

#include "jinja/ast.h"

namespace mixwright::jinja {

/// Failure when the types do not go together, on division by zero, or where an integer leaves 64 bits.
Value arithmetic(Operator op, const Value& a, const Value& b);
bool compare(Comparison comparison, const Value& a, const Value& b);
Value negate(const Value& value);
/// `text` with & < > ' " replaced.
String escape_html(std::string_view text);

}  // namespace mixwright::jinja
