// Filters of lists and mappings.
#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "jinja/filters.h"
#include "jinja/interpreter.h"
#include "jinja/methods.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

using Elements = Vector<Value>;

/// Jinja's dotted attribute: "function.name", or an index.
class Getter {
public:
    /// `fallback` stands in wherever a part is undefined.
    explicit Getter(const Value& attribute, std::optional<Value> fallback = {}) : fallback_(std::move(fallback)) {
        if (!attribute.text()) {
            parts_.push_back(attribute);
            return;
        }
        for (std::string_view rest = attribute.text()->view();;) {
            const std::size_t dot = rest.find('.');
            const std::string_view part = rest.substr(0, dot);
            std::int64_t index = 0;
            const auto end = std::from_chars(part.data(), part.data() + part.size(), index).ptr;
            const bool number = !part.empty() && part[0] != '-' && end == part.data() + part.size();
            parts_.push_back(number ? Value(index) : Value::text(part));
            if (dot == std::string_view::npos) return;
            rest.remove_prefix(dot + 1);
        }
    }
    Value operator()(const Value& element) const {
        Value value = element;
        for (const Value& part : parts_) {
            Budget::current()->step();
            value = get_item(value, part);
            if (fallback_ && value.is_undefined()) value = *fallback_;
        }
        return value;
    }

private:
    Elements parts_;
    std::optional<Value> fallback_;
};

/// What elements are compared by: an attribute or themselves, and without case unless asked for.
class Key {
public:
    Key(const std::optional<Value>& attribute, bool case_sensitive) : case_sensitive_(case_sensitive) {
        if (attribute && !attribute->is_none()) getter_.emplace(*attribute);
    }
    Value operator()(const Value& element) const {
        Value value = getter_ ? (*getter_)(element) : element;
        if (!case_sensitive_ && value.text()) value = Value::text(lower(value.text()->view()));
        return value;
    }

private:
    std::optional<Getter> getter_;
    bool case_sensitive_;
};

void stable_sort_by(Elements& elements, const Vector<Value>& keys, bool reverse) {
    Vector<std::size_t> order(elements.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return reverse ? less(keys[b], keys[a]) : less(keys[a], keys[b]); });
    Elements sorted;
    sorted.reserve(elements.size());
    for (const std::size_t i : order) sorted.push_back(elements[i]);
    elements = std::move(sorted);
}

Value generator(Elements&& elements) { return make_list(std::move(elements), Sequence::Flavor::generator); }

Value join(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("join", arguments, {"d", "attribute"});
    const String separator = bound[0] ? to_string(*bound[0]) : String();
    std::optional<Getter> getter;
    if (bound[1] && !bound[1]->is_none()) getter.emplace(*bound[1]);
    String out;
    bool first = true;
    for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements) {
        Budget::current()->step();
        if (!std::exchange(first, false)) out += separator;
        out += to_string(getter ? (*getter)(element) : element);
    }
    return Value::text(std::move(out));
}

Value first(Frame&, const Value& input, const Arguments&) {
    if (const Sequence* sequence = input.sequence(); sequence && sequence->flavor == Sequence::Flavor::generator) {
        const Value* element = sequence->next();
        return element ? *element : Value::undefined("No first item, sequence was empty.");
    }
    const Ref<Sequence> sequence = iterate(input);
    return sequence->elements.empty() ? Value::undefined("No first item, sequence was empty.") : sequence->elements.front();
}

Value last(Frame&, const Value& input, const Arguments&) {
    if (input.sequence() && input.sequence()->flavor == Sequence::Flavor::generator)
        type_error("'generator' object is not reversible");
    if (input.is_undefined()) throw Failure(input.undefined_message());
    const Ref<Sequence> sequence = iterate(input);
    return sequence->elements.empty() ? Value::undefined("No last item, sequence was empty.") : sequence->elements.back();
}

Value list(Frame&, const Value& input, const Arguments&) {
    Elements elements = iterate(input)->elements;
    return make_list(std::move(elements));
}

Value items(Frame& frame, const Value& input, const Arguments&) {
    if (input.is_undefined()) return generator({});
    if (!input.dict()) type_error("Can only get item pairs from a mapping.");
    const Value pairs = frame.interpreter.call(*find_method(input, "items"), {});
    Elements elements = pairs.sequence()->elements;
    return generator(std::move(elements));
}

