// Attributes of built-in values: "x".split, {}.items, namespaces, loops.
#pragma once

#include "jinja/arguments.h"

namespace mixwright::jinja {

/// What getattr(object, name) finds; a method that would change the object is an undefined value that refuses calls.
std::optional<Value> find_method(const Value& object, std::string_view name);

/// Pieces that filters share with methods.
Vector<Value> split_lines(std::string_view text, bool keep_ends = false);
String replace_all(std::string_view text, std::string_view from, std::string_view to, std::int64_t limit);
std::string_view strip_set(std::string_view text, std::string_view characters, bool left, bool right);
String upper(std::string_view text);
String lower(std::string_view text);
String capitalize(std::string_view text);
bool is_upper_text(std::string_view text);
bool is_lower_text(std::string_view text);

}  // namespace mixwright::jinja
