#include "jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

/// How one value is to be laid out.
struct Spec {
    String fill = " ";
    char align = 0, sign = '-', type = 0;
    bool alternate = false, zero = false, comma = false;
    std::int64_t width = 0, precision = -1;
};

constexpr std::int64_t kMaxPrecision = 400;  // more digits than any double has

String pad(String&& text, const Spec& spec, char default_align) {
    const auto length = static_cast<std::int64_t>(count_code_points(text));
    if (spec.width <= length) return std::move(text);
    if (static_cast<std::size_t>(spec.width) > Budget::current()->limits().memory) type_error("the width is too large");
    const auto room = static_cast<std::size_t>(spec.width - length);
    const char align = spec.align ? spec.align : default_align;
    const std::size_t left = align == '>' ? room : align == '^' ? room / 2 : align == '=' ? 0 : 0;
    if (align == '=') {
        const std::size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ') ? 1 : 0;
        return text.insert(sign, room, spec.fill[0]), std::move(text);
    }
    String out;
    for (std::size_t i = 0; i < left; ++i) out += spec.fill;
    out += text;
    for (std::size_t i = left; i < room; ++i) out += spec.fill;
    return out;
}

String with_sign(bool negative, String&& digits, const Spec& spec) {
    if (negative) return "-" + digits;
    if (spec.sign == '+' || spec.sign == ' ') return spec.sign + std::move(digits);
    return std::move(digits);
}

void group_thousands(String& digits) {
    const std::size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
    for (std::size_t i = end; i > 3; i -= 3) digits.insert(i - 3, 1, ',');
}

String format_integer(std::int64_t number, const Spec& spec) {
    const int base = spec.type == 'x' || spec.type == 'X' ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
    const std::uint64_t magnitude = number < 0 ? 0 - static_cast<std::uint64_t>(number) : static_cast<std::uint64_t>(number);
    char buffer[72];
    String digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, magnitude, base).ptr);
    if (spec.type == 'X') std::transform(digits.begin(), digits.end(), digits.begin(), [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });
    if (spec.comma) group_thousands(digits);
    if (spec.alternate && base != 10) digits = (spec.type == 'o' ? "0o" : spec.type == 'b' ? "0b" : spec.type == 'x' ? "0x" : "0X") + digits;
    return with_sign(number < 0, std::move(digits), spec);
}

String format_float(double number, const Spec& spec) {
    if (std::isnan(number) || std::isinf(number)) return with_sign(std::signbit(number) && !std::isnan(number), std::isnan(number) ? "nan" : "inf", spec);
    const bool percent = spec.type == '%';
    const char type = percent ? 'f' : spec.type ? spec.type : 'g';
    const char form[] = {'%', spec.alternate ? '#' : '.', spec.alternate ? '.' : '*', spec.alternate ? '*' : type, spec.alternate ? type : '\0', '\0'};
    const int precision = static_cast<int>(std::min(spec.precision < 0 ? 6 : spec.precision, kMaxPrecision));
    char buffer[800];
    std::snprintf(buffer, sizeof buffer, form, precision, std::abs(percent ? number * 100 : number));
    String digits(buffer);
    if (spec.comma) group_thousands(digits);
    if (percent) digits += '%';
    return with_sign(std::signbit(number), std::move(digits), spec);
}

String cut(String&& text, std::int64_t precision) {
    if (precision < 0) return std::move(text);
    std::size_t offset = 0;
    for (std::int64_t i = 0; i < precision && offset < text.size(); ++i) next_code_point(text, offset);
    text.resize(offset);
    return std::move(text);
}

std::int64_t read_number(std::string_view text, std::size_t& at) {
    std::int64_t number = 0;
    const auto result = std::from_chars(text.data() + at, text.data() + text.size(), number);
    if (result.ec == std::errc::result_out_of_range) type_error("a width or precision is too large");
    at = static_cast<std::size_t>(result.ptr - text.data());
    return number;
}

bool is_decimal(std::string_view text, std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; }

