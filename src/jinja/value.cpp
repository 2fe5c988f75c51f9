#include "jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "jinja/methods.h"
#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

int checked_depth(int depth) {
    if (depth > kMaxValueDepth) throw Failure("values nest too deeply", Failure::Reason::budget);
    return depth;
}

/// Orders a negative index and cuts slice bounds as Python does.
std::int64_t clamp_bound(std::int64_t bound, std::int64_t length, std::int64_t lowest, std::int64_t highest) {
    if (bound < 0) bound = bound < -length ? lowest : bound + length;
    return std::clamp(bound, lowest, highest);
}

}  // namespace

void type_error(const std::string& message) { throw Failure(message); }

Object::Object(int depth) : depth(checked_depth(depth)) {}
std::optional<Value> Object::attribute(std::string_view) { return {}; }
Value Object::call(Interpreter&, const Arguments&) {
    type_error("'" + std::string(type_name()) + "' object is not callable");
}
String Object::repr(int) const { return "<" + String(type_name()) + ">"; }

Text::Text(String&& text, bool safe) : bytes(std::move(text)), length(count_code_points(bytes)), safe(safe) {}

std::size_t Text::offset(std::size_t index) const {
    if (ascii()) return index;
    std::size_t offset = 0;
    while (index-- > 0) next_code_point(bytes, offset);
    charge_work(8 * offset);
    return offset;
}

int depth_of(const Vector<Value>& values) noexcept {
    int depth = 0;
    for (const Value& value : values) depth = std::max(depth, value.depth());
    return depth;
}

Sequence::Sequence(Vector<Value>&& values, Flavor flavor)
    : elements(std::move(values)), flavor(flavor), depth(checked_depth(depth_of(elements) + 1)) {}

const Value* Sequence::next() const { return position < elements.size() ? &elements[position++] : nullptr; }

Value Value::text(std::string_view bytes) { return make<Text>(String(bytes)); }
Value Value::text(String&& bytes, bool safe) { return make<Text>(std::move(bytes), safe); }
Value Value::undefined(String message, bool unsafe) {
    Value value;
    value.data_ = make<Undefined>(Undefined{std::move(message), unsafe});
    return value;
}

const Text* Value::text() const noexcept {
    const auto* held = get<Ref<Text>>();
    return held ? held->get() : nullptr;
}
const Sequence* Value::sequence() const noexcept {
    const auto* held = get<Ref<Sequence>>();
    return held ? held->get() : nullptr;
}
const Dict* Value::dict() const noexcept {
    const auto* held = get<Ref<Dict>>();
    return held ? held->get() : nullptr;
}
Object* Value::object() const noexcept {
    const auto* held = get<Ref<Object>>();
    return held ? held->get() : nullptr;
}

std::optional<std::int64_t> Value::integer() const noexcept {
    if (const auto* held = get<std::int64_t>()) return *held;
    if (const auto* held = get<bool>()) return *held ? 1 : 0;
    return {};
}

std::optional<double> Value::number() const noexcept {
    if (const auto* held = get<double>()) return *held;
    if (const auto held = integer()) return static_cast<double>(*held);
    return {};
}

int Value::depth() const noexcept {
    if (const auto* held = sequence()) return held->depth;
    if (const auto* held = dict()) return held->depth;
    if (const auto* held = object()) return held->depth;
    return 0;
}

std::string Value::undefined_message() const {
    const auto* held = get<Ref<Undefined>>();
    return held ? std::string((*held)->message) : "the value is undefined";
}

std::size_t ValueHash::operator()(const Value& value) const {
    if (const Text* text = value.text()) {
        charge_work(text->bytes.size());
        return std::hash<std::string_view>()(text->view());
    }
    if (const auto number = value.integer()) return std::hash<std::int64_t>()(*number);
    if (const auto* real = value.get<double>()) {
        if (std::floor(*real) == *real && std::abs(*real) < 9e18)
            return std::hash<std::int64_t>()(static_cast<std::int64_t>(*real));
        return std::hash<double>()(*real);
    }
    if (const Sequence* sequence = value.sequence(); sequence && sequence->flavor == Sequence::Flavor::tuple) {
        std::size_t hash = sequence->elements.size();
        for (const Value& element : sequence->elements) hash = hash * 1000003 ^ (*this)(element);
        charge_work(64 * sequence->elements.size());
        return hash;
    }
    if (value.dict() || (value.sequence() && value.sequence()->flavor == Sequence::Flavor::list))
        type_error("unhashable type: '" + std::string(type_name(value)) + "'");
    if (const Object* object = value.object()) return std::hash<const void*>()(object);
    return 0;
}

