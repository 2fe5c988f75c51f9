#include "jinja/parser.h"

#include "jinja/parser_state.h"

namespace mixwright::jinja {

using Kind = Token::Kind;

Body Parser::parse_body(std::initializer_list<std::string_view> ends) {
    Level level(depth_, current_.line);
    Body body;
    while (current_.kind != Kind::end) {
        const int line = current_.line;
        if (current_.kind == Kind::data) {
            auto data = std::make_unique<Data>();
            data->text = take().text;
            body.push_back(std::move(data));
        } else if (current_.kind == Kind::variable_begin) {
            take();
            auto print = std::make_unique<Print>();
            print->value = parse_tuple();
            if (current_.kind != Kind::variable_end) unexpected("the end of the print statement");
            take();
            body.push_back(std::move(print));
        } else {
            take();  // block_begin
            if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return current_.is_name(end); })) return body;
            body.push_back(parse_statement());
            expect_block_end();
        }
        body.back()->line = line;
    }
    if (ends.size() > 0) fail("the template ends where '" + std::string(*ends.begin()) + "' is expected");
    return body;
}

StatementPtr Parser::parse_statement() {
    const String name = expect_name();
    if (name == "for") return parse_for();
    if (name == "if") return parse_if();
    if (name == "set") return parse_set();
    if (name == "with") return parse_with();
    if (name == "macro") return parse_macro();
    if (name == "call") return parse_call();
    if (name == "print") return parse_print();
    if (name == "break" || name == "continue") {
        if (loops_ == 0) fail("'" + std::string(name) + "' outside of a loop");
        auto jump = std::make_unique<Jump>();
        jump->flow = name == "break" ? Flow::leave_loop : Flow::next_round;
        return jump;
    }
    if (name == "filter") {
        auto block = std::make_unique<FilterBlock>();
        block->filters.push_back(parse_filter(nullptr));
        for (auto& filter : parse_filter_chain()) block->filters.push_back(std::move(filter));
        expect_block_end();
        block->body = parse_body({"endfilter"});
        take();
        return block;
    }
    if (name == "generation" || name == "block" || name == "autoescape") {
        auto block = std::make_unique<Block>();
        block->generation = name == "generation";
        const String label = name == "block" ? expect_name() : String();
        if (name == "autoescape" && !skip_name("false") && !skip_name("False"))
            fail("autoescape is not supported in chat templates");
        while (skip_name("scoped") || skip_name("required")) {}
        expect_block_end();
        const int around = std::exchange(loops_, 0);
        block->body = parse_body({"end" + std::string(name)});
        loops_ = around;
        take();
        if (!label.empty() && current_.is_name(label)) take();
        return block;
    }
    if (name == "extends" || name == "include" || name == "import" || name == "from") {
        while (current_.kind != Kind::block_end && current_.kind != Kind::end) take();
        auto refusal = std::make_unique<Refusal>();
        refusal->message = "'" + name + "' needs other templates, and a chat template stands alone";
        return refusal;
    }
    fail("unknown statement '" + std::string(name.substr(0, 60)) + "'");
}

StatementPtr Parser::parse_print() {
    auto print = std::make_unique<Print>();
    print->value = parse_tuple();
    return print;
}

StatementPtr Parser::parse_for() {
    auto loop = std::make_unique<For>();
    loop->loop_name = name_id("loop");
    loop->target = parse_target(false, true);
    if (!skip_name("in")) unexpected("'in'");
    loop->items = parse_tuple(false, false, "recursive");
    if (skip_name("if")) loop->filter = parse_expression();
    loop->recursive = skip_name("recursive");
    expect_block_end();
    ++loops_;
    loop->body = parse_body({"endfor", "else"});
    --loops_;
    if (take().is_name("else")) {
        expect_block_end();
        loop->otherwise = parse_body({"endfor"});
        take();
    }
    return loop;
}

StatementPtr Parser::parse_if() {
    auto statement = std::make_unique<If>();
    while (true) {
        ExpressionPtr test = parse_tuple(false);
        expect_block_end();
        Body body = parse_body({"endif", "elif", "else"});
        statement->branches.emplace_back(std::move(test), std::move(body));
        const Token end = take();
        if (end.is_name("elif")) continue;
        if (end.is_name("else")) {
            expect_block_end();
            statement->otherwise = parse_body({"endif"});
            take();
        }
        return statement;
    }
}