/// format(value, spec)
String apply_spec(const Value& value, std::string_view text) {
    if (text.empty()) return to_string(value);
    Spec spec;
    std::size_t at = 0, after_first = 0;
    next_code_point(text, after_first);
    const auto is_align = [&](std::size_t i) { return i < text.size() && std::string_view("<>^=").find(text[i]) != std::string_view::npos; };
    if (is_align(after_first)) {
        spec.fill = text.substr(0, after_first);
        spec.align = text[after_first];
        at = after_first + 1;
    } else if (is_align(0)) {
        spec.align = text[at++];
    }
    if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
    if (at < text.size() && text[at] == '#') spec.alternate = (++at, true);
    if (at < text.size() && text[at] == '0') {
        ++at;
        if (!spec.align) {
            spec.fill = "0";
            spec.align = value.text() ? '<' : '=';
        }
    }
    if (is_decimal(text, at)) spec.width = read_number(text, at);
    if (at < text.size() && text[at] == ',') spec.comma = (++at, true);
    if (at < text.size() && text[at] == '.') {
        if (!is_decimal(text, ++at)) type_error("Format specifier missing precision");
        spec.precision = read_number(text, at);
    }
    if (at < text.size()) spec.type = text[at++];
    if (at != text.size()) type_error("Invalid format specifier");
    const auto unknown = [&] {
        type_error("Unknown format code '" + std::string(1, spec.type) + "' for object of type '" + std::string(type_name(value)) + "'");
    };
    const auto one_of = [&](std::string_view types) { return spec.type && types.find(spec.type) != std::string_view::npos; };
    if (const Text* held = value.text()) {
        if (spec.type && spec.type != 's') unknown();
        return pad(cut(String(held->bytes), spec.precision), spec, '<');
    }
    if (value.integer() && (!spec.type || one_of("dxXob")) && spec.precision < 0) {
        return pad(format_integer(*value.integer(), spec), spec, '>');
    }
    if (value.is_number()) {
        if (spec.type && !one_of("eEfFgG%")) unknown();
        if (!spec.type && spec.precision < 0) return pad(with_sign(std::signbit(*value.number()), repr_float(std::abs(*value.number())), spec), spec, '>');
        return pad(format_float(*value.number(), spec), spec, '>');
    }
    type_error("unsupported format string passed to " + std::string(type_name(value)) + ".__format__");
}

}  // namespace

String printf_format(std::string_view format, const Value& value) {
    const Sequence* tuple = value.sequence();
    if (tuple && tuple->flavor != Sequence::Flavor::tuple) tuple = nullptr;
    std::size_t used = 0;
    bool by_name = false;
    const auto next_value = [&]() -> const Value& {
        if (tuple && used < tuple->elements.size()) return tuple->elements[used++];
        if (!tuple && used++ == 0) return value;
        type_error("not enough arguments for format string");
    };
    String out;
    for (std::size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            out += format[i];
            continue;
        }
        Budget::current()->step();
        Spec spec;
        const Value* given = nullptr;
        if (++i < format.size() && format[i] == '(') {
            const std::size_t close = format.find(')', i);
            if (close == std::string_view::npos) type_error("incomplete format key");
            if (!value.dict()) type_error("format requires a mapping");
            given = value.dict()->find(format.substr(i + 1, close - i - 1));
            if (!given) type_error("the format's key is missing");
            by_name = true;
            i = close + 1;
        }
        for (; i < format.size() && std::string_view("-+ 0#").find(format[i]) != std::string_view::npos; ++i) {
            if (format[i] == '-') spec.align = '<';
            else if (format[i] == '0') spec.zero = true;
            else if (format[i] == '#') spec.alternate = true;
            else if (spec.sign != '+') spec.sign = format[i];
        }
        if (is_decimal(format, i)) spec.width = read_number(format, i);
        if (i < format.size() && format[i] == '.') {
            ++i;
            spec.precision = is_decimal(format, i) ? read_number(format, i) : 0;
        }
        if (i >= format.size()) type_error("incomplete format");
        spec.type = format[i];
        if (spec.type == '%') {
            out += '%';
            continue;
        }
        const Value& argument = given ? *given : next_value();
        if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
            out += pad(cut(spec.type == 's' ? to_string(argument) : repr(argument), spec.precision), spec, '>');
            continue;
        }
        if (spec.zero && !spec.align) {
            spec.fill = "0";
            spec.align = '=';
        }
        if (spec.type == 'c') {
            String text;
            if (argument.integer() && *argument.integer() >= 0 && *argument.integer() < 0x110000)
                append_code_point(text, static_cast<char32_t>(*argument.integer()));
            else if (argument.text() && argument.text()->length == 1) text = argument.text()->bytes;
            else type_error("%c requires int or char");
            out += pad(std::move(text), spec, '>');
        } else if (std::string_view("diuxXo").find(spec.type) != std::string_view::npos) {
            if (!argument.is_number()) type_error(std::string("%") + spec.type + " format: a real number is required, not " + std::string(type_name(argument)));
            const double number = *argument.number();
            if (!argument.integer() && !(std::abs(number) < 9e18)) type_error("cannot convert float to integer");
            String digits = format_integer(argument.integer().value_or(static_cast<std::int64_t>(number)), spec);
            out += pad(std::move(digits), spec, '>');
        } else if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos) {
            if (!argument.is_number()) type_error("must be real number, not " + std::string(type_name(argument)));
            out += pad(format_float(*argument.number(), spec), spec, '>');
        } else {
            type_error("unsupported format character");
        }
    }
    const bool left_over = tuple ? used < tuple->elements.size() : used == 0 && !value.dict() && !value.sequence();
    if (left_over && !by_name) type_error("not all arguments converted during string formatting");
    return out;
}

