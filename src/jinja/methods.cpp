#include "jinja/methods.h"

#include <algorithm>
#include <unordered_map>

#include "jinja/format.h"
#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

using Method = Value (*)(const Value& self, const Arguments&);

struct BoundMethod final : Object {
    BoundMethod(Value self, Method method) : Object(self.depth() + 1), self(std::move(self)), method(method) {}
    std::string_view type_name() const override { return "builtin_function_or_method"; }
    Value call(Interpreter&, const Arguments& arguments) override { return method(self, arguments); }

    Value self;
    Method method;
};

using Table = std::unordered_map<std::string_view, Method>;

std::string_view text_of(const Value& self) { return self.text()->view(); }

/// Applies `change` to each code point.
template <class Change>
String mapped(std::string_view text, Change change) {
    String out;
    out.reserve(text.size());
    charge_work(32 * text.size());
    bool first = true;
    for (std::size_t offset = 0; offset < text.size(); first = false) change(out, next_code_point(text, offset), first);
    return out;
}

template <class Predicate>
bool all_of(std::string_view text, Predicate predicate) {
    charge_work(8 * text.size());
    for (std::size_t offset = 0; offset < text.size();)
        if (!predicate(next_code_point(text, offset))) return false;
    return !text.empty();
}

bool is_cased(std::string_view text, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
    bool any = false;
    charge_work(8 * text.size());
    for (std::size_t offset = 0; offset < text.size();) {
        const char32_t c = next_code_point(text, offset);
        if (other(c)) return false;
        any = any || wanted(c);
    }
    return any;
}

template <bool left, bool right>
Value strip_method(const Value& self, const Arguments& arguments) {
    const Bound bound("strip", arguments, {"chars"});
    constexpr Sides sides = left && right ? Sides::both : left ? Sides::left : Sides::right;
    if (!bound[0] || bound[0]->is_none()) return Value::text(strip(text_of(self), sides));
    return Value::text(strip_set(text_of(self), bound.text(0), left, right));
}

Value split(const Value& self, const Arguments& arguments, bool from_right) {
    const Bound bound("split", arguments, {"sep", "maxsplit"});
    std::int64_t limit = bound.integer(1, -1);
    if (limit < 0) limit = std::numeric_limits<std::int64_t>::max();
    std::string_view text = text_of(self);
    charge_work(8 * text.size());
    Vector<Value> parts;
    const auto push = [&](std::string_view part) { parts.push_back(Value::text(part)); };
    if (!bound[0] || bound[0]->is_none()) {
        for (text = strip(text, from_right ? Sides::right : Sides::left); !text.empty();) {
            if (limit-- == 0) {
                push(text);
                break;
            }
            std::size_t offset = from_right ? text.size() : 0, edge = offset;
            while (from_right ? offset > 0 : offset < text.size()) {
                edge = offset;
                if (is_space(from_right ? previous_code_point(text, offset) : next_code_point(text, offset))) break;
                edge = offset;
            }
            if (from_right) {
                push(text.substr(edge));
                text = text.substr(0, edge);
                while (!text.empty()) {
                    std::size_t start = text.size();
                    if (!is_space(previous_code_point(text, start))) break;
                    text = text.substr(0, start);
                }
            } else {
                push(text.substr(0, edge));
                text.remove_prefix(edge);
                while (!text.empty()) {
                    std::size_t next = 0;
                    if (!is_space(next_code_point(text, next))) break;
                    text.remove_prefix(next);
                }
            }
        }
    } else {
        const std::string_view separator = bound.text(0);
        if (separator.empty()) type_error("empty separator");
        while (limit-- > 0) {
            const std::size_t at = from_right ? find_last_text(text, separator) : find_text(text, separator);
            if (at == std::string_view::npos) break;
            if (from_right) {
                push(text.substr(at + separator.size()));
                text = text.substr(0, at);
            } else {
                push(text.substr(0, at));
                text.remove_prefix(at + separator.size());
            }
        }
        push(text);
    }
    if (from_right) std::reverse(parts.begin(), parts.end());
    return make_list(std::move(parts));
}

