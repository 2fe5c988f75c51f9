// Typed access to the fields of tokenizer files, with errors that name the place.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "error.h"
#include "io/json.h"

namespace mixwright::tokenizer {

/// The "type" of a component; Error(malformed) when it has none.
inline const std::string& kind_of(const io::Json& json, std::string_view where) {
    if (json.is_object())
        if (const auto type = json.find("type"); type != json.end() && type->is_string()) return type->get_ref<const std::string&>();
    throw Error(ErrorCode::malformed, fmt::format("{}: expected an object with a \"type\"", where));
}

/// json[key] as T; absent or null: `fallback`. Error(malformed) on another type.
template <class T>
T field_or(const io::Json& json, const char* key, T fallback, std::string_view where) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return fallback;
    bool fits = false;
    if constexpr (std::is_same_v<T, bool>) fits = found->is_boolean();
    else if constexpr (std::is_integral_v<T>) fits = found->is_number_unsigned() || (found->is_number_integer() && found->template get<std::int64_t>() >= 0);
    else if constexpr (std::is_floating_point_v<T>) fits = found->is_number();
    else fits = found->is_string();
    if (!fits) throw Error(ErrorCode::malformed, fmt::format("{}.{}: wrong type (got {})", where, key, found->type_name()));
    return found->get<T>();
}

/// json[key], which must be a string.
inline const std::string& text_field(const io::Json& json, const char* key, std::string_view where) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string())
        throw Error(ErrorCode::malformed, fmt::format("{}.{}: expected a string", where, key));
    return found->get_ref<const std::string&>();
}

/// json[key], which must be an array.
inline const io::Json& array_field(const io::Json& json, const char* key, std::string_view where) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_array())
        throw Error(ErrorCode::malformed, fmt::format("{}.{}: expected an array", where, key));
    return *found;
}

[[noreturn]] inline void refuse_kind(std::string_view where, std::string_view kind) {
    throw Error(ErrorCode::unsupported, fmt::format("{}: the kind \"{}\" is not supported", where, printable(kind)),
                "please report the model this tokenizer belongs to");
}

}  // namespace mixwright::tokenizer