bool ValueEqual::operator()(const Value& a, const Value& b) const { return equal(a, b); }

const Value* Dict::find(const Value& key) const {
    if (const Text* text = key.text(); text && index_.empty()) return find(text->view());
    if (!index_.empty()) {
        const auto it = index_.find(key);
        return it == index_.end() ? nullptr : &items_[it->second].second;
    }
    ValueHash()(key);  // refuses what cannot be a key
    for (const auto& [name, value] : items_)
        if (equal(name, key)) return &value;
    return nullptr;
}

const Value* Dict::find(std::string_view key) const {
    if (!index_.empty()) return find(Value::text(key));
    for (const auto& [name, value] : items_) {
        const Text* text = name.text();
        if (text && text->bytes.size() == key.size()) {
            charge_work(key.size());
            if (text->view() == key) return &value;
        }
    }
    return nullptr;
}

void Dict::insert(Value key, Value value) {
    depth = checked_depth(std::max({depth, value.depth() + 1, key.depth() + 1}));
    if (const Value* found = find(key)) {
        const_cast<Value&>(*found) = std::move(value);
        return;
    }
    constexpr std::size_t kWorthAnIndex = 16;
    items_.emplace_back(std::move(key), std::move(value));
    if (!index_.empty()) {
        index_.emplace(items_.back().first, items_.size() - 1);
    } else if (items_.size() > kWorthAnIndex) {
        for (std::size_t i = 0; i < items_.size(); ++i) index_.emplace(items_[i].first, i);
    }
}

Value make_list(Vector<Value>&& elements, Sequence::Flavor flavor) {
    return make<Sequence>(std::move(elements), flavor);
}

namespace {

Value from_json(const nlohmann::ordered_json& json, int level) {
    if (level > kMaxValueDepth) throw Failure("the messages nest too deeply", Failure::Reason::budget);
    Budget::current()->step();
    using Type = nlohmann::ordered_json::value_t;
    switch (json.type()) {
        case Type::boolean: return json.get<bool>();
        case Type::number_integer: return json.get<std::int64_t>();
        case Type::number_unsigned: {
            const auto number = json.get<std::uint64_t>();
            if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                type_error("the number " + std::to_string(number) + " is too large");
            return static_cast<std::int64_t>(number);
        }
        case Type::number_float: return json.get<double>();
        case Type::string: {
            const std::string& text = json.get_ref<const std::string&>();
            if (!is_valid_utf8(text)) type_error("a text of the conversation is not UTF-8");
            return Value::text(text);
        }
        case Type::array: {
            Vector<Value> elements;
            elements.reserve(json.size());
            for (const auto& element : json) elements.push_back(from_json(element, level + 1));
            return make_list(std::move(elements));
        }
        case Type::object: {
            auto dict = make<Dict>();
            for (const auto& [key, value] : json.items()) {
                if (!is_valid_utf8(key)) type_error("a key of the conversation is not UTF-8");
                dict->insert(Value::text(key), from_json(value, level + 1));
            }
            return dict;
        }
        default: return None{};
    }
}

}  // namespace

Value from_json(const nlohmann::ordered_json& json) { return from_json(json, 0); }

std::string_view type_name(const Value& value) {
    if (value.is_undefined()) return "Undefined";
    if (value.is_none()) return "NoneType";
    if (value.get<bool>()) return "bool";
    if (value.get<std::int64_t>()) return "int";
    if (value.get<double>()) return "float";
    if (const Text* text = value.text()) return text->safe ? "Markup" : "str";
    if (value.dict()) return "dict";
    if (const Object* object = value.object()) return object->type_name();
    switch (value.sequence()->flavor) {
        case Sequence::Flavor::list: return "list";
        case Sequence::Flavor::tuple: return "tuple";
        case Sequence::Flavor::range: return "range";
        case Sequence::Flavor::keys: return "dict_keys";
        case Sequence::Flavor::values: return "dict_values";
        case Sequence::Flavor::items: return "dict_items";
        case Sequence::Flavor::generator: return "generator";
    }
    return "";
}

bool truth(const Value& value) {
    if (value.is_undefined() || value.is_none()) return false;
    if (const auto number = value.number()) return *number != 0;
    if (const Text* text = value.text()) return text->length > 0;
    if (const Dict* dict = value.dict()) return !dict->items().empty();
    if (const Sequence* sequence = value.sequence())
        return sequence->flavor == Sequence::Flavor::generator || !sequence->elements.empty();
    return true;
}

