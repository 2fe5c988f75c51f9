// What can stand behind "is".
#include <unordered_map>

#include "jinja/filters.h"
#include "jinja/interpreter.h"
#include "jinja/methods.h"
#include "jinja/operators.h"

namespace mixwright::jinja {

namespace {

const Value& other(std::string_view name, const Arguments& arguments, std::optional<Value>& kept) {
    kept = Bound(name, arguments, {"other"}, 1)[0];
    return *kept;
}

template <Comparison comparison>
bool compares(Frame&, const Value& input, const Arguments& arguments) {
    std::optional<Value> kept;
    return compare(comparison, input, other("test", arguments, kept));
}

template <int wanted>
bool parity(Frame&, const Value& input, const Arguments&) {
    const Value rest = arithmetic(Operator::modulo, input, Value(std::int64_t{2}));
    return equal(rest, Value(std::int64_t{wanted}));
}

bool divisible(Frame&, const Value& input, const Arguments& arguments) {
    std::optional<Value> kept;
    return equal(arithmetic(Operator::modulo, input, other("divisibleby", arguments, kept)), Value(std::int64_t{0}));
}

bool same(Frame&, const Value& input, const Arguments& arguments) {
    std::optional<Value> kept;
    const Value& value = other("sameas", arguments, kept);
    if (input.sequence() || value.sequence()) return input.sequence() == value.sequence();
    if (input.dict() || value.dict()) return input.dict() == value.dict();
    if (input.object() || value.object()) return input.object() == value.object();
    return type_name(input) == type_name(value) && equal(input, value);
}

bool is_sequence(Frame&, const Value& input, const Arguments&) {
    return input.is_undefined() || input.text() || input.dict() || (input.sequence() && input.sequence()->indexable());
}

bool names_filter(Frame&, const Value& input, const Arguments&) { return input.text() && find_filter(input.text()->view()); }
bool names_test(Frame&, const Value& input, const Arguments&) { return input.text() && find_test(input.text()->view()); }

using TestTable = std::unordered_map<std::string_view, Test>;

}  // namespace

Test find_test(std::string_view name) {
    static const TestTable table = {
        {"boolean", [](Frame&, const Value& v, const Arguments&) { return v.get<bool>() != nullptr; }},
        {"callable", [](Frame&, const Value& v, const Arguments&) { return v.is_undefined() || (v.object() && v.object()->callable()); }},
        {"defined", [](Frame&, const Value& v, const Arguments&) { return !v.is_undefined(); }},
        {"divisibleby", divisible},
        {"escaped", [](Frame&, const Value& v, const Arguments&) { return v.text() && v.text()->safe; }},
        {"even", parity<0>},
        {"false", [](Frame&, const Value& v, const Arguments&) { return v.get<bool>() && !*v.get<bool>(); }},
        {"filter", names_filter},
        {"float", [](Frame&, const Value& v, const Arguments&) { return v.get<double>() != nullptr; }},
        {"integer", [](Frame&, const Value& v, const Arguments&) { return v.get<std::int64_t>() != nullptr; }},
        {"iterable", [](Frame&, const Value& v, const Arguments&) { return is_iterable(v); }},
        {"lower", [](Frame&, const Value& v, const Arguments&) { return is_lower_text(to_string(v)); }},
        {"mapping", [](Frame&, const Value& v, const Arguments&) { return v.dict() != nullptr; }},
        {"none", [](Frame&, const Value& v, const Arguments&) { return v.is_none(); }},
        {"number", [](Frame&, const Value& v, const Arguments&) { return v.is_number(); }},
        {"odd", parity<1>},
        {"sameas", same},
        {"sequence", is_sequence},
        {"string", [](Frame&, const Value& v, const Arguments&) { return v.text() != nullptr; }},
        {"test", names_test},
        {"true", [](Frame&, const Value& v, const Arguments&) { return v.get<bool>() && *v.get<bool>(); }},
        {"undefined", [](Frame&, const Value& v, const Arguments&) { return v.is_undefined(); }},
        {"upper", [](Frame&, const Value& v, const Arguments&) { return is_upper_text(to_string(v)); }},
        {"in", compares<Comparison::in>},
        {"==", compares<Comparison::equal>},
        {"eq", compares<Comparison::equal>},
        {"equalto", compares<Comparison::equal>},
        {"!=", compares<Comparison::not_equal>},
        {"ne", compares<Comparison::not_equal>},
        {"<", compares<Comparison::less>},
        {"lt", compares<Comparison::less>},
        {"lessthan", compares<Comparison::less>},
        {"<=", compares<Comparison::less_equal>},
        {"le", compares<Comparison::less_equal>},
        {">", compares<Comparison::greater>},
        {"gt", compares<Comparison::greater>},
        {"greaterthan", compares<Comparison::greater>},
        {">=", compares<Comparison::greater_equal>},
        {"ge", compares<Comparison::greater_equal>},
    };
    const auto it = table.find(name);
    return it == table.end() ? nullptr : it->second;
}

}  // namespace mixwright::jinja