String brace_format(std::string_view format, const Arguments& arguments) {
    String out;
    std::size_t automatic = 0;
    bool manual = false;
    for (std::size_t i = 0; i < format.size(); ++i) {
        const char c = format[i];
        if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
            out += format[++i];
            continue;
        }
        if (c == '}') type_error("Single '}' encountered in format string");
        if (c != '{') {
            out += c;
            continue;
        }
        Budget::current()->step();
        const std::size_t close = format.find('}', i);
        if (close == std::string_view::npos) type_error("Single '{' encountered in format string");
        std::string_view field = format.substr(i + 1, close - i - 1), spec;
        if (field.find('{') != std::string_view::npos) type_error("nested replacement fields are not supported");
        if (const std::size_t colon = field.find(':'); colon != std::string_view::npos) {
            spec = field.substr(colon + 1);
            field = field.substr(0, colon);
        }
        char conversion = 0;
        if (const std::size_t mark = field.find('!'); mark != std::string_view::npos) {
            if (field.size() != mark + 2) type_error("a conversion is one character");
            conversion = field[mark + 1];
            field = field.substr(0, mark);
        }
        std::size_t name_end = std::min(field.find_first_of(".["), field.size());
        const std::string_view name = field.substr(0, name_end);
        Value value;
        std::size_t index = 0;
        const bool numeric = !name.empty() && std::from_chars(name.data(), name.data() + name.size(), index).ptr == name.data() + name.size();
        if (name.empty() || numeric) {
            if (name.empty() ? manual : automatic > 0)
                type_error("cannot mix automatic and manual field numbering");
            manual = numeric;
            if (name.empty()) index = automatic++;
            if (index >= arguments.positional.size()) type_error("Replacement index out of range for positional args tuple");
            value = arguments.positional[index];
        } else {
            const auto it = std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& a) { return a.first == name; });
            if (it == arguments.named.end()) type_error("the format's key '" + std::string(name.substr(0, 60)) + "' is missing");
            value = it->second;
        }
        while (name_end < field.size()) {
            Budget::current()->step();
            if (field[name_end] == '.') {
                const std::size_t end = std::min(field.find_first_of(".[", name_end + 1), field.size());
                value = get_attribute(value, field.substr(name_end + 1, end - name_end - 1));
                name_end = end;
            } else {
                const std::size_t end = field.find(']', name_end);
                if (field[name_end] != '[' || end == std::string_view::npos) type_error("Missing ']' in format string");
                const std::string_view key = field.substr(name_end + 1, end - name_end - 1);
                std::int64_t position = 0;
                const bool number = !key.empty() && std::from_chars(key.data(), key.data() + key.size(), position).ptr == key.data() + key.size();
                value = get_item(value, number ? Value(position) : Value::text(key));
                name_end = end + 1;
            }
        }
        if (conversion == 'r' || conversion == 'a') value = Value::text(repr(value));
        else if (conversion == 's') value = Value::text(to_string(value));
        else if (conversion) type_error("Unknown conversion specifier");
        out += apply_spec(value, spec);
        i = close;
    }
    return out;
}