bool equal(const Value& a, const Value& b) {
    Budget::current()->step();
    if (a.is_number() && b.is_number()) {
        const auto x = a.integer(), y = b.integer();
        return x && y ? *x == *y : *a.number() == *b.number();
    }
    if (const Text *x = a.text(), *y = b.text(); x && y) {
        if (x->bytes.size() != y->bytes.size()) return false;
        charge_work(x->bytes.size());
        return x->bytes == y->bytes;
    }
    if (const Sequence *x = a.sequence(), *y = b.sequence(); x && y) {
        if (x == y) return true;
        if (x->flavor != y->flavor || x->flavor == Sequence::Flavor::generator || x->flavor == Sequence::Flavor::values)
            return false;
        return std::equal(x->elements.begin(), x->elements.end(), y->elements.begin(), y->elements.end(), equal);
    }
    if (const Dict *x = a.dict(), *y = b.dict(); x && y) {
        if (x->items().size() != y->items().size()) return false;
        for (const auto& [key, value] : x->items()) {
            const Value* other = y->find(key);
            if (!other || !equal(value, *other)) return false;
        }
        return true;
    }
    if (a.object() || b.object()) return a.object() == b.object();
    return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b, const char* symbol) {
    Budget::current()->step();
    if (a.is_number() && b.is_number()) {
        const auto x = a.integer(), y = b.integer();
        return x && y ? *x < *y : *a.number() < *b.number();
    }
    if (const Text *x = a.text(), *y = b.text(); x && y) {
        charge_work(std::min(x->bytes.size(), y->bytes.size()));
        return x->bytes < y->bytes;  // UTF-8 sorts as its code points do
    }
    if (const Sequence *x = a.sequence(), *y = b.sequence();
        x && y && x->flavor == y->flavor && x->flavor <= Sequence::Flavor::tuple) {
        for (std::size_t i = 0; i < x->elements.size() && i < y->elements.size(); ++i)
            if (!equal(x->elements[i], y->elements[i])) return less(x->elements[i], y->elements[i], symbol);
        return x->elements.size() < y->elements.size();
    }
    for (const Value* value : {&a, &b})
        if (value->is_undefined()) throw Failure(value->undefined_message());
    type_error("'" + std::string(symbol) + "' not supported between instances of '" + std::string(type_name(a)) +
               "' and '" + std::string(type_name(b)) + "'");
}