/// Cuts `text` to its code points [start, end), given as Python's optional slice bounds.
std::string_view part_of(const Value& self, const Bound& bound, std::size_t first, std::size_t& start_index) {
    const Text& text = *self.text();
    const auto length = static_cast<std::int64_t>(text.length);
    const auto clamp = [&](std::size_t i, std::int64_t fallback) {
        std::int64_t at = bound[i] && !bound[i]->is_none() ? bound.integer(i, 0) : fallback;
        if (at < 0) at = std::max<std::int64_t>(at + length, 0);
        return at;
    };
    const std::int64_t start = clamp(first, 0), end = std::min(clamp(first + 1, length), length);
    start_index = static_cast<std::size_t>(start);
    if (start > end) return {nullptr, 0};  // not even the empty text is found there
    const std::size_t from = text.offset(static_cast<std::size_t>(start));
    return text.view().substr(from, text.offset(static_cast<std::size_t>(end)) - from);
}

template <bool from_end>
Value affix(const Value& self, const Arguments& arguments) {
    const Bound bound(from_end ? "endswith" : "startswith", arguments, {"prefix", "start", "end"}, 1);
    std::size_t start;
    const std::string_view text = part_of(self, bound, 1, start);
    const auto matches = [&](const Value& value) {
        const Text* part = value.text();
        if (!part) type_error("startswith and endswith take a str or a tuple of str, not " + std::string(type_name(value)));
        charge_work(part->bytes.size());
        return text.data() && (from_end ? text.ends_with(part->view()) : text.starts_with(part->view()));
    };
    const Sequence* tuple = bound[0]->sequence();
    if (!tuple || tuple->flavor != Sequence::Flavor::tuple) return matches(*bound[0]);
    return std::any_of(tuple->elements.begin(), tuple->elements.end(), matches);
}

template <bool from_right, bool must_exist>
Value find(const Value& self, const Arguments& arguments) {
    const Bound bound(must_exist ? "index" : "find", arguments, {"sub", "start", "end"}, 1);
    const std::string_view wanted = bound.text(0);
    std::size_t start;
    const std::string_view text = part_of(self, bound, 1, start);
    const std::size_t at = !text.data() ? std::string_view::npos : from_right ? find_last_text(text, wanted) : find_text(text, wanted);
    if (at != std::string_view::npos) return static_cast<std::int64_t>(start + count_code_points(text.substr(0, at)));
    if (must_exist) type_error("substring not found");
    return std::int64_t{-1};
}

Value count(const Value& self, const Arguments& arguments) {
    const Bound bound("count", arguments, {"sub", "start", "end"}, 1);
    const std::string_view wanted = bound.text(0);
    std::size_t start;
    std::string_view text = part_of(self, bound, 1, start);
    charge_work(8 * text.size());
    if (!text.data()) return std::int64_t{0};
    if (wanted.empty()) return static_cast<std::int64_t>(count_code_points(text) + 1);
    std::int64_t found = 0;
    for (std::size_t at = 0; (at = find_text(text, wanted, at)) != std::string_view::npos; at += wanted.size()) ++found;
    return found;
}

template <bool from_right>
Value partition(const Value& self, const Arguments& arguments) {
    const Bound bound("partition", arguments, {"sep"}, 1);
    const std::string_view text = text_of(self), separator = bound.text(0);
    if (separator.empty()) type_error("empty separator");
    charge_work(text.size());
    const std::size_t at = from_right ? find_last_text(text, separator) : find_text(text, separator);
    Vector<Value> parts;
    if (at == std::string_view::npos) {
        parts = {Value::text(from_right ? "" : text), Value::text(""), Value::text(from_right ? text : "")};
    } else {
        parts = {Value::text(text.substr(0, at)), Value::text(separator), Value::text(text.substr(at + separator.size()))};
    }
    return make_list(std::move(parts), Sequence::Flavor::tuple);
}