namespace {

void append_json_text(String& out, std::string_view text, bool ensure_ascii) {
    charge_work(text.size());
    out += '"';
    char buffer[16];
    for (std::size_t offset = 0; offset < text.size();) {
        const std::size_t start = offset;
        const char32_t c = next_code_point(text, offset);
        constexpr std::string_view kRaw = "\"\\\n\r\t\b\f", kEscaped = "\"\\nrtbf";
        const std::size_t short_form = c < 0x80 ? kRaw.find(static_cast<char>(c)) : std::string_view::npos;
        if (short_form != std::string_view::npos) {
            (out += '\\') += kEscaped[short_form];
        } else if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
            std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c));
            out += buffer;
        } else if (ensure_ascii && c >= 0x10000) {
            std::snprintf(buffer, sizeof buffer, "\\u%04x\\u%04x", static_cast<unsigned>(0xD800 + ((c - 0x10000) >> 10)),
                          static_cast<unsigned>(0xDC00 + ((c - 0x10000) & 0x3FF)));
            out += buffer;
        } else {
            out += text.substr(start, offset - start);
        }
    }
    out += '"';
}

String json_number(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return repr_float(number);
}

String json_key(const Value& key) {
    if (const Text* text = key.text()) return text->bytes;
    if (const auto* flag = key.get<bool>()) return *flag ? "true" : "false";
    if (key.is_none()) return "null";
    if (const auto* number = key.get<double>()) return json_number(*number);
    if (key.integer()) return to_string(key);
    type_error("keys must be str, int, float, bool or None, not " + std::string(type_name(key)));
}

void append_json(String& out, const Value& value, const JsonStyle& style, int level) {
    Budget::current()->step();
    const auto new_line = [&](int depth) {
        if (!style.indent) return;
        out += '\n';
        for (int i = 0; i < depth; ++i) out += *style.indent;
    };
    const Sequence* sequence = value.sequence();
    if (value.is_none()) {
        out += "null";
    } else if (const auto* flag = value.get<bool>()) {
        out += *flag ? "true" : "false";
    } else if (value.integer()) {
        out += to_string(value);
    } else if (const auto* number = value.get<double>()) {
        out += json_number(*number);
    } else if (const Text* text = value.text()) {
        append_json_text(out, text->view(), style.ensure_ascii);
    } else if (sequence && sequence->flavor <= Sequence::Flavor::tuple) {
        if (sequence->elements.empty()) {
            out += "[]";
            return;
        }
        out += '[';
        for (std::size_t i = 0; i < sequence->elements.size(); ++i) {
            if (i > 0) out += style.item_separator;
            new_line(level + 1);
            append_json(out, sequence->elements[i], style, level + 1);
        }
        new_line(level);
        out += ']';
    } else if (const Dict* dict = value.dict()) {
        if (dict->items().empty()) {
            out += "{}";
            return;
        }
        Vector<std::pair<Value, Value>> items = dict->items();
        if (style.sort_keys)
            std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return less(a.first, b.first); });
        out += '{';
        for (std::size_t i = 0; i < items.size(); ++i) {
            if (i > 0) out += style.item_separator;
            new_line(level + 1);
            append_json_text(out, json_key(items[i].first), style.ensure_ascii);
            out += style.key_separator;
            append_json(out, items[i].second, style, level + 1);
        }
        new_line(level);
        out += '}';
    } else {
        type_error("Object of type " + std::string(type_name(value)) + " is not JSON serializable");
    }
}

}  // namespace

String to_json(const Value& value, const JsonStyle& style) {
    String out;
    append_json(out, value, style, 0);
    return out;
}

}  // namespace mixwright::jinja
