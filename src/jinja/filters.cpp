// Filters of single values: text, numbers, JSON.
#include "jinja/filters.h"

#include <charconv>
#include <cmath>
#include <unordered_map>

#include "jinja/format.h"
#include "jinja/interpreter.h"
#include "jinja/methods.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

/// int(text, base), or nothing where Python raises ValueError.
std::optional<std::int64_t> parse_integer(std::string_view text, std::int64_t base) {
    text = strip(text);
    const bool negative = text.starts_with('-');
    if (negative || text.starts_with('+')) text.remove_prefix(1);
    const auto has_mark = [&](char mark) { return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == mark; };
    if (base == 16 && has_mark('x')) text.remove_prefix(2);
    if (base == 8 && has_mark('o')) text.remove_prefix(2);
    if (base == 2 && has_mark('b')) text.remove_prefix(2);
    if (base < 2 || base > 36 || text.empty() || text.front() == '_' || text.back() == '_') return {};
    std::string digits(negative ? "-" : "");
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '_' && text[i - 1] == '_') return {};
        if (text[i] != '_') digits += text[i];
    }
    std::int64_t number = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), number, static_cast<int>(base));
    if (result.ptr != digits.data() + digits.size() || digits.back() == '-') return {};
    if (result.ec == std::errc::result_out_of_range) type_error("an integer is too large");
    return number;
}

std::optional<double> parse_float(std::string_view text) {
    text = strip(text);
    const bool negative = text.starts_with('-');
    if (negative || text.starts_with('+')) text.remove_prefix(1);
    if (text.empty() || text[0] == '-' || text[0] == '+') return {};
    double number = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    if (result.ptr != text.data() + text.size()) return {};
    if (result.ec == std::errc::result_out_of_range) number = std::strtod(std::string(text).c_str(), nullptr);
    return negative ? -number : number;
}

Value to_integer(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("int", arguments, {"default", "base"});
    const Value fallback = bound.get(0, std::int64_t{0});
    if (input.is_undefined()) throw Failure(input.undefined_message());
    std::optional<double> real = input.number();
    if (const auto number = input.integer()) return *number;
    if (const Text* text = input.text()) {
        if (const auto number = parse_integer(text->view(), bound.integer(1, 10))) return *number;
        real = parse_float(text->view());
    }
    if (!real || !std::isfinite(*real)) return fallback;
    if (std::abs(*real) >= 9.2e18) type_error("an integer is too large");
    return static_cast<std::int64_t>(*real);
}

Value to_float(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("float", arguments, {"default"});
    if (input.is_undefined()) throw Failure(input.undefined_message());
    if (const auto number = input.number()) return *number;
    if (const Text* text = input.text())
        if (const auto number = parse_float(text->view())) return *number;
    return bound.get(0, 0.0);
}

Value round_filter(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("round", arguments, {"precision", "method"});
    const std::int64_t precision = bound.integer(0, 0);
    const std::string_view method = bound.text(1, "common");
    const auto number = input.number();
    if (method != "common" && method != "ceil" && method != "floor") type_error("method must be common, ceil or floor");
    if (!number) type_error("type " + std::string(type_name(input)) + " doesn't define __round__ method");
    if (std::abs(precision) > 300) type_error("the precision is out of range");
    const double scale = std::pow(10.0, static_cast<double>(precision));
    if (method == "ceil") return std::ceil(*number * scale) / scale;
    if (method == "floor") return std::floor(*number * scale) / scale;
    if (input.integer() && precision >= 0) return *input.integer();
    if (!std::isfinite(*number)) return *number;
    if (precision < 0) {
        const double rounded = std::nearbyint(*number * scale) / scale;
        return input.integer() ? Value(static_cast<std::int64_t>(rounded)) : Value(rounded);
    }
    char buffer[800];  // the decimal expansion is exact, so this rounds as Python does
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), *number);
    return std::strtod(buffer, nullptr);
}