template <char align>
Value justify(const Value& self, const Arguments& arguments) {
    const Bound bound("ljust", arguments, {"width", "fillchar"}, 1);
    const std::int64_t width = bound.integer(0, 0), length = static_cast<std::int64_t>(self.text()->length);
    const std::string_view fill = bound.text(1, " ");
    if (count_code_points(fill) != 1) type_error("The fill character must be exactly one character long");
    if (width <= length) return self;
    if (static_cast<std::size_t>(width) > Budget::current()->limits().memory) type_error("the width is too large");
    const std::int64_t room = width - length;
    // Python's centre: the odd blank goes left when the width is odd.
    const std::int64_t left = align == '<' ? 0 : align == '>' ? room : room / 2 + (room & width & 1);
    String out;
    for (std::int64_t i = 0; i < left; ++i) out += fill;
    out += text_of(self);
    for (std::int64_t i = left; i < room; ++i) out += fill;
    Budget::current()->step(static_cast<std::size_t>(room) >> 3);
    return Value::text(std::move(out));
}

template <bool prefix>
Value remove_affix(const Value& self, const Arguments& arguments) {
    const Bound bound("removeprefix", arguments, {"prefix"}, 1);
    std::string_view text = text_of(self);
    const std::string_view affix = bound.text(0);
    if (prefix && text.starts_with(affix)) text.remove_prefix(affix.size());
    if (!prefix && text.ends_with(affix)) text.remove_suffix(affix.size());
    return Value::text(text);
}

template <bool (*predicate)(char32_t)>
Value all_are(const Value& self, const Arguments&) {
    return all_of(text_of(self), predicate);
}

bool is_alnum(char32_t c) { return is_alpha(c) || is_digit(c); }

const Table& text_methods() {
    static const Table table = {
        {"upper", [](const Value& self, const Arguments&) { return Value::text(upper(text_of(self))); }},
        {"lower", [](const Value& self, const Arguments&) { return Value::text(lower(text_of(self))); }},
        {"casefold", [](const Value& self, const Arguments&) { return Value::text(lower(text_of(self))); }},
        {"capitalize", [](const Value& self, const Arguments&) { return Value::text(capitalize(text_of(self))); }},
        {"title",
         [](const Value& self, const Arguments&) {
             bool inside = false;
             return Value::text(mapped(text_of(self), [&](String& out, char32_t c, bool) {
                 append_code_point(out, inside ? to_lower(c) : to_upper(c));
                 inside = is_upper(c) || is_lower(c);
             }));
         }},
        {"swapcase",
         [](const Value& self, const Arguments&) {
             return Value::text(mapped(text_of(self), [](String& out, char32_t c, bool) {
                 append_code_point(out, is_upper(c) ? to_lower(c) : to_upper(c));
             }));
         }},
        {"strip", strip_method<true, true>},
        {"lstrip", strip_method<true, false>},
        {"rstrip", strip_method<false, true>},
        {"split", [](const Value& self, const Arguments& arguments) { return split(self, arguments, false); }},
        {"rsplit", [](const Value& self, const Arguments& arguments) { return split(self, arguments, true); }},
        {"splitlines",
         [](const Value& self, const Arguments& arguments) {
             const Bound bound("splitlines", arguments, {"keepends"});
             return make_list(split_lines(text_of(self), bound.flag(0)));
         }},
        {"startswith", affix<false>},
        {"endswith", affix<true>},
        {"find", find<false, false>},
        {"rfind", find<true, false>},
        {"index", find<false, true>},
        {"rindex", find<true, true>},
        {"count", count},
        {"partition", partition<false>},
        {"rpartition", partition<true>},
        {"ljust", justify<'<'>},
        {"rjust", justify<'>'>},
        {"center", justify<'^'>},
        {"removeprefix", remove_affix<true>},
        {"removesuffix", remove_affix<false>},
        {"replace",
         [](const Value& self, const Arguments& arguments) {
             const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
             return Value::text(replace_all(text_of(self), bound.text(0), bound.text(1), bound.integer(2, -1)));
         }},
        {"join",
         [](const Value& self, const Arguments& arguments) {
             const Bound bound("join", arguments, {"iterable"}, 1);
             String out;
             bool first = true;
             for (const Ref<Sequence> elements = iterate(*bound[0]); const Value& element : elements->elements) {
                 const Text* text = element.text();
                 if (!text) type_error("sequence item: expected str instance, " + std::string(type_name(element)) + " found");
                 if (!std::exchange(first, false)) out += text_of(self);
                 out += text->bytes;
                 Budget::current()->step();
             }
             return Value::text(std::move(out));
         }},
        {"format", [](const Value& self, const Arguments& arguments) { return Value::text(brace_format(text_of(self), arguments)); }},
        {"zfill",
         [](const Value& self, const Arguments& arguments) {
             const Bound bound("zfill", arguments, {"width"}, 1);
             const std::int64_t room = bound.integer(0, 0) - static_cast<std::int64_t>(self.text()->length);
             String out(text_of(self));
             if (room > 0) {
                 if (static_cast<std::size_t>(room) > Budget::current()->limits().memory) type_error("the width is too large");
                 out.insert(out.starts_with('-') || out.starts_with('+') ? 1 : 0, static_cast<std::size_t>(room), '0');
             }
             return Value::text(std::move(out));
         }},
        {"isdigit", all_are<is_digit>},
        {"isdecimal", all_are<is_digit>},
        {"isnumeric", all_are<is_digit>},
        {"isalpha", all_are<is_alpha>},
        {"isalnum", all_are<is_alnum>},
        {"isspace", all_are<is_space>},
        {"isupper", [](const Value& self, const Arguments&) -> Value { return is_upper_text(text_of(self)); }},
        {"islower", [](const Value& self, const Arguments&) -> Value { return is_lower_text(text_of(self)); }},
    };
    return table;
}

