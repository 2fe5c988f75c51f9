#include "jinja/interpreter.h"

#include <algorithm>

namespace mixwright::jinja {

const Value* Scope::find(NameId name) const {
    for (const auto& [id, value] : variables)
        if (id == name) return &value;
    return nullptr;
}

void Scope::set(NameId name, Value value) {
    for (auto& [id, held] : variables)
        if (id == name) {
            held = std::move(value);
            return;
        }
    variables.emplace_back(name, std::move(value));
}

Interpreter::Interpreter(const Tree& tree, const nlohmann::ordered_json& variables, std::time_t now)
    : tree_(tree), globals_(tree.names.size()), now_(now) {
    for (std::size_t i = 0; i < globals_.size(); ++i) {
        const std::string name(tree.names[i]);
        if (const auto it = variables.find(name); it != variables.end()) globals_[i] = from_json(*it);
        else globals_[i] = find_global(name);
    }
}

Interpreter::~Interpreter() {
    for (const auto& scope : captured_) scope->variables.clear();
    for (const auto& name_space : namespaces_) name_space->attributes.clear();
}

void Interpreter::run(String& out, Vector<Span>& generations) {
    Frame frame{*this, nullptr, &out, &generations};
    execute_body(frame, tree_.body);
}

void Interpreter::remember(const Ref<Scope>& scope) {
    if (!scope || scope->captured) return;
    scope->captured = true;
    captured_.push_back(scope);
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
    if (callee.is_undefined()) throw Failure(callee.undefined_message());
    Object* object = callee.object();
    if (!object || !object->callable())
        type_error("'" + std::string(jinja::type_name(callee)) + "' object is not callable");
    Budget* budget = Budget::current();
    budget->check_stack();
    budget->step(4);
    if (++call_depth_ > budget->limits().call_depth)
        throw Failure("macros call each other too deeply", Failure::Reason::budget);
    Value result = object->call(*this, arguments);
    --call_depth_;
    return result;
}

Value Frame::lookup(NameId name) const {
    Budget::current()->step();
    for (const Scope* s = scope.get(); s; s = s->parent.get())
        if (const Value* value = s->find(name)) return *value;
    if (const Value* value = interpreter.global(name)) return *value;
    String message("'");
    message += interpreter.name(name);
    return Value::undefined(message += "' is undefined");
}

void Frame::assign(const Target& target, const Value& value) const {
    switch (target.kind) {
        case Target::Kind::name:
            if (scope) scope->set(target.name, value);
            else interpreter.set_global(target.name, value);
            return;
        case Target::Kind::attribute: {
            const Value object = lookup(target.name);
            auto* name_space = dynamic_cast<Namespace*>(object.object());
            if (!name_space) throw Failure("cannot assign attribute on non-namespace object");
            name_space->set(target.attribute, value);
            return;
        }
        case Target::Kind::tuple: {
            const Ref<Sequence> values = iterate(value);
            if (values->elements.size() != target.elements.size())
                type_error("cannot unpack " + std::to_string(values->elements.size()) + " values into " +
                           std::to_string(target.elements.size()) + " names");
            for (std::size_t i = 0; i < target.elements.size(); ++i) assign(target.elements[i], values->elements[i]);
            return;
        }
    }
}

void Frame::write(std::string_view text) const {
    charge_work(text.size());
    out->append(text);
    if (generations && out->size() > Budget::current()->limits().output)
        throw Failure("the template writes too much (limit: " +
                          std::to_string(Budget::current()->limits().output >> 20) + " MB)",
                      Failure::Reason::budget);
}

std::optional<Value> Namespace::attribute(std::string_view name) {
    for (const auto& [key, value] : attributes)
        if (key == name) return value;
    return {};
}

String Namespace::repr(int level) const {
    String out("<Namespace {");
    for (const auto& [key, value] : attributes) {
        if (&key != &attributes.front().first) out += ", ";
        out += jinja::repr(Value::text(key)) + ": " + jinja::repr(value, level + 1);
    }
    return out += "}>";
}

void Namespace::set(std::string_view name, Value value) {
    if (name.starts_with('_'))
        throw Failure("chat templates cannot store underscore-prefixed attributes on a namespace");
    for (auto& [key, held] : attributes)
        if (key == name) {
            held = std::move(value);
            return;
        }
    attributes.emplace_back(String(name), std::move(value));
}

std::optional<Value> Macro::attribute(std::string_view name) {
    if (name == "name") return Value::text(procedure.name);
    return {};
}

Value Macro::call(Interpreter& interpreter, const Arguments& arguments) {
    const std::string name = "macro '" + std::string(procedure.name) + "'";
    auto inner = make<Scope>(scope);
    String out;
    Frame frame{interpreter, inner, &out};
    const std::size_t count = procedure.parameters.size();
    const auto named = [&](std::string_view parameter) -> const Value* {
        for (const auto& [key, value] : arguments.named)
            if (key == parameter) return &value;
        return nullptr;
    };
    for (std::size_t i = 0; i < count; ++i) {
        const auto& [id, fallback] = procedure.parameters[i];
        const Value* by_name = named(procedure.parameter_names[i]);
        if (i < arguments.positional.size()) inner->set(id, arguments.positional[i]);
        else if (by_name) inner->set(id, *by_name);
        else if (fallback) inner->set(id, fallback->evaluate(frame));
        else {
            String message("parameter '");
            message += procedure.parameter_names[i];
            inner->set(id, Value::undefined(message += "' was not provided"));
        }
    }
    if (procedure.uses_caller) {
        const Value* caller = named("caller");
        inner->set(procedure.caller_name, caller ? *caller : Value::undefined("No caller defined"));
    }
    Vector<Value> rest;
    for (std::size_t i = count; i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
    if (procedure.uses_varargs) inner->set(procedure.varargs_name, make_list(std::move(rest), Sequence::Flavor::tuple));
    else if (!rest.empty()) type_error(name + " takes not more than " + std::to_string(count) + " argument(s)");
    auto others = make<Dict>();
    for (const auto& [key, value] : arguments.named) {
        const auto& names = procedure.parameter_names;
        const auto position = static_cast<std::size_t>(std::find(names.begin(), names.end(), key) - names.begin());
        if (position < count) {
            if (position < arguments.positional.size())
                type_error(name + " got multiple values for argument '" + std::string(key) + "'");
        } else if (procedure.uses_kwargs && !(procedure.uses_caller && key == "caller")) {
            others->insert(Value::text(key), value);
        } else if (key == "caller") {
            if (!procedure.uses_caller)
                type_error(name + " was invoked with two values for the special caller argument or takes none");
        } else {
            type_error(name + " takes no keyword argument '" + std::string(key.substr(0, 60)) + "'");
        }
    }
    if (procedure.uses_kwargs) inner->set(procedure.kwargs_name, others);
    execute_body(frame, procedure.body);
    return Value::text(std::move(out));
}

Loop::Loop(Ref<Sequence> sequence, const For* recursive, Frame frame, int level)
    : Object(sequence->depth), items(std::move(sequence)), recursive(recursive), outer_scope(frame.scope), level(level) {
    if (recursive) frame.interpreter.remember(outer_scope);
}

namespace {

struct LoopMethod final : Object {
    LoopMethod(Ref<Loop> loop, bool cycle) : Object(loop->depth + 1), loop(std::move(loop)), cycle(cycle) {}
    std::string_view type_name() const override { return "method"; }
    Value call(Interpreter&, const Arguments& arguments) override {
        if (cycle) {
            if (arguments.positional.empty()) type_error("no items for cycling given");
            return arguments.positional[loop->index % arguments.positional.size()];
        }
        Vector<Value> values = arguments.positional;
        const Value now = make_list(std::move(values), Sequence::Flavor::tuple);
        const bool changed = !loop->last_changed || !equal(*loop->last_changed, now);
        loop->last_changed = now;
        return changed;
    }

    Ref<Loop> loop;
    bool cycle;
};

}  // namespace

std::optional<Value> Loop::attribute(std::string_view name) {
    const auto count = static_cast<std::int64_t>(items->elements.size());
    const auto at = static_cast<std::int64_t>(index);
    if (name == "index") return Value(at + 1);
    if (name == "index0") return Value(at);
    if (name == "revindex") return Value(count - at);
    if (name == "revindex0") return Value(count - at - 1);
    if (name == "first") return Value(at == 0);
    if (name == "last") return Value(at == count - 1);
    if (name == "length") return Value(count);
    if (name == "depth") return Value(std::int64_t{level + 1});
    if (name == "depth0") return Value(std::int64_t{level});
    if (name == "previtem") return at > 0 ? items->elements[index - 1] : Value::undefined("there is no previous item");
    if (name == "cycle" || name == "changed")
        return Value(make<LoopMethod>(std::static_pointer_cast<Loop>(shared_from_this()), name == "cycle"));
    if (name == "nextitem")
        return at + 1 < count ? items->elements[index + 1] : Value::undefined("there is no next item");
    return {};
}

Value Loop::call(Interpreter& interpreter, const Arguments& arguments) {
    const Bound bound("loop", arguments, {"iterable"}, 1);
    String out;
    Frame frame{interpreter, outer_scope, &out};
    recursive->run(frame, *bound[0], level + 1);
    return Value::text(std::move(out));
}

}  // namespace mixwright::jinja
