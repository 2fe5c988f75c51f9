// The recursive descent behind parse(): statements are read in parser.cpp, expressions in parser_expressions.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <map>

#include "jinja/ast.h"
#include "jinja/lexer.h"

namespace mixwright::jinja {

/// Counts a level of nesting for as long as it lives.
class Level {
public:
    Level(int& depth, int line) : depth_(depth) {
        if (++depth_ > kMaxNesting) {
            --depth_;
            throw Failure("nested deeper than " + std::to_string(kMaxNesting) + " levels", Failure::Reason::budget, line);
        }
    }
    ~Level() { --depth_; }

private:
    int& depth_;
};

/// Reads one template. Counts nesting, and bounds the height of every expression it builds.
class Parser {
public:
    explicit Parser(std::string_view source) : lexer_(source) { take(); }

    Tree parse_template() {
        Tree tree;
        tree.body = parse_body({});
        tree.names.resize(names_.size());
        for (const auto& [name, id] : names_) tree.names[id] = name;
        return tree;
    }

private:
    // Tokens.
    Token take() {
        Token taken = std::move(current_);
        current_ = std::move(ahead_);
        if (has_ahead_) has_ahead_ = false;
        else current_ = lexer_.next();
        return taken;
    }
    const Token& look() {
        if (!has_ahead_) {
            ahead_ = lexer_.next();
            has_ahead_ = true;
        }
        return ahead_;
    }
    bool skip_name(std::string_view name) { return current_.is_name(name) && (take(), true); }
    bool skip(std::string_view symbol) { return current_.is(symbol) && (take(), true); }
    void expect(std::string_view symbol) {
        if (!skip(symbol)) unexpected("'" + std::string(symbol) + "'");
    }
    String expect_name() {
        if (current_.kind != Token::Kind::name) unexpected("a name");
        return take().text;
    }
    void expect_block_end() {
        if (current_.kind != Token::Kind::block_end) unexpected("the end of the statement");
        take();
    }
    [[noreturn]] void fail(const std::string& message) const {
        throw Failure(message, Failure::Reason::syntax, current_.line);
    }
    [[noreturn]] void unexpected(const std::string& wanted) const {
        static const std::map<Token::Kind, const char*> names = {
            {Token::Kind::end, "the end of the template"}, {Token::Kind::block_end, "the end of the statement"},
            {Token::Kind::variable_end, "the end of the print statement"}, {Token::Kind::text, "a string"}};
        const auto it = names.find(current_.kind);
        fail("got " + (it != names.end() ? it->second : "'" + std::string(current_.text.substr(0, 60)) + "'") +
             ", expected " + wanted);
    }
    NameId name_id(std::string_view name) {
        return names_.emplace(String(name), static_cast<NameId>(names_.size())).first->second;
    }

    template <class T>
    T* sized(T* node, std::initializer_list<const Expression*> children) {
        for (const Expression* child : children)
            if (child) node->height = std::max(node->height, child->height + 1);
        if (node->height > kMaxHeight)
            throw Failure("an expression nests too deeply", Failure::Reason::budget, current_.line);
        return node;
    }
    void size(Expression& node, const ArgumentList& arguments) {
        for (const auto& argument : arguments.positional) sized(&node, {argument.get()});
        for (const auto& argument : arguments.named) sized(&node, {argument.second.get()});
        sized(&node, {arguments.star.get(), arguments.double_star.get()});
    }

    // Statements.
    Body parse_body(std::initializer_list<std::string_view> ends);
    StatementPtr parse_statement();
    StatementPtr parse_for();
    StatementPtr parse_if();
    StatementPtr parse_set();
    StatementPtr parse_with();
    StatementPtr parse_macro();
    StatementPtr parse_call();
    StatementPtr parse_print();
    void parse_parameters(Procedure& procedure);
    void parse_procedure_body(Procedure& procedure, std::string_view end);
    Target parse_target(bool with_namespace, bool until_in);
    Target parse_one_target(bool with_namespace);

    // Expressions, lowest precedence first.
    ExpressionPtr parse_tuple(bool with_condition = true, bool parentheses = false, std::string_view end_name = {});
    ExpressionPtr parse_expression();
    ExpressionPtr parse_logical(bool is_or);
    ExpressionPtr parse_not();
    ExpressionPtr parse_compare();
    ExpressionPtr parse_sum();
    ExpressionPtr parse_concat();
    ExpressionPtr parse_product();
    ExpressionPtr parse_power();
    ExpressionPtr parse_unary(bool with_filter = true);
    ExpressionPtr parse_primary();
    ExpressionPtr parse_postfix(ExpressionPtr node);
    ExpressionPtr parse_filters(ExpressionPtr node);
    ExpressionPtr parse_subscript(ExpressionPtr object);
    ExpressionPtr parse_call(ExpressionPtr callee);
    ExpressionPtr parse_test(ExpressionPtr input);
    std::unique_ptr<FilterCall> parse_filter(ExpressionPtr input);
    Vector<std::unique_ptr<FilterCall>> parse_filter_chain();
    ArgumentList parse_arguments();
    ExpressionPtr parse_chain(ExpressionPtr (Parser::*operand)(), std::initializer_list<std::pair<std::string_view, Operator>>);
    bool at_tuple_end(std::string_view end_name) const {
        return current_.kind == Token::Kind::variable_end || current_.kind == Token::Kind::block_end || current_.is(")") ||
               (!end_name.empty() && current_.is_name(end_name));
    }

    Lexer lexer_;
    Token current_, ahead_;
    bool has_ahead_ = false;
    std::map<String, NameId, std::less<>, Counted<std::pair<const String, NameId>>> names_;
    Vector<std::array<bool, 3>> mentioned_;  // per macro around: caller, varargs, kwargs
    int depth_ = 0;
    int loops_ = 0;  // around the statement at hand, inside the same macro
};

}  // namespace mixwright::jinja
