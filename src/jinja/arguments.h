// Arguments of a call, and how functions, filters and methods take them: by position or by name, as in Python.
#pragma once

#include <initializer_list>

#include "jinja/value.h"

namespace mixwright::jinja {

struct Arguments {
    Vector<Value> positional;
    Vector<std::pair<String, Value>> named;

    bool empty() const noexcept { return positional.empty() && named.empty(); }
};

/// One slot per parameter; empty where the call leaves it out.
class Bound {
public:
    /// Failure when arguments are missing (the first `required` parameters are needed), too many or unknown.
    Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> parameters,
          std::size_t required = 0);

    const std::optional<Value>& operator[](std::size_t i) const { return slots_[i]; }
    Value get(std::size_t i, Value fallback) const { return slots_[i] ? *slots_[i] : std::move(fallback); }
    bool flag(std::size_t i, bool fallback = false) const { return slots_[i] ? truth(*slots_[i]) : fallback; }
    std::int64_t integer(std::size_t i, std::int64_t fallback) const;
    /// The bytes of a text argument; Failure when it is none. Valid while the Bound lives.
    std::string_view text(std::size_t i, std::string_view fallback = {}) const;

private:
    std::string_view function_;
    Vector<std::optional<Value>> slots_;
};

}  // namespace mixwright::jinja