Value tojson(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ensure_ascii = bound.flag(0);
    style.sort_keys = bound.flag(3);
    if (bound[1] && !bound[1]->is_none()) {
        style.item_separator = ",";
        if (const Text* text = bound[1]->text()) style.indent = text->bytes;
        else {
            const std::int64_t width = bound.integer(1, 0);
            if (width > 1000) type_error("the indent is too large");
            style.indent = String(width > 0 ? static_cast<std::size_t>(width) : 0, ' ');
        }
    }
    if (bound[2] && !bound[2]->is_none()) {
        const Sequence* pair = bound[2]->sequence();
        if (!pair || pair->elements.size() != 2 || !pair->elements[0].text() || !pair->elements[1].text())
            type_error("separators must be a pair of strings");
        style.item_separator = pair->elements[0].text()->bytes;
        style.key_separator = pair->elements[1].text()->bytes;
    }
    return Value::text(to_json(input, style));
}

Value indent(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("indent", arguments, {"width", "first", "blank"});
    String margin;
    if (bound[0] && bound[0]->text()) margin = bound[0]->text()->bytes;
    else {
        const std::int64_t width = bound.integer(0, 4);
        if (width > (1 << 20)) type_error("the indent is too large");
        margin.assign(width > 0 ? static_cast<std::size_t>(width) : 0, ' ');
    }
    const bool first = bound.flag(1), blank = bound.flag(2);
    const Text* text = input.text();
    if (!text) return arithmetic(Operator::add, input, Value::text("\n"));  // refuses what is no text
    const Vector<Value> lines = split_lines(text->bytes + "\n");
    String out;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        const String& line = lines[i].text()->bytes;
        if (i > 0) out += '\n';
        if (i == 0 ? first : (blank || !line.empty())) out += margin;
        out += line;
    }
    return Value::text(std::move(out), text->safe);
}

Value title(Frame&, const Value& input, const Arguments&) {
    const String text = to_string(input);
    String out;
    bool start = true;
    for (std::size_t offset = 0; offset < text.size();) {
        const char32_t c = next_code_point(text, offset);
        append_code_point(out, start ? to_upper(c) : to_lower(c));
        start = is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
    }
    return Value::text(std::move(out));
}

Value truncate(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("truncate", arguments, {"length", "killwords", "end", "leeway"});
    const Value text = Value::text(to_string(input));
    const std::int64_t length = bound.integer(0, 255), leeway = bound.integer(3, 5);
    const std::string_view end = bound.text(2, "...");
    const auto keep = length - static_cast<std::int64_t>(count_code_points(end));
    if (keep < 0) type_error("expected length >= the length of end");
    if (static_cast<std::int64_t>(text.text()->length) <= length + leeway) return text;
    std::string_view kept = text.text()->view().substr(0, text.text()->offset(static_cast<std::size_t>(keep)));
    if (!bound.flag(1)) kept = kept.substr(0, std::min(kept.rfind(' '), kept.size()));
    return Value::text(String(kept) + String(end));
}

Value urlencode(Frame&, const Value& input, const Arguments&) {
    if (!input.text() && !input.is_number()) type_error("urlencode takes a string");
    String out;
    for (const char c : to_string(input)) {
        if (std::isalnum(static_cast<unsigned char>(c)) || std::string_view("_.-~/").find(c) != std::string_view::npos) {
            out += c;
        } else {
            char buffer[8];
            std::snprintf(buffer, sizeof buffer, "%%%02X", static_cast<unsigned char>(c));
            out += buffer;
        }
    }
    return Value::text(std::move(out));
}

Value absolute(Frame&, const Value& input, const Arguments&) {
    if (const auto number = input.integer()) return *number < 0 ? negate(input) : Value(*number);
    if (const auto number = input.number()) return std::abs(*number);
    if (input.is_undefined()) throw Failure(input.undefined_message());
    type_error("bad operand type for abs(): '" + std::string(type_name(input)) + "'");
}

Value default_filter(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("default", arguments, {"default_value", "boolean"});
    const bool missing = input.is_undefined() || (bound.flag(1) && !truth(input));
    return missing ? bound.get(0, Value::text("")) : input;
}