const Table& dict_methods() {
    static const Table table = {
        {"get",
         [](const Value& self, const Arguments& arguments) {
             const Bound bound("get", arguments, {"key", "default"}, 1);
             const Value* found = self.dict()->find(*bound[0]);
             return found ? *found : bound.get(1, None{});
         }},
        {"keys",
         [](const Value& self, const Arguments&) {
             Vector<Value> keys;
             for (const auto& item : self.dict()->items()) keys.push_back(item.first);
             return make_list(std::move(keys), Sequence::Flavor::keys);
         }},
        {"values",
         [](const Value& self, const Arguments&) {
             Vector<Value> values;
             for (const auto& item : self.dict()->items()) values.push_back(item.second);
             return make_list(std::move(values), Sequence::Flavor::values);
         }},
        {"items",
         [](const Value& self, const Arguments&) {
             Vector<Value> items;
             for (const auto& [key, value] : self.dict()->items())
                 items.push_back(make_list({key, value}, Sequence::Flavor::tuple));
             return make_list(std::move(items), Sequence::Flavor::items);
         }},
        {"copy", [](const Value& self, const Arguments&) { return self; }},
    };
    return table;
}

const Table& list_methods() {
    static const Table table = {
        {"index",
         [](const Value& self, const Arguments& arguments) -> Value {
             const Bound bound("index", arguments, {"value"}, 1);
             const auto& elements = self.sequence()->elements;
             for (std::size_t i = 0; i < elements.size(); ++i)
                 if (equal(elements[i], *bound[0])) return static_cast<std::int64_t>(i);
             type_error("the value is not in the list");
         }},
        {"count",
         [](const Value& self, const Arguments& arguments) -> Value {
             const Bound bound("count", arguments, {"value"}, 1);
             std::int64_t found = 0;
             for (const Value& element : self.sequence()->elements) found += equal(element, *bound[0]);
             return found;
         }},
        {"copy", [](const Value& self, const Arguments&) { return self; }},
    };
    return table;
}

