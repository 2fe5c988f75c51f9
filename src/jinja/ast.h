// What a template says: expressions that evaluate to a value, statements that write to an output.
// Built by parser.cpp, run by evaluate.cpp and execute.cpp; holds no state of a render, so one tree serves many.
#pragma once

#include <memory>

#include "jinja/value.h"

namespace mixwright::jinja {

struct Frame;
using NameId = std::uint32_t;
using Filter = Value (*)(Frame&, const Value& input, const Arguments&);
using Test = bool (*)(Frame&, const Value& input, const Arguments&);

/// Nodes are charged to the budget of their compilation.
struct Node {
    virtual ~Node() = default;
    static void* operator new(std::size_t size) { return Counted<std::max_align_t>().allocate(units(size)); }
    static void operator delete(void* memory, std::size_t size) {
        Counted<std::max_align_t>().deallocate(static_cast<std::max_align_t*>(memory), units(size));
    }

private:
    static std::size_t units(std::size_t size) { return (size + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t); }
};

struct Expression : Node {
    virtual Value evaluate(Frame& frame) const = 0;
    int height = 1;  // of the tree below: bounded, because evaluation and destruction recurse
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct Constant final : Expression {
    explicit Constant(Value value) : value(std::move(value)) {}
    Value evaluate(Frame&) const override { return value; }
    Value value;
};

struct Name final : Expression {
    explicit Name(NameId id) : id(id) {}
    Value evaluate(Frame&) const override;
    NameId id;
};

struct ListLiteral final : Expression {
    Value evaluate(Frame&) const override;
    Vector<ExpressionPtr> elements;
    bool tuple = false;
};

struct DictLiteral final : Expression {
    Value evaluate(Frame&) const override;
    Vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};

enum class Operator { add, subtract, multiply, divide, floor_divide, modulo, power, concat };

/// first op operand op operand ...: a chain of one precedence, so that long sums do not nest.
struct Arithmetic final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr first;
    Vector<std::pair<Operator, ExpressionPtr>> rest;
};

/// a ~ b ~ c
struct Concat final : Expression {
    Value evaluate(Frame&) const override;
    Vector<ExpressionPtr> parts;
};

struct Unary final : Expression {
    enum class Kind { negate, plus, logical_not };
    Value evaluate(Frame&) const override;
    Kind kind;
    ExpressionPtr operand;
};

struct Logical final : Expression {
    Value evaluate(Frame&) const override;
    bool is_or = false;
    Vector<ExpressionPtr> operands;
};

enum class Comparison { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

/// a < b < c, as in Python.
struct Compare final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr first;
    Vector<std::pair<Comparison, ExpressionPtr>> rest;
};

struct Conditional final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr test, then, otherwise;  // otherwise may be null: undefined
};

struct Attribute final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr object;
    String name;
};

struct Item final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr object, key;
};

struct Slice final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr object, start, stop, step;  // bounds may be null
};

struct ArgumentList {
    Vector<ExpressionPtr> positional;
    Vector<std::pair<String, ExpressionPtr>> named;
    ExpressionPtr star, double_star;  // *args and **kwargs, or null
};

struct Call final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr callee;
    ArgumentList arguments;
};

struct FilterCall final : Expression {
    Value evaluate(Frame&) const override;
    Value apply(Frame&, const Value& input) const;
    ExpressionPtr input;  // null: the filter block's body
    String name;
    Filter filter;        // null when there is none of that name
    ArgumentList arguments;
};

struct TestCall final : Expression {
    Value evaluate(Frame&) const override;
    ExpressionPtr input;
    String name;
    Test test;
    bool negated = false;
    ArgumentList arguments;
};

/// What can stand left of "=" or between "for" and "in".
struct Target {
    enum class Kind { name, attribute, tuple };
    Kind kind = Kind::name;
    NameId name = 0;
    String attribute;          // of the namespace `name`
    Vector<Target> elements;
};

enum class Flow { normal, leave_loop, next_round };

struct Statement : Node {
    virtual Flow execute(Frame& frame) const = 0;
    int line = 0;
};
using StatementPtr = std::unique_ptr<Statement>;
using Body = Vector<StatementPtr>;

struct Data final : Statement {
    Flow execute(Frame&) const override;
    String text;
};

struct Print final : Statement {
    Flow execute(Frame&) const override;
    ExpressionPtr value;
};

struct If final : Statement {
    Flow execute(Frame&) const override;
    Vector<std::pair<ExpressionPtr, Body>> branches;
    Body otherwise;
};

struct For final : Statement {
    Flow execute(Frame&) const override;
    Flow run(Frame&, const Value& items, int depth) const;
    Target target;
    ExpressionPtr items, filter;  // filter may be null
    bool recursive = false;
    NameId loop_name = 0;
    Body body, otherwise;
};

struct Jump final : Statement {
    Flow execute(Frame&) const override { return flow; }
    Flow flow = Flow::normal;
};

struct Set final : Statement {
    Flow execute(Frame&) const override;
    Target target;
    ExpressionPtr value;
};

struct SetBlock final : Statement {
    Flow execute(Frame&) const override;
    Target target;
    Vector<std::unique_ptr<FilterCall>> filters;
    Body body;
};

struct FilterBlock final : Statement {
    Flow execute(Frame&) const override;
    Vector<std::unique_ptr<FilterCall>> filters;
    Body body;
};

struct With final : Statement {
    Flow execute(Frame&) const override;
    Vector<std::pair<Target, ExpressionPtr>> assignments;
    Body body;
};

/// Parameters and body of a macro or a call block.
struct Procedure {
    String name;
    Vector<std::pair<NameId, ExpressionPtr>> parameters;  // with their defaults, or null
    Vector<String> parameter_names;
    NameId caller_name = 0, varargs_name = 0, kwargs_name = 0;
    bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
    Body body;
};

struct MacroDefinition final : Statement {
    Flow execute(Frame&) const override;
    NameId name = 0;
    Procedure procedure;
};

struct CallBlock final : Statement {
    Flow execute(Frame&) const override;
    std::unique_ptr<Call> call;
    Procedure caller;
};

/// {% generation %}, {% block %}: a body with a scope of its own.
struct Block final : Statement {
    Flow execute(Frame&) const override;
    bool generation = false;
    Body body;
};

/// extends, include, import: there is nothing to load from, so reaching one fails.
struct Refusal final : Statement {
    Flow execute(Frame&) const override { throw Failure(std::string(message)); }
    String message;
};

struct Tree {
    Body body;
    Vector<String> names;  // by NameId
};

}  // namespace mixwright::jinja