Value reverse(Frame&, const Value& input, const Arguments&) {
    Elements elements = iterate(input)->elements;
    std::reverse(elements.begin(), elements.end());
    if (!input.text()) return generator(std::move(elements));
    String out;
    for (const Value& element : elements) out += element.text()->bytes;
    return Value::text(std::move(out));
}

Value sort(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
    Elements elements = iterate(input)->elements, keys;
    Vector<Key> parts;
    if (bound[2] && bound[2]->text()) {
        for (std::string_view rest = bound[2]->text()->view();;) {
            const std::size_t comma = rest.find(',');
            parts.emplace_back(Value::text(rest.substr(0, comma)), bound.flag(1));
            if (comma == std::string_view::npos) break;
            rest.remove_prefix(comma + 1);
        }
    } else {
        parts.emplace_back(bound[2], bound.flag(1));
    }
    for (const Value& element : elements) {
        Elements key;
        for (const Key& part : parts) key.push_back(part(element));
        keys.push_back(key.size() == 1 ? key[0] : make_list(std::move(key)));
    }
    stable_sort_by(elements, keys, bound.flag(0));
    return make_list(std::move(elements));
}

Value dictsort(Frame& frame, const Value& input, const Arguments& arguments) {
    const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
    const std::string_view by = bound.text(1, "key");
    if (by != "key" && by != "value") type_error("You can only sort by either \"key\" or \"value\"");
    if (input.is_undefined()) throw Failure(input.undefined_message());
    if (!input.dict()) type_error("'" + std::string(type_name(input)) + "' object has no attribute 'items'");
    const Value pairs = frame.interpreter.call(*find_method(input, "items"), {});
    Elements elements = pairs.sequence()->elements, keys;
    const Key key({}, bound.flag(0));
    for (const Value& pair : elements) keys.push_back(key(pair.sequence()->elements[by == "key" ? 0 : 1]));
    stable_sort_by(elements, keys, bound.flag(2));
    return make_list(std::move(elements));
}

Value unique(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
    const Key key(bound[1], bound.flag(0));
    Dict seen;
    Elements kept;
    for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements) {
        const Value name = key(element);
        if (seen.find(name)) continue;
        seen.insert(name, None{});
        kept.push_back(element);
    }
    return generator(std::move(kept));
}

template <bool largest>
Value extreme(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("max", arguments, {"case_sensitive", "attribute"});
    const Key key(bound[1], bound.flag(0));
    const Ref<Sequence> sequence = iterate(input);
    if (sequence->elements.empty()) return Value::undefined("No aggregated item, sequence was empty.");
    const Value* best = nullptr;
    Value best_key;
    for (const Value& element : sequence->elements) {
        const Value name = key(element);
        if (best && !(largest ? less(best_key, name, ">") : less(name, best_key))) continue;
        best = &element;
        best_key = name;
    }
    return *best;
}

Value sum(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("sum", arguments, {"attribute", "start"});
    const Key key(bound[0], true);
    Value total = bound.get(1, std::int64_t{0});
    if (total.text()) type_error("sum() can't sum strings [use ''.join(seq) instead]");
    for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements) total = arithmetic(Operator::add, total, key(element));
    return total;
}

Value group_by(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
    const Getter value_of(*bound[0], bound[1]);
    Elements elements = iterate(input)->elements, keys, groups;
    const Key fold({}, bound.flag(2));
    for (const Value& element : elements) keys.push_back(fold(value_of(element)));
    stable_sort_by(elements, keys, false);
    for (std::size_t i = 0; i < elements.size();) {
        const Value name = value_of(elements[i]), folded = fold(name);
        Elements members;
        for (; i < elements.size() && equal(fold(value_of(elements[i])), folded); ++i) members.push_back(elements[i]);
        groups.push_back(make_list({name, make_list(std::move(members))}, Sequence::Flavor::tuple));
    }
    return make_list(std::move(groups));
}

