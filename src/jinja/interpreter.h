// The state of one render: scopes, the output, macros that were defined.
#pragma once

#include <ctime>

#include "jinja/arguments.h"
#include "jinja/ast.h"

namespace mixwright::jinja {

/// Variables of a block. Loops, macros and `with` open a scope; `if` does not.
struct Scope {
    explicit Scope(Ref<Scope> parent) : parent(std::move(parent)) {}
    const Value* find(NameId name) const;
    void set(NameId name, Value value);

    Ref<Scope> parent;
    Vector<std::pair<NameId, Value>> variables;
    bool captured = false;  // a macro refers to it
};

/// A stretch of the output, in bytes, that a {% generation %} block wrote.
struct Span {
    std::size_t begin = 0, end = 0;
};

class Interpreter {
public:
    Interpreter(const Tree& tree, const nlohmann::ordered_json& variables, std::time_t now);
    ~Interpreter();

    /// Runs the whole template.
    void run(String& out, Vector<Span>& generations);

    const Value* global(NameId name) const { return globals_[name] ? &*globals_[name] : nullptr; }
    void set_global(NameId name, Value value) { globals_[name] = std::move(value); }
    const String& name(NameId name) const { return tree_.names[name]; }
    std::time_t now() const noexcept { return now_; }
    Value call(const Value& callee, const Arguments& arguments);
    /// Scopes and namespaces can refer to each other in circles: those are remembered, and emptied at the end.
    void remember(const Ref<Scope>& scope);
    void remember(Ref<struct Namespace> name_space) { namespaces_.push_back(std::move(name_space)); }

private:
    const Tree& tree_;
    Vector<std::optional<Value>> globals_;  // by NameId: what the template sees from outside, and sets at top level
    Vector<Ref<Scope>> captured_;
    Vector<Ref<Namespace>> namespaces_;
    std::time_t now_;
    std::size_t call_depth_ = 0;
};

/// Where execution is: passed down by reference, copied when a block opens a scope or another output.
struct Frame {
    Interpreter& interpreter;
    Ref<Scope> scope;  // null: top level
    String* out;
    Vector<Span>* generations = nullptr;  // null inside macros and captured blocks

    Value lookup(NameId name) const;
    void assign(const Target& target, const Value& value) const;
    Frame nested() const { return {interpreter, make<Scope>(scope), out, generations}; }
    void write(std::string_view text) const;
};

struct Namespace final : Object {
    std::string_view type_name() const override { return "Namespace"; }
    bool callable() const override { return false; }
    std::optional<Value> attribute(std::string_view name) override;
    String repr(int level) const override;
    void set(std::string_view name, Value value);

    Vector<std::pair<String, Value>> attributes;
};

struct Macro final : Object {
    Macro(const Procedure& procedure, Ref<Scope> scope) : procedure(procedure), scope(std::move(scope)) {}
    std::string_view type_name() const override { return "Macro"; }
    std::optional<Value> attribute(std::string_view name) override;
    Value call(Interpreter& interpreter, const Arguments& arguments) override;

    const Procedure& procedure;
    Ref<Scope> scope;
};

struct Loop final : Object {
    Loop(Ref<Sequence> items, const For* recursive, Frame frame, int level);
    std::string_view type_name() const override { return "LoopContext"; }
    bool callable() const override { return recursive; }
    std::optional<Value> attribute(std::string_view name) override;
    Value call(Interpreter& interpreter, const Arguments& arguments) override;

    Ref<Sequence> items;
    const For* recursive;     // null: not a recursive loop
    Ref<Scope> outer_scope;
    std::size_t index = 0;
    int level;                // loops around it by recursion
    std::optional<Value> last_changed;
};

using Function = Value (*)(Interpreter&, const Arguments&);

/// A global function.
struct Builtin final : Object {
    Builtin(std::string_view name, Function function) : name(name), function(function) {}
    std::string_view type_name() const override { return "function"; }
    Value call(Interpreter& interpreter, const Arguments& arguments) override { return function(interpreter, arguments); }

    std::string_view name;
    Function function;
};

/// The value of a global of the template language (range, namespace, raise_exception, ...), if `name` is one.
std::optional<Value> find_global(std::string_view name);

/// Evaluates the arguments of a call.
Arguments evaluate_arguments(Frame& frame, const ArgumentList& list);
/// Executes statements until one jumps.
Flow execute_body(Frame& frame, const Body& body);

}  // namespace mixwright::jinja
