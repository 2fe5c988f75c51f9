#include "jinja/operators.h"

#include <cmath>

#include "jinja/format.h"

namespace mixwright::jinja {

namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**", "~"};

[[noreturn]] void unsupported(Operator op, const Value& a, const Value& b) {
    for (const Value* value : {&a, &b})
        if (value->is_undefined()) throw Failure(value->undefined_message());
    if (op == Operator::add && a.text())
        type_error("can only concatenate str (not \"" + std::string(type_name(b)) + "\") to str");
    type_error("unsupported operand type(s) for " + std::string(kSymbols[static_cast<int>(op)]) + ": '" +
               std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

[[noreturn]] void overflow() { type_error("an integer is too large"); }

Value whole_power(std::int64_t base, std::int64_t exponent) {
    if (exponent < 0) {
        if (base == 0) type_error("0.0 cannot be raised to a negative power");
        return std::pow(static_cast<double>(base), static_cast<double>(exponent));
    }
    std::int64_t result = 1;
    while (true) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) overflow();
        if ((exponent >>= 1) == 0) return result;
        if (__builtin_mul_overflow(base, base, &base)) overflow();
    }
}

Value whole(Operator op, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    switch (op) {
        case Operator::add:
            if (__builtin_add_overflow(a, b, &result)) overflow();
            return result;
        case Operator::subtract:
            if (__builtin_sub_overflow(a, b, &result)) overflow();
            return result;
        case Operator::multiply:
            if (__builtin_mul_overflow(a, b, &result)) overflow();
            return result;
        case Operator::power: return whole_power(a, b);
        default: break;
    }
    if (b == 0) type_error(op == Operator::divide ? "division by zero" : "integer division or modulo by zero");
    if (op == Operator::divide) return static_cast<double>(a) / static_cast<double>(b);
    if (b == -1) return op == Operator::modulo ? Value(std::int64_t{0}) : whole(Operator::subtract, 0, a);
    const std::int64_t quotient = a / b, rest = a % b;
    const bool floor = rest != 0 && (rest < 0) != (b < 0);
    return op == Operator::modulo ? rest + (floor ? b : 0) : quotient - (floor ? 1 : 0);
}

Value real(Operator op, double a, double b) {
    switch (op) {
        case Operator::add: return a + b;
        case Operator::subtract: return a - b;
        case Operator::multiply: return a * b;
        case Operator::power: {
            const double result = std::pow(a, b);
            if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) type_error("a power has no real value");
            if (a == 0 && b < 0) type_error("0.0 cannot be raised to a negative power");
            if (std::isinf(result) && !std::isinf(a) && !std::isinf(b)) type_error("Numerical result out of range");
            return result;
        }
        default: break;
    }
    if (b == 0) type_error("float division by zero");
    if (op == Operator::divide) return a / b;
    double rest = std::fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
    if (op == Operator::modulo) return rest == 0 ? std::copysign(0.0, b) : rest;
    const double quotient = (a - rest) / b;
    return quotient == 0 ? std::copysign(0.0, a / b) : std::floor(quotient + 0.5);
}

Value repeat(const Value& value, std::int64_t times) {
    const std::size_t count = times > 0 ? static_cast<std::size_t>(times) : 0;
    const std::size_t limit = Budget::current()->limits().memory;
    if (const Text* text = value.text()) {
        if (!text->bytes.empty() && count > limit / text->bytes.size()) Budget::current()->allocate(limit + 1);
        String out;
        out.reserve(text->bytes.size() * count);
        for (std::size_t i = 0; i < count && !text->bytes.empty(); ++i) out += text->bytes;
        Budget::current()->step(text->bytes.empty() ? 0 : count >> 3);
        return Value::text(std::move(out), text->safe);
    }
    const Sequence& sequence = *value.sequence();
    const std::size_t size = sequence.elements.size();
    if (size > 0 && count > limit / sizeof(Value) / size) Budget::current()->allocate(limit + 1);
    Vector<Value> out;
    out.reserve(size * count);
    for (std::size_t i = 0; i < count && size > 0; ++i) out.insert(out.end(), sequence.elements.begin(), sequence.elements.end());
    return make_list(std::move(out), sequence.flavor);
}

}  // namespace

String escape_html(std::string_view text) {
    String out;
    for (const char c : text) switch (c) {
            case '&': out += "&amp;"; break;
            case '<': out += "&lt;"; break;
            case '>': out += "&gt;"; break;
            case '\'': out += "&#39;"; break;
            case '"': out += "&#34;"; break;
            default: out += c;
        }
    return out;
}

Value arithmetic(Operator op, const Value& a, const Value& b) {
    Budget::current()->step();
    if (a.is_number() && b.is_number()) {
        const auto x = a.integer(), y = b.integer();
        return x && y ? whole(op, *x, *y) : real(op, *a.number(), *b.number());
    }
    const Text *text = a.text(), *other_text = b.text();
    const Sequence *list = a.sequence(), *other_list = b.sequence();
    if (op == Operator::add && text && other_text) {
        const bool safe = text->safe || other_text->safe;
        String out;
        out.reserve(text->bytes.size() + other_text->bytes.size());
        for (const Text* part : {text, other_text}) {
            if (safe && !part->safe) out += escape_html(part->bytes);
            else out += part->bytes;
        }
        return Value::text(std::move(out), safe);
    }
    if (op == Operator::add && list && other_list && list->flavor == other_list->flavor &&
        list->flavor <= Sequence::Flavor::tuple) {
        Vector<Value> out;
        out.reserve(list->elements.size() + other_list->elements.size());
        out.insert(out.end(), list->elements.begin(), list->elements.end());
        out.insert(out.end(), other_list->elements.begin(), other_list->elements.end());
        return make_list(std::move(out), list->flavor);
    }
    if (op == Operator::multiply) {
        const auto repeatable = [](const Value& v) {
            return v.text() || (v.sequence() && v.sequence()->flavor <= Sequence::Flavor::tuple);
        };
        if (repeatable(a) && b.integer()) return repeat(a, *b.integer());
        if (repeatable(b) && a.integer()) return repeat(b, *a.integer());
    }
    if (op == Operator::modulo && text) return Value::text(printf_format(text->view(), b), text->safe);
    unsupported(op, a, b);
}

bool compare(Comparison comparison, const Value& a, const Value& b) {
    switch (comparison) {
        case Comparison::equal: return equal(a, b);
        case Comparison::not_equal: return !equal(a, b);
        case Comparison::less: return less(a, b, "<");
        case Comparison::greater: return less(b, a, ">");
        case Comparison::less_equal:
        case Comparison::greater_equal: {
            const bool up = comparison == Comparison::less_equal;
            const Value &x = up ? a : b, &y = up ? b : a;
            return less(x, y, up ? "<=" : ">=") || equal(x, y);
        }
        case Comparison::in: return contains(b, a);
        case Comparison::not_in: return !contains(b, a);
    }
    return false;
}

Value negate(const Value& value) {
    if (const auto number = value.integer()) return whole(Operator::subtract, 0, *number);
    if (const auto number = value.number()) return -*number;
    if (value.is_undefined()) throw Failure(value.undefined_message());
    type_error("bad operand type for unary -: '" + std::string(type_name(value)) + "'");
}

}  // namespace mixwright::jinja