Value batch(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
    const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bound.integer(0, 1), 1));
    if (size > Budget::current()->limits().memory / sizeof(Value)) type_error("the batch is too large");
    Elements rows, row;
    const Ref<Sequence> sequence = iterate(input);
    for (const Value& element : sequence->elements) {
        if (row.size() == size) rows.push_back(make_list(std::exchange(row, {})));
        row.push_back(element);
    }
    if (!row.empty()) {
        if (bound[1] && !bound[1]->is_none()) row.resize(size, *bound[1]);
        rows.push_back(make_list(std::move(row)));
    }
    return generator(std::move(rows));
}

Value slice(Frame&, const Value& input, const Arguments& arguments) {
    const Bound bound("slice", arguments, {"slices", "fill_with"}, 1);
    const std::int64_t slices = bound.integer(0, 1);
    const Ref<Sequence> sequence = iterate(input);
    const auto length = static_cast<std::int64_t>(sequence->elements.size());
    if (slices <= 0) type_error("integer division or modulo by zero");
    Elements out;
    std::int64_t start = 0;
    for (std::int64_t i = 0; i < slices; ++i) {
        Budget::current()->step();
        const std::int64_t size = length / slices + (i < length % slices ? 1 : 0);
        Elements part(sequence->elements.begin() + start, sequence->elements.begin() + start + size);
        if (bound[1] && !bound[1]->is_none() && i >= length % slices) part.push_back(*bound[1]);
        out.push_back(make_list(std::move(part)));
        start += size;
    }
    return generator(std::move(out));
}

Value map(Frame& frame, const Value& input, const Arguments& arguments) {
    Elements out;
    if (!truth(input)) return generator({});  // even none
    if (arguments.positional.empty()) {
        const Bound bound("map", arguments, {"attribute", "default"}, 1);
        const Getter getter(*bound[0], bound[1]);
        for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements)
            out.push_back(getter(element));
        return generator(std::move(out));
    }
    const Text* name = arguments.positional[0].text();
    const Filter filter = name ? find_filter(name->view()) : nullptr;
    if (!filter) throw Failure("No filter named '" + std::string(name ? name->view().substr(0, 60) : "?") + "'.");
    Arguments rest = arguments;
    rest.positional.erase(rest.positional.begin());
    // map("map", "map", ...) goes down a level each time.
    Budget::current()->check_stack();
    for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements) {
        Budget::current()->step();
        out.push_back(filter(frame, element, rest));
    }
    return generator(std::move(out));
}

template <bool by_attribute, bool keep>
Value choose(Frame& frame, const Value& input, const Arguments& arguments) {
    if (!truth(input)) return generator({});  // even none
    Arguments rest = arguments;
    std::optional<Getter> getter;
    if (by_attribute) {
        if (rest.positional.empty()) type_error("Missing parameter for attribute name");
        getter.emplace(rest.positional[0]);
        rest.positional.erase(rest.positional.begin());
    }
    Test test = nullptr;
    if (!rest.positional.empty()) {
        const Text* name = rest.positional[0].text();
        test = name ? find_test(name->view()) : nullptr;
        if (!test) throw Failure("No test named '" + std::string(name ? name->view().substr(0, 60) : "?") + "'.");
        rest.positional.erase(rest.positional.begin());
    }
    Elements kept;
    for (const Ref<Sequence> elements = iterate(input); const Value& element : elements->elements) {
        Budget::current()->step();
        const Value value = getter ? (*getter)(element) : element;
        if ((test ? test(frame, value, rest) : truth(value)) == keep) kept.push_back(element);
    }
    return generator(std::move(kept));
}

Value length(Frame&, const Value& input, const Arguments&) { return length_of(input); }

}  // namespace

Filter find_sequence_filter(std::string_view name) {
    static const std::unordered_map<std::string_view, Filter> table = {
        {"batch", batch},
        {"count", length},
        {"dictsort", dictsort},
        {"first", first},
        {"groupby", group_by},
        {"items", items},
        {"join", join},
        {"last", last},
        {"length", length},
        {"list", list},
        {"map", map},
        {"max", extreme<true>},
        {"min", extreme<false>},
        {"reject", choose<false, false>},
        {"rejectattr", choose<true, false>},
        {"reverse", reverse},
        {"select", choose<false, true>},
        {"selectattr", choose<true, true>},
        {"slice", slice},
        {"sort", sort},
        {"sum", sum},
        {"unique", unique},
    };
    const auto it = table.find(name);
    return it == table.end() ? nullptr : it->second;
}

}  // namespace mixwright::jinja
