#include "arch/gguf_metadata.h"

#include <fmt/format.h>

#include <cmath>

#include "error.h"

namespace mixwright::arch {

using io::Json;

double as_written(double value) {
    const auto single = static_cast<float>(value);
    return static_cast<double>(single) == value ? std::stod(fmt::format("{}", single)) : value;
}

GgufMetadata::GgufMetadata(const Json& values, std::string_view source) : values_(values), source_(source) { architecture_ = text("general.architecture"); }

const Json* GgufMetadata::find(std::string_view key) const {
    const auto it = values_.find(full(key));
    return it == values_.end() ? nullptr : &*it;
}

std::optional<std::int64_t> GgufMetadata::integer(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const Json& number = uniform(*value, key);
    constexpr std::int64_t limit = std::int64_t{1} << 31;  // products of two stay harmless
    if (!number.is_number_integer() || number > limit || number < -limit) wrong(key, *value, "an integer");
    return number.get<std::int64_t>();
}

std::int64_t GgufMetadata::size(std::string_view key) const {
    const auto value = integer(key);
    if (!value) missing(key);
    if (*value <= 0) wrong(key, *value, "a positive integer");
    return *value;
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !std::isfinite(value->get<double>())) wrong(key, *value, "a finite number");
    return as_written(value->get<double>());
}

std::optional<bool> GgufMetadata::boolean(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) wrong(key, *value, "a boolean");
    return value->get<bool>();
}

std::string GgufMetadata::text(std::string_view key, std::optional<std::string> otherwise) const {
    const Json* value = find(key);
    if (value == nullptr && otherwise) return *otherwise;
    if (value == nullptr) missing(key);
    if (!value->is_string()) wrong(key, *value, "a string");
    return value->get<std::string>();
}

void GgufMetadata::wrong(std::string_view key, const Json& value, const char* expected) const {
    throw Error(ErrorCode::malformed, fmt::format("{}: {}: got {}, expected {}", source_, printable(full(key)),
                                                  printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60), expected));
}

void GgufMetadata::unsupported(const std::string& what) const { throw Error(ErrorCode::unsupported, fmt::format("{}: {}", source_, what)); }

const Json& GgufMetadata::uniform(const Json& value, std::string_view key) const {
    if (!value.is_array() || value.empty()) return value;
    for (const Json& element : value)
        if (element != value.front()) unsupported(fmt::format("{} differs from layer to layer", printable(full(key))));
    return value.front();
}

void GgufMetadata::missing(std::string_view key) const {
    throw Error(ErrorCode::malformed, fmt::format("{}: the metadata has no {}", source_, printable(full(key))));
}

}  // namespace mixwright::arch
