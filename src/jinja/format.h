// The three ways Python builds text out of values: "%s" % value, "{}".format(value), json.dumps(value).
#pragma once

#include "jinja/arguments.h"

namespace mixwright::jinja {

/// "%-5s %d" % value; a tuple gives one value a conversion, a dict gives %(name)s.
String printf_format(std::string_view format, const Value& value);
/// "{} {name:>5}".format(...)
String brace_format(std::string_view format, const Arguments& arguments);

struct JsonStyle {
    std::optional<String> indent;  // of one level
    String item_separator = ", ", key_separator = ": ";
    bool ensure_ascii = false, sort_keys = false;
};
/// json.dumps; Failure on what JSON cannot say.
String to_json(const Value& value, const JsonStyle& style);

}  // namespace mixwright::jinja
