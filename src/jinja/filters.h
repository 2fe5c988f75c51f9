// The names a template can put behind "|" and "is".
#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace mixwright::jinja {

/// Null when there is none of that name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

/// The filters of sequence_filters.cpp.
Filter find_sequence_filter(std::string_view name);

}  // namespace mixwright::jinja
