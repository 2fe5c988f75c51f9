// Expressions: their values.
#include "jinja/interpreter.h"
#include "jinja/operators.h"

namespace mixwright::jinja {

Arguments evaluate_arguments(Frame& frame, const ArgumentList& list) {
    Arguments arguments;
    arguments.positional.reserve(list.positional.size());
    for (const auto& argument : list.positional) arguments.positional.push_back(argument->evaluate(frame));
    for (const auto& [name, argument] : list.named) arguments.named.emplace_back(name, argument->evaluate(frame));
    if (list.star) {
        const Ref<Sequence> more = iterate(list.star->evaluate(frame));
        arguments.positional.insert(arguments.positional.end(), more->elements.begin(), more->elements.end());
    }
    if (list.double_star) {
        const Value more = list.double_star->evaluate(frame);
        if (!more.dict()) type_error("the argument after ** must be a mapping, not " + std::string(type_name(more)));
        for (const auto& [key, value] : more.dict()->items()) {
            if (!key.text()) type_error("keywords must be strings");
            for (const auto& named : arguments.named)
                if (named.first == key.text()->view()) type_error("got multiple values for a keyword argument");
            arguments.named.emplace_back(key.text()->bytes, value);
            charge_work(64 * arguments.named.size());
        }
    }
    return arguments;
}

Value Name::evaluate(Frame& frame) const { return frame.lookup(id); }

Value ListLiteral::evaluate(Frame& frame) const {
    Vector<Value> values;
    values.reserve(elements.size());
    for (const auto& element : elements) values.push_back(element->evaluate(frame));
    Budget::current()->step(values.size());
    return make_list(std::move(values), tuple ? Sequence::Flavor::tuple : Sequence::Flavor::list);
}

Value DictLiteral::evaluate(Frame& frame) const {
    auto dict = make<Dict>();
    for (const auto& [key, value] : items) {
        Value name = key->evaluate(frame);
        dict->insert(std::move(name), value->evaluate(frame));
    }
    return dict;
}

Value Arithmetic::evaluate(Frame& frame) const {
    Value value = first->evaluate(frame);
    for (const auto& [op, operand] : rest) value = arithmetic(op, value, operand->evaluate(frame));
    return value;
}

Value Concat::evaluate(Frame& frame) const {
    String out;
    for (const auto& part : parts) {
        const Value value = part->evaluate(frame);
        if (const Text* text = value.text()) out += text->bytes;
        else out += to_string(value);
        Budget::current()->step();
    }
    return Value::text(std::move(out));
}

Value Unary::evaluate(Frame& frame) const {
    const Value value = operand->evaluate(frame);
    if (kind == Kind::logical_not) return !truth(value);
    if (kind == Kind::negate) return negate(value);
    if (const auto* flag = value.get<bool>()) return std::int64_t{*flag};
    if (value.is_number()) return value;
    return negate(value);  // refuses it
}

Value Logical::evaluate(Frame& frame) const {
    Value value;
    for (const auto& operand : operands) {
        value = operand->evaluate(frame);
        if (truth(value) == is_or) break;
    }
    return value;
}

Value Compare::evaluate(Frame& frame) const {
    Value left = first->evaluate(frame);
    for (const auto& [comparison, operand] : rest) {
        Value right = operand->evaluate(frame);
        if (!compare(comparison, left, right)) return false;
        left = std::move(right);
    }
    return true;
}

Value Conditional::evaluate(Frame& frame) const {
    if (truth(test->evaluate(frame))) return then->evaluate(frame);
    if (otherwise) return otherwise->evaluate(frame);
    return Value::undefined("the inline if-expression evaluated to false and no else section was defined");
}

Value Attribute::evaluate(Frame& frame) const {
    Budget::current()->step();
    return get_attribute(object->evaluate(frame), name);
}

Value Item::evaluate(Frame& frame) const {
    Budget::current()->step();
    const Value value = object->evaluate(frame);
    return get_item(value, key->evaluate(frame));
}

Value Slice::evaluate(Frame& frame) const {
    const auto bound = [&](const ExpressionPtr& e) { return e ? e->evaluate(frame) : Value(None{}); };
    const Value value = object->evaluate(frame);
    const Value from = bound(start), to = bound(stop), by = bound(step);
    return get_slice(value, from, to, by);
}

Value Call::evaluate(Frame& frame) const {
    const Value function = callee->evaluate(frame);
    return frame.interpreter.call(function, evaluate_arguments(frame, arguments));
}

Value FilterCall::evaluate(Frame& frame) const { return apply(frame, input->evaluate(frame)); }

Value FilterCall::apply(Frame& frame, const Value& value) const {
    Budget::current()->step();
    if (!filter) throw Failure("No filter named '" + std::string(name.substr(0, 60)) + "'.");
    return filter(frame, value, evaluate_arguments(frame, arguments));
}

Value TestCall::evaluate(Frame& frame) const {
    Budget::current()->step();
    if (!test) throw Failure("No test named '" + std::string(name.substr(0, 60)) + "'.");
    const Value value = input->evaluate(frame);
    return test(frame, value, evaluate_arguments(frame, arguments)) != negated;
}

}  // namespace mixwright::jinja