Value escape(Frame&, const Value& input, const Arguments&) {
    if (input.text() && input.text()->safe) return input;
    return Value::text(escape_html(to_string(input)), true);
}

Value trim(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("trim", arguments, {"chars"});
    const String text = to_string(input);
    if (!bound[0] || bound[0]->is_none()) return Value::text(strip(text));
    return Value::text(strip_set(text, bound.text(0), true, true));
}

Value replace(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
    const std::int64_t limit = bound[2] && bound[2]->is_none() ? -1 : bound.integer(2, -1);
    return Value::text(replace_all(to_string(input), to_string(*bound[0]), to_string(*bound[1]), limit));
}

Value format_filter(Frame&, const Value& input, const Arguments& arguments) {
    if (!arguments.positional.empty() && !arguments.named.empty())
        type_error("can't handle positional and keyword arguments at the same time");
    if (!arguments.named.empty()) {
        auto dict = make<Dict>();
        for (const auto& [name, value] : arguments.named) dict->insert(Value::text(name), value);
        return Value::text(printf_format(to_string(input), dict));
    }
    Vector<Value> values = arguments.positional;
    return Value::text(printf_format(to_string(input), make_list(std::move(values), Sequence::Flavor::tuple)));
}

Value attribute(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("attr", arguments, {"name"}, 1);
    if (input.is_undefined()) throw Failure(input.undefined_message());
    const String name = to_string(*bound[0]);
    if (auto found = find_method(input, name)) return *found;
    return Value::undefined("there is no such attribute");
}

Value word_count(Frame&, const Value& input, const Arguments&) {
    const String text = to_string(input);
    std::int64_t words = 0;
    bool inside = false;
    for (std::size_t offset = 0; offset < text.size();) {
        const char32_t c = next_code_point(text, offset);
        const bool word = is_alpha(c) || is_digit(c) || c == '_';
        words += word && !inside;
        inside = word;
    }
    return words;
}

using FilterTable = std::unordered_map<std::string_view, Filter>;

const FilterTable& scalar_filters() {
    static const FilterTable table = {
        {"abs", absolute},
        {"attr", attribute},
        {"capitalize", [](Frame&, const Value& v, const Arguments&) { return Value::text(capitalize(to_string(v))); }},
        {"center",
         [](Frame& frame, const Value& v, const Arguments& arguments) {
             const Bound bound("center", arguments, {"width"});
             const Value method = *find_method(Value::text(to_string(v)), "center");
             Arguments width;
             width.positional.push_back(bound.integer(0, 80));
             return frame.interpreter.call(method, width);
         }},
        {"d", default_filter},
        {"default", default_filter},
        {"e", escape},
        {"escape", escape},
        {"float", to_float},
        {"forceescape", [](Frame&, const Value& v, const Arguments&) { return Value::text(escape_html(to_string(v)), true); }},
        {"format", format_filter},
        {"indent", indent},
        {"int", to_integer},
        {"lower", [](Frame&, const Value& v, const Arguments&) { return Value::text(lower(to_string(v))); }},
        {"replace", replace},
        {"round", round_filter},
        {"safe", [](Frame&, const Value& v, const Arguments&) { return Value::text(to_string(v), true); }},
        {"string",
         [](Frame&, const Value& v, const Arguments&) { return v.text() ? v : Value::text(to_string(v)); }},
        {"title", title},
        {"tojson", tojson},
        {"trim", trim},
        {"truncate", truncate},
        {"upper", [](Frame&, const Value& v, const Arguments&) { return Value::text(upper(to_string(v))); }},
        {"urlencode", urlencode},
        {"wordcount", word_count},
    };
    return table;
}

}  // namespace

Filter find_filter(std::string_view name) {
    const auto it = scalar_filters().find(name);
    return it != scalar_filters().end() ? it->second : find_sequence_filter(name);
}

}  // namespace mixwright::jinja