String repr_float(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char buffer[40];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    const std::string_view shortest(buffer, end - buffer);
    const std::size_t e = shortest.find('e');
    int exponent = 0;
    const char* sign_end = shortest.data() + e + 1;
    std::from_chars(*sign_end == '+' ? sign_end + 1 : sign_end, end, exponent);
    String digits, out;
    for (const char c : shortest.substr(0, e))
        if (c >= '0' && c <= '9') digits += c;
    if (shortest[0] == '-') out = "-";
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        out += digits[0];
        if (count > 1) out += "." + digits.substr(1);
        out += exponent < 0 ? "e-" : "e+";
        const std::string number = std::to_string(std::abs(exponent));
        out += number.size() < 2 ? "0" + number : number;
    } else if (exponent < 0) {
        out += "0." + String(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    } else if (count <= exponent + 1) {
        out += digits + String(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
    } else {
        out += digits.substr(0, static_cast<std::size_t>(exponent) + 1) + "." +
               digits.substr(static_cast<std::size_t>(exponent) + 1);
    }
    return out;
}

namespace {

String repr_text(std::string_view text) {
    const bool double_quotes =
        text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
    const char quote = double_quotes ? '"' : '\'';
    String out(1, quote);
    for (std::size_t offset = 0; offset < text.size();) {
        const std::size_t start = offset;
        const char32_t c = next_code_point(text, offset);
        char buffer[16];
        if (c == static_cast<char32_t>(quote) || c == '\\') (out += '\\') += static_cast<char>(c);
        else if (c == '\n') out += "\\n";
        else if (c == '\r') out += "\\r";
        else if (c == '\t') out += "\\t";
        else if (c >= ' ' && c < 0x7F) out += static_cast<char>(c);
        else if (c >= 0x80 && is_printable(c)) out += text.substr(start, offset - start);
        else {
            const char* form = c <= 0xFF ? "\\x%02x" : c <= 0xFFFF ? "\\u%04x" : "\\U%08x";
            std::snprintf(buffer, sizeof buffer, form, static_cast<unsigned>(c));
            out += buffer;
        }
    }
    return out += quote;
}

String repr_elements(const Vector<Value>& elements, int level) {
    String out;
    for (const Value& element : elements) {
        if (!out.empty()) out += ", ";
        out += repr(element, level + 1);
    }
    return out;
}

String repr_sequence(const Sequence& sequence, int level) {
    switch (sequence.flavor) {
        case Sequence::Flavor::list: return "[" + repr_elements(sequence.elements, level) + "]";
        case Sequence::Flavor::tuple:
            return "(" + repr_elements(sequence.elements, level) + (sequence.elements.size() == 1 ? ",)" : ")");
        case Sequence::Flavor::range: {
            const auto& [start, stop, step] = sequence.bounds;
            String out("range(");
            out += std::to_string(start) + ", " + std::to_string(stop);
            if (step != 1) out += ", " + std::to_string(step);
            return out += ")";
        }
        case Sequence::Flavor::keys: return "dict_keys([" + repr_elements(sequence.elements, level) + "])";
        case Sequence::Flavor::values: return "dict_values([" + repr_elements(sequence.elements, level) + "])";
        case Sequence::Flavor::items: return "dict_items([" + repr_elements(sequence.elements, level) + "])";
        case Sequence::Flavor::generator: return "<generator object>";
    }
    return {};
}

}  // namespace

String repr(const Value& value, int level) {
    if (level > 2 * kMaxValueDepth) throw Failure("values nest too deeply", Failure::Reason::budget);
    Budget::current()->step();
    if (value.is_undefined()) return "Undefined";
    if (value.is_none()) return "None";
    if (const auto* flag = value.get<bool>()) return *flag ? "True" : "False";
    if (const auto* number = value.get<std::int64_t>()) return String(std::to_string(*number));
    if (const auto* number = value.get<double>()) return repr_float(*number);
    if (const Text* text = value.text())
        return text->safe ? "Markup(" + repr_text(text->bytes) + ")" : repr_text(text->bytes);
    if (const Sequence* sequence = value.sequence()) return repr_sequence(*sequence, level);
    if (const Object* object = value.object()) return object->repr(level);
    String out;
    for (const auto& [key, element] : value.dict()->items()) {
        out += out.empty() ? "{" : ", ";
        out += repr(key, level + 1);
        out += ": ";
        out += repr(element, level + 1);
    }
    return out.empty() ? "{}" : out += "}";
}

String to_string(const Value& value) {
    if (value.is_undefined()) return {};
    if (const Text* text = value.text()) return text->bytes;
    return repr(value);
}

bool is_iterable(const Value& value) {
    if (const Object* object = value.object()) return object->type_name() == "LoopContext";
    return value.is_undefined() || value.text() || value.sequence() || value.dict();
}

Ref<Sequence> iterate(const Value& value) {
    if (const auto* sequence = value.get<Ref<Sequence>>()) {
        if ((*sequence)->flavor != Sequence::Flavor::generator) return *sequence;
        Vector<Value> rest;
        while (const Value* element = (*sequence)->next()) rest.push_back(*element);
        return make<Sequence>(std::move(rest));
    }
    Vector<Value> elements;
    if (const Text* text = value.text()) {
        elements.reserve(text->length);
        for (std::size_t offset = 0; offset < text->bytes.size();) {
            const std::size_t start = offset;
            next_code_point(text->bytes, offset);
            elements.push_back(Value::text(text->view().substr(start, offset - start)));
        }
    } else if (const Dict* dict = value.dict()) {
        elements.reserve(dict->items().size());
        for (const auto& item : dict->items()) elements.push_back(item.first);
    } else if (!value.is_undefined()) {
        type_error("'" + std::string(type_name(value)) + "' object is not iterable");
    }
    return make<Sequence>(std::move(elements));
}

std::int64_t length_of(const Value& value) {
    if (value.is_undefined()) return 0;
    if (const Text* text = value.text()) return static_cast<std::int64_t>(text->length);
    if (const Dict* dict = value.dict()) return static_cast<std::int64_t>(dict->items().size());
    if (const Sequence* sequence = value.sequence(); sequence && sequence->flavor != Sequence::Flavor::generator)
        return static_cast<std::int64_t>(sequence->elements.size());
    if (const auto length = value.object() ? value.object()->attribute("length") : std::nullopt)
        return length->integer().value_or(0);
    type_error("object of type '" + std::string(type_name(value)) + "' has no len()");
}

bool contains(const Value& haystack, const Value& needle) {
    if (const Text* text = haystack.text()) {
        const Text* part = needle.text();
        if (!part)
            type_error("'in <string>' requires string as left operand, not " + std::string(type_name(needle)));
        return find_text(text->view(), part->view()) != std::string_view::npos;
    }
    if (const Dict* dict = haystack.dict()) return dict->find(needle) != nullptr;
    if (haystack.is_undefined()) return false;
    if (const Sequence* sequence = haystack.sequence()) {
        if (sequence->flavor == Sequence::Flavor::generator) {
            while (const Value* element = sequence->next())
                if (equal(*element, needle)) return true;
            return false;
        }
        return std::any_of(sequence->elements.begin(), sequence->elements.end(),
                           [&](const Value& element) { return equal(element, needle); });
    }
    type_error("argument of type '" + std::string(type_name(haystack)) + "' is not iterable");
}

Value get_attribute(const Value& object, std::string_view name) {
    if (object.is_undefined()) throw Failure(object.undefined_message());
    if (auto found = find_method(object, name)) return std::move(*found);
    if (const Dict* dict = object.dict())
        if (const Value* value = dict->find(name)) return *value;
    String message("'");
    message += type_name(object);
    message += " object' has no attribute '";
    message += name;
    return Value::undefined(message += "'");
}

Value get_item(const Value& object, const Value& key) {
    if (object.is_undefined()) throw Failure(object.undefined_message());
    if (const Dict* dict = object.dict()) {
        const bool hashable = !key.dict() && !(key.sequence() && key.sequence()->flavor == Sequence::Flavor::list);
        if (const Value* value = hashable ? dict->find(key) : nullptr) return *value;
    } else if (const auto index = key.integer()) {
        const Sequence* sequence = object.sequence();
        const Text* text = object.text();
        if (text || (sequence && sequence->indexable())) {
            const auto length = static_cast<std::int64_t>(text ? text->length : sequence->elements.size());
            const std::int64_t position = *index < 0 ? *index + length : *index;
            if (position >= 0 && position < length) {
                if (sequence) return sequence->elements[static_cast<std::size_t>(position)];
                const std::size_t start = text->offset(static_cast<std::size_t>(position));
                std::size_t end = start;
                next_code_point(text->bytes, end);
                return Value::text(text->view().substr(start, end - start));
            }
        }
    }
    if (const Text* name = key.text())
        if (auto found = find_method(object, name->view())) return std::move(*found);
    String message(type_name(object));
    message += " object has no element ";
    const String shown = repr(key);
    return Value::undefined(message += shown.substr(0, 200));
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
    const auto bound = [](const Value& value, std::int64_t fallback) {
        if (value.is_none()) return fallback;
        if (const auto number = value.integer()) return *number;
        type_error("slice indices must be integers or None or have an __index__ method");
    };
    if (object.is_undefined()) throw Failure(object.undefined_message());
    const Text* text = object.text();
    const Sequence* sequence = object.sequence();
    if (!text && !(sequence && sequence->indexable())) return get_item(object, Value::text("slice"));
    const auto length = static_cast<std::int64_t>(text ? text->length : sequence->elements.size());
    const std::int64_t stride = bound(step, 1);
    if (stride == 0) type_error("slice step cannot be zero");
    const bool forward = stride > 0;
    const std::int64_t lowest = forward ? 0 : -1, highest = forward ? length : length - 1;
    const std::int64_t first = start.is_none() ? (forward ? lowest : highest)
                                               : clamp_bound(bound(start, 0), length, lowest, highest);
    const std::int64_t last = stop.is_none() ? (forward ? highest : lowest)
                                             : clamp_bound(bound(stop, 0), length, lowest, highest);
    if (text && stride == 1) {
        if (first >= last) return Value::text("");
        const std::size_t from = text->offset(static_cast<std::size_t>(first));
        const std::size_t to = text->offset(static_cast<std::size_t>(last));
        return Value::text(text->view().substr(from, to - from));
    }
    const Ref<Sequence> source = text ? iterate(object) : *object.get<Ref<Sequence>>();
    Vector<Value> elements;
    for (std::int64_t i = first; forward ? i < last : i > last;) {
        Budget::current()->step();
        elements.push_back(source->elements[static_cast<std::size_t>(i)]);
        if (__builtin_add_overflow(i, stride, &i)) break;
    }
    if (!text) return make_list(std::move(elements), sequence->flavor);
    String joined;
    for (const Value& element : elements) joined += element.text()->bytes;
    return Value::text(std::move(joined));
}

}  // namespace mixwright::jinja
