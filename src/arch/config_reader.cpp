#include "arch/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "error.h"

namespace mixwright::arch {

const io::Json* find_path(const io::Json& object, std::string_view path) {
    const io::Json* at = &object;
    while (!path.empty()) {
        const std::string_view step = path.substr(0, path.find('.'));
        path.remove_prefix(std::min(path.size(), step.size() + 1));
        if (!at->is_object() || !at->contains(step)) return nullptr;
        at = &(*at)[step];
    }
    return at;
}

ConfigReader::ConfigReader(const io::Json& object, std::string source) : object_(object), source_(std::move(source)) {
    if (!object_.is_object())
        throw Error(ErrorCode::malformed, fmt::format("{}: expected a JSON object, got {}", source_, object_.type_name()));
}

void ConfigReader::fail(std::string_view key, std::string_view problem) const {
    throw Error(ErrorCode::malformed, fmt::format("{}: {}: {}", source_, key, problem));
}

const io::Json* ConfigReader::find(std::string_view key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::int64_t ConfigReader::as_integer(std::string_view key, const io::Json& value, std::int64_t min, std::int64_t max) const {
    // Some writers store whole numbers as floats (4096.0).
    const bool whole = value.is_number_integer() ||
                       (value.is_number_float() && std::nearbyint(value.get<double>()) == value.get<double>() &&
                        std::abs(value.get<double>()) < 1e15);
    if (!whole) fail(key, fmt::format("expected a whole number, got {}", printable(value.dump(), 60)));
    const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX;
    const std::int64_t number = huge ? INT64_MAX : value.get<std::int64_t>();
    if (number < min || number > max)
        fail(key, fmt::format("out of range (got {}, allowed {} to {})", printable(value.dump(), 60), min, max));
    return number;
}

double ConfigReader::as_number(std::string_view key, const io::Json& value, double min, double max) const {
    if (!value.is_number()) fail(key, fmt::format("expected a number, got {}", printable(value.dump(), 60)));
    const double number = value.get<double>();
    if (!(number >= min && number <= max)) fail(key, fmt::format("out of range (got {}, allowed {} to {})", number, min, max));
    return number;
}

std::optional<std::int64_t> ConfigReader::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    const io::Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    return as_integer(key, *value, min, max);
}

std::optional<double> ConfigReader::number(std::string_view key, double min, double max) const {
    const io::Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    return as_number(key, *value, min, max);
}

std::optional<bool> ConfigReader::boolean(std::string_view key) const {
    const io::Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) fail(key, fmt::format("expected true or false, got {}", printable(value->dump(), 60)));
    return value->get<bool>();
}

std::optional<std::string> ConfigReader::text(std::string_view key) const {
    const io::Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail(key, fmt::format("expected a string, got {}", printable(value->dump(), 60)));
    return value->get<std::string>();
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key, std::int64_t min, std::int64_t max) const {
    const io::Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_array()) return {as_integer(key, *value, min, max)};
    std::vector<std::int64_t> result;
    for (const io::Json& item : *value) result.push_back(as_integer(key, item, min, max));
    return result;
}

std::vector<double> ConfigReader::numbers(std::string_view key, double min, double max, std::size_t max_count) const {
    const io::Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_array()) fail(key, "expected a list of numbers");
    if (value->size() > max_count) fail(key, fmt::format("too long (got {} numbers, limit {})", value->size(), max_count));
    std::vector<double> result;
    for (const io::Json& item : *value) result.push_back(as_number(key, item, min, max));
    return result;
}

std::int64_t ConfigReader::require_integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    const auto value = integer(key, min, max);
    if (!value) fail(key, "is missing");
    return *value;
}

}  // namespace mixwright::arch