StatementPtr Parser::parse_set() {
    Target target = parse_target(true, false);
    if (skip("=")) {
        auto set = std::make_unique<Set>();
        set->target = std::move(target);
        set->value = parse_tuple();
        return set;
    }
    auto set = std::make_unique<SetBlock>();
    set->target = std::move(target);
    set->filters = parse_filter_chain();
    expect_block_end();
    const int around = std::exchange(loops_, 0);
    set->body = parse_body({"endset"});
    loops_ = around;
    take();
    return set;
}

StatementPtr Parser::parse_with() {
    auto with = std::make_unique<With>();
    while (current_.kind != Kind::block_end) {
        if (!with->assignments.empty()) expect(",");
        Target target = parse_target(false, false);
        expect("=");
        with->assignments.emplace_back(std::move(target), parse_expression());
    }
    expect_block_end();
    with->body = parse_body({"endwith"});
    take();
    return with;
}

void Parser::parse_parameters(Procedure& procedure) {
    expect("(");
    while (!current_.is(")")) {
        if (!procedure.parameters.empty()) expect(",");
        if (current_.is(")")) break;
        String name = expect_name();
        ExpressionPtr fallback;
        if (skip("=")) fallback = parse_expression();
        else if (!procedure.parameters.empty() && procedure.parameters.back().second)
            fail("non-default argument follows default argument");
        procedure.parameters.emplace_back(name_id(name), std::move(fallback));
        procedure.parameter_names.push_back(std::move(name));
    }
    expect(")");
}

void Parser::parse_procedure_body(Procedure& procedure, std::string_view end) {
    procedure.caller_name = name_id("caller");
    procedure.varargs_name = name_id("varargs");
    procedure.kwargs_name = name_id("kwargs");
    expect_block_end();
    const int around = std::exchange(loops_, 0);
    // A macro takes what its body mentions: watch the names that pass while it is parsed.
    bool* const flags[] = {&procedure.uses_caller, &procedure.uses_varargs, &procedure.uses_kwargs};
    mentioned_.push_back({});
    procedure.body = parse_body({end});
    for (int i = 0; i < 3; ++i) *flags[i] = mentioned_.back()[i];
    const auto inner = mentioned_.back();
    mentioned_.pop_back();
    if (!mentioned_.empty())
        for (int i = 0; i < 3; ++i) mentioned_.back()[i] |= inner[i];
    loops_ = around;
    take();
}

StatementPtr Parser::parse_macro() {
    auto macro = std::make_unique<MacroDefinition>();
    macro->procedure.name = expect_name();
    macro->name = name_id(macro->procedure.name);
    parse_parameters(macro->procedure);
    parse_procedure_body(macro->procedure, "endmacro");
    return macro;
}

StatementPtr Parser::parse_call() {
    auto block = std::make_unique<CallBlock>();
    block->caller.name = "caller";
    if (current_.is("(")) parse_parameters(block->caller);
    ExpressionPtr call = parse_expression();
    if (!dynamic_cast<Call*>(call.get())) fail("expected a call");
    block->call.reset(static_cast<Call*>(call.release()));
    parse_procedure_body(block->caller, "endcall");
    return block;
}

Target Parser::parse_one_target(bool with_namespace) {
    Level level(depth_, current_.line);
    if (skip("(")) {
        Target target = parse_target(with_namespace, false);
        expect(")");
        return target;
    }
    Target target;
    const String name = expect_name();
    for (const std::string_view reserved : {"true", "false", "none", "True", "False", "None", "not", "in"})
        if (name == reserved) fail("can't assign to '" + std::string(reserved) + "'");
    target.name = name_id(name);
    if (with_namespace && skip(".")) {
        target.kind = Target::Kind::attribute;
        target.attribute = expect_name();
    }
    return target;
}

Target Parser::parse_target(bool with_namespace, bool until_in) {
    Target first = parse_one_target(with_namespace);
    if (!current_.is(",")) return first;
    Target tuple;
    tuple.kind = Target::Kind::tuple;
    tuple.elements.push_back(std::move(first));
    while (skip(",")) {
        if ((until_in && current_.is_name("in")) || current_.is("=") || current_.is(")")) break;
        tuple.elements.push_back(parse_one_target(with_namespace));
    }
    return tuple;
}

Tree parse(std::string_view source) { return Parser(source).parse_template(); }

}  // namespace mixwright::jinja