bool changes(const Value& object, std::string_view name) {
    static constexpr std::string_view kList[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    if (object.dict()) return std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
    return object.sequence() && object.sequence()->flavor == Sequence::Flavor::list &&
           std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
}

}  // namespace

std::optional<Value> find_method(const Value& object, std::string_view name) {
    if (changes(object, name) || (name.starts_with("__") && name.ends_with("__"))) {
        String message("access to attribute '");
        (((message += name) += "' of '") += type_name(object)) += "' object is unsafe.";
        return Value::undefined(std::move(message), true);
    }
    if (Object* held = object.object()) return held->attribute(name);
    const Sequence* sequence = object.sequence();
    const Table* table = object.text()                                                     ? &text_methods()
                         : object.dict()                                                   ? &dict_methods()
                         : sequence && sequence->flavor <= Sequence::Flavor::tuple ? &list_methods()
                                                                                           : nullptr;
    if (!table) return {};
    const auto it = table->find(name);
    if (it == table->end()) return {};
    return Value(make<BoundMethod>(object, it->second));
}

Vector<Value> split_lines(std::string_view text, bool keep_ends) {
    Vector<Value> lines;
    std::size_t start = 0;
    for (std::size_t offset = 0; offset < text.size();) {
        const std::size_t at = offset;
        const char32_t c = next_code_point(text, offset);
        if (!((c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029)) continue;
        if (c == '\r' && offset < text.size() && text[offset] == '\n') ++offset;
        lines.push_back(Value::text(text.substr(start, (keep_ends ? offset : at) - start)));
        start = offset;
    }
    if (start < text.size()) lines.push_back(Value::text(text.substr(start)));
    charge_work(8 * text.size());
    return lines;
}

String replace_all(std::string_view text, std::string_view from, std::string_view to, std::int64_t limit) {
    charge_work(8 * text.size());
    String out;
    std::size_t at = 0;
    if (limit < 0) limit = std::numeric_limits<std::int64_t>::max();
    if (from.empty()) {
        while (limit-- > 0) {
            out += to;
            if (at >= text.size()) return out;
            const std::size_t start = at;
            next_code_point(text, at);
            out += text.substr(start, at - start);
        }
        return out += text.substr(at);
    }
    while (limit-- > 0) {
        const std::size_t found = find_text(text, from, at);
        if (found == std::string_view::npos) break;
        out += text.substr(at, found - at);
        out += to;
        at = found + from.size();
    }
    return out += text.substr(at);
}

std::string_view strip_set(std::string_view text, std::string_view characters, bool left, bool right) {
    const auto in_set = [&](std::string_view c) {
        charge_work(64 + characters.size());
        return characters.find(c) != std::string_view::npos;
    };
    while (left && !text.empty()) {
        std::size_t next = 0;
        next_code_point(text, next);
        if (!in_set(text.substr(0, next))) break;
        text.remove_prefix(next);
    }
    while (right && !text.empty()) {
        std::size_t start = text.size();
        previous_code_point(text, start);
        if (!in_set(text.substr(start))) break;
        text = text.substr(0, start);
    }
    return text;
}

String upper(std::string_view text) {
    return mapped(text, [](String& out, char32_t c, bool) {
        if (c == 0xDF) out += "SS";
        else append_code_point(out, to_upper(c));
    });
}
String lower(std::string_view text) {
    return mapped(text, [](String& out, char32_t c, bool) { append_code_point(out, to_lower(c)); });
}
String capitalize(std::string_view text) {
    return mapped(text, [](String& out, char32_t c, bool first) { append_code_point(out, first ? to_upper(c) : to_lower(c)); });
}
bool is_upper_text(std::string_view text) { return is_cased(text, is_upper, is_lower); }
bool is_lower_text(std::string_view text) { return is_cased(text, is_lower, is_upper); }

}  // namespace mixwright::jinja
