// Expressions, by falling precedence.
#include "jinja/filters.h"
#include "jinja/parser_state.h"

namespace mixwright::jinja {

using Kind = Token::Kind;

ExpressionPtr Parser::parse_tuple(bool with_condition, bool parentheses, std::string_view end_name) {
    Vector<ExpressionPtr> elements;
    bool tuple = false;
    while (!at_tuple_end(end_name)) {
        elements.push_back(with_condition ? parse_expression() : parse_logical(true));
        if (!current_.is(",")) break;
        take();
        tuple = true;
    }
    if (!tuple) {
        if (!elements.empty()) return std::move(elements.front());
        if (!parentheses) unexpected("an expression");
    }
    auto literal = std::make_unique<ListLiteral>();
    literal->tuple = true;
    for (const auto& element : elements) sized(literal.get(), {element.get()});
    literal->elements = std::move(elements);
    return literal;
}

ExpressionPtr Parser::parse_expression() {
    Level level(depth_, current_.line);
    ExpressionPtr value = parse_logical(true);
    while (skip_name("if")) {
        auto conditional = std::make_unique<Conditional>();
        conditional->then = std::move(value);
        conditional->test = parse_logical(true);
        if (skip_name("else")) conditional->otherwise = parse_expression();
        sized(conditional.get(), {conditional->test.get(), conditional->then.get(), conditional->otherwise.get()});
        value = std::move(conditional);
    }
    return value;
}

ExpressionPtr Parser::parse_logical(bool is_or) {
    ExpressionPtr first = is_or ? parse_logical(false) : parse_not();
    const std::string_view word = is_or ? "or" : "and";
    if (!current_.is_name(word)) return first;
    auto logical = std::make_unique<Logical>();
    logical->is_or = is_or;
    logical->operands.push_back(std::move(first));
    while (skip_name(word)) logical->operands.push_back(is_or ? parse_logical(false) : parse_not());
    for (const auto& operand : logical->operands) sized(logical.get(), {operand.get()});
    return logical;
}

ExpressionPtr Parser::parse_not() {
    if (!current_.is_name("not")) return parse_compare();
    Level level(depth_, current_.line);
    take();
    auto node = std::make_unique<Unary>();
    node->kind = Unary::Kind::logical_not;
    node->operand = parse_not();
    sized(node.get(), {node->operand.get()});
    return node;
}

ExpressionPtr Parser::parse_compare() {
    static constexpr std::pair<std::string_view, Comparison> kSymbols[] = {
        {"==", Comparison::equal}, {"!=", Comparison::not_equal},     {"<", Comparison::less},
        {">", Comparison::greater}, {"<=", Comparison::less_equal}, {">=", Comparison::greater_equal}};
    ExpressionPtr first = parse_sum();
    auto compare = std::unique_ptr<Compare>();
    while (true) {
        std::optional<Comparison> comparison;
        for (const auto& [symbol, kind] : kSymbols)
            if (current_.is(symbol)) comparison = kind;
        if (current_.is_name("in")) comparison = Comparison::in;
        if (current_.is_name("not") && look().is_name("in")) {
            take();
            comparison = Comparison::not_in;
        }
        if (!comparison) break;
        take();
        if (!compare) {
            compare = std::make_unique<Compare>();
            sized(compare.get(), {first.get()});
            compare->first = std::move(first);
        }
        compare->rest.emplace_back(*comparison, parse_sum());
        sized(compare.get(), {compare->rest.back().second.get()});
    }
    return compare ? ExpressionPtr(std::move(compare)) : std::move(first);
}

ExpressionPtr Parser::parse_chain(ExpressionPtr (Parser::*operand)(),
                                  std::initializer_list<std::pair<std::string_view, Operator>> operators) {
    ExpressionPtr first = (this->*operand)();
    std::unique_ptr<Arithmetic> chain;
    while (current_.kind == Kind::symbol) {
        const auto it = std::find_if(operators.begin(), operators.end(), [&](const auto& o) { return current_.is(o.first); });
        if (it == operators.end()) break;
        take();
        if (!chain) {
            chain = std::make_unique<Arithmetic>();
            sized(chain.get(), {first.get()});
            chain->first = std::move(first);
        }
        chain->rest.emplace_back(it->second, (this->*operand)());
        sized(chain.get(), {chain->rest.back().second.get()});
    }
    return chain ? ExpressionPtr(std::move(chain)) : std::move(first);
}

ExpressionPtr Parser::parse_sum() {
    return parse_chain(&Parser::parse_concat, {{"+", Operator::add}, {"-", Operator::subtract}});
}

ExpressionPtr Parser::parse_concat() {
    ExpressionPtr first = parse_product();
    if (!current_.is("~")) return first;
    auto concat = std::make_unique<Concat>();
    concat->parts.push_back(std::move(first));
    while (skip("~")) concat->parts.push_back(parse_product());
    for (const auto& part : concat->parts) sized(concat.get(), {part.get()});
    return concat;
}

ExpressionPtr Parser::parse_product() {
    return parse_chain(&Parser::parse_power, {{"*", Operator::multiply},
                                              {"/", Operator::divide},
                                              {"//", Operator::floor_divide},
                                              {"%", Operator::modulo}});
}

ExpressionPtr Parser::parse_power() {
    ExpressionPtr first = parse_unary();
    std::unique_ptr<Arithmetic> chain;
    while (skip("**")) {
        if (!chain) {
            chain = std::make_unique<Arithmetic>();
            sized(chain.get(), {first.get()});
            chain->first = std::move(first);
        }
        chain->rest.emplace_back(Operator::power, parse_unary());
        sized(chain.get(), {chain->rest.back().second.get()});
    }
    return chain ? ExpressionPtr(std::move(chain)) : std::move(first);
}

ExpressionPtr Parser::parse_unary(bool with_filter) {
    Level level(depth_, current_.line);
    ExpressionPtr node;
    if (current_.is("-") || current_.is("+")) {
        auto unary = std::make_unique<Unary>();
        unary->kind = take().is("-") ? Unary::Kind::negate : Unary::Kind::plus;
        unary->operand = parse_unary(false);
        sized(unary.get(), {unary->operand.get()});
        node = std::move(unary);
    } else {
        node = parse_primary();
    }
    node = parse_postfix(std::move(node));
    return with_filter ? parse_filters(std::move(node)) : std::move(node);
}

ExpressionPtr Parser::parse_primary() {
    switch (current_.kind) {
        case Kind::name: {
            const String name = take().text;
            if (name == "true" || name == "True") return std::make_unique<Constant>(Value(true));
            if (name == "false" || name == "False") return std::make_unique<Constant>(Value(false));
            if (name == "none" || name == "None") return std::make_unique<Constant>(Value(None{}));
            constexpr std::string_view kWatched[] = {"caller", "varargs", "kwargs"};
            for (int i = 0; i < 3 && !mentioned_.empty(); ++i)
                if (name == kWatched[i]) mentioned_.back()[i] = true;
            return std::make_unique<Name>(name_id(name));
        }
        case Kind::text: {
            String text = take().text;
            while (current_.kind == Kind::text) text += take().text;
            return std::make_unique<Constant>(Value::text(std::move(text)));
        }
        case Kind::integer: return std::make_unique<Constant>(Value(take().integer));
        case Kind::real: return std::make_unique<Constant>(Value(take().real));
        default: break;
    }
    if (skip("(")) {
        ExpressionPtr inside = parse_tuple(true, true);
        expect(")");
        return inside;
    }
    if (skip("[")) {
        auto list = std::make_unique<ListLiteral>();
        while (!current_.is("]")) {
            if (!list->elements.empty()) expect(",");
            if (current_.is("]")) break;
            list->elements.push_back(parse_expression());
            sized(list.get(), {list->elements.back().get()});
        }
        expect("]");
        return list;
    }
    if (skip("{")) {
        auto dict = std::make_unique<DictLiteral>();
        while (!current_.is("}")) {
            if (!dict->items.empty()) expect(",");
            if (current_.is("}")) break;
            ExpressionPtr key = parse_expression();
            expect(":");
            dict->items.emplace_back(std::move(key), parse_expression());
            sized(dict.get(), {dict->items.back().first.get(), dict->items.back().second.get()});
        }
        expect("}");
        return dict;
    }
    unexpected("an expression");
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr node) {
    while (true) {
        if (current_.is(".") || current_.is("[")) node = parse_subscript(std::move(node));
        else if (current_.is("(")) node = parse_call(std::move(node));
        else return node;
    }
}

ExpressionPtr Parser::parse_filters(ExpressionPtr node) {
    while (true) {
        if (skip("|")) node = parse_filter(std::move(node));
        else if (skip_name("is")) node = parse_test(std::move(node));
        else if (current_.is("(")) node = parse_call(std::move(node));
        else return node;
    }
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr object) {
    if (skip(".")) {
        if (current_.kind == Kind::integer) {
            auto item = std::make_unique<Item>();
            item->key = std::make_unique<Constant>(Value(take().integer));
            item->object = std::move(object);
            sized(item.get(), {item->object.get()});
            return item;
        }
        auto attribute = std::make_unique<Attribute>();
        attribute->name = expect_name();
        attribute->object = std::move(object);
        sized(attribute.get(), {attribute->object.get()});
        return attribute;
    }
    expect("[");
    Vector<ExpressionPtr> bounds(1);
    bool slice = false;
    auto tuple = std::unique_ptr<ListLiteral>();
    while (true) {
        if (!current_.is(":") && !current_.is("]") && !current_.is(",")) bounds.back() = parse_expression();
        if (!tuple && bounds.size() < 3 && skip(":")) {
            slice = true;
            bounds.emplace_back();
        } else if (!slice && bounds.back() && skip(",")) {
            if (!tuple) tuple = std::make_unique<ListLiteral>();
            sized(tuple.get(), {bounds.back().get()});
            tuple->elements.push_back(std::move(bounds.back()));
            if (current_.is("]")) break;
        } else {
            break;
        }
    }
    expect("]");
    if (slice) {
        auto node = std::make_unique<Slice>();
        bounds.resize(3);
        node->object = std::move(object);
        node->start = std::move(bounds[0]);
        node->stop = std::move(bounds[1]);
        node->step = std::move(bounds[2]);
        sized(node.get(), {node->object.get(), node->start.get(), node->stop.get(), node->step.get()});
        return node;
    }
    if (tuple) {
        tuple->tuple = true;
        if (bounds.back()) {
            sized(tuple.get(), {bounds.back().get()});
            tuple->elements.push_back(std::move(bounds.back()));
        }
    } else if (!bounds[0]) {
        fail("expected an index");
    }
    auto item = std::make_unique<Item>();
    item->object = std::move(object);
    item->key = tuple ? ExpressionPtr(std::move(tuple)) : std::move(bounds[0]);
    sized(item.get(), {item->object.get(), item->key.get()});
    return item;
}

ArgumentList Parser::parse_arguments() {
    ArgumentList arguments;
    expect("(");
    bool first = true;
    while (!current_.is(")")) {
        if (!std::exchange(first, false)) expect(",");
        if (current_.is(")")) break;
        const bool tail = arguments.double_star || arguments.star;
        if (skip("*")) {
            if (tail) fail("invalid arguments of a call");
            arguments.star = parse_expression();
        } else if (skip("**")) {
            if (arguments.double_star) fail("invalid arguments of a call");
            arguments.double_star = parse_expression();
        } else if (current_.kind == Kind::name && look().is("=")) {
            if (arguments.double_star) fail("invalid arguments of a call");
            String name = take().text;
            take();
            for (const auto& argument : arguments.named)
                if (argument.first == name) fail("keyword argument repeated: " + std::string(name));
            ExpressionPtr value = parse_expression();
            arguments.named.emplace_back(std::move(name), std::move(value));
        } else {
            if (tail || !arguments.named.empty()) fail("invalid arguments of a call");
            arguments.positional.push_back(parse_expression());
        }
    }
    expect(")");
    return arguments;
}

ExpressionPtr Parser::parse_call(ExpressionPtr callee) {
    auto call = std::make_unique<Call>();
    call->arguments = parse_arguments();
    call->callee = std::move(callee);
    sized(call.get(), {call->callee.get()});
    size(*call, call->arguments);
    return call;
}

std::unique_ptr<FilterCall> Parser::parse_filter(ExpressionPtr input) {
    auto call = std::make_unique<FilterCall>();
    call->name = expect_name();
    while (skip(".")) (call->name += '.') += expect_name();
    call->filter = find_filter(call->name);
    if (current_.is("(")) call->arguments = parse_arguments();
    call->input = std::move(input);
    sized(call.get(), {call->input.get()});
    size(*call, call->arguments);
    return call;
}

Vector<std::unique_ptr<FilterCall>> Parser::parse_filter_chain() {
    Vector<std::unique_ptr<FilterCall>> filters;
    while (skip("|")) filters.push_back(parse_filter(nullptr));
    return filters;
}

ExpressionPtr Parser::parse_test(ExpressionPtr input) {
    auto test = std::make_unique<TestCall>();
    test->negated = skip_name("not");
    test->name = expect_name();
    while (skip(".")) (test->name += '.') += expect_name();
    test->test = find_test(test->name);
    const auto starts_argument = [&] {
        if (current_.kind == Kind::name) {
            if (current_.is_name("is")) fail("You cannot chain multiple tests with is");
            return !current_.is_name("else") && !current_.is_name("or") && !current_.is_name("and");
        }
        return current_.kind == Kind::text || current_.kind == Kind::integer || current_.kind == Kind::real ||
               current_.is("[") || current_.is("{");
    };
    if (current_.is("(")) {
        test->arguments = parse_arguments();
    } else if (starts_argument()) {
        Level level(depth_, current_.line);
        test->arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    test->input = std::move(input);
    sized(test.get(), {test->input.get()});
    size(*test, test->arguments);
    return test;
}

}  // namespace mixwright::jinja
