// Statements: what they write, and the scopes they open.
#include "jinja/interpreter.h"

namespace mixwright::jinja {

namespace {

/// Runs `body` in a scope of its own and returns what it writes.
String capture(Frame& frame, const Body& body) {
    String out;
    Frame inner = frame.nested();
    inner.out = &out;
    inner.generations = nullptr;
    execute_body(inner, body);
    return out;
}

Value filtered(Frame& frame, String&& text, const Vector<std::unique_ptr<FilterCall>>& filters) {
    Value value = Value::text(std::move(text));
    for (const auto& filter : filters) value = filter->apply(frame, value);
    return value;
}

}  // namespace

Flow execute_body(Frame& frame, const Body& body) {
    Budget* budget = Budget::current();
    for (const StatementPtr& statement : body) {
        budget->step();
        try {
            const Flow flow = statement->execute(frame);
            if (flow != Flow::normal) return flow;
        } catch (Failure& failure) {
            if (failure.line == 0) failure.line = statement->line;
            throw;
        }
    }
    return Flow::normal;
}

Flow Data::execute(Frame& frame) const {
    frame.write(text);
    return Flow::normal;
}

Flow Print::execute(Frame& frame) const {
    const Value result = value->evaluate(frame);
    if (const Text* shown = result.text()) frame.write(shown->view());
    else frame.write(to_string(result));
    return Flow::normal;
}

Flow If::execute(Frame& frame) const {
    for (const auto& [test, body] : branches)
        if (truth(test->evaluate(frame))) return execute_body(frame, body);
    return execute_body(frame, otherwise);
}

Flow For::execute(Frame& frame) const { return run(frame, items->evaluate(frame), 0); }

Flow For::run(Frame& frame, const Value& value, int level) const {
    Ref<Sequence> sequence = iterate(value);
    Frame inner = frame.nested();
    const auto open_scope = [&] {
        // A scope that nothing refers to any more serves the next round too.
        if (inner.scope.use_count() > 1) inner.scope = make<Scope>(frame.scope);
        else inner.scope->variables.clear();
    };
    if (filter) {
        Vector<Value> kept;
        for (const Value& element : sequence->elements) {
            open_scope();
            inner.assign(target, element);
            if (truth(filter->evaluate(inner))) kept.push_back(element);
        }
        sequence = make<Sequence>(std::move(kept));
    }
    if (sequence->elements.empty()) {
        open_scope();
        return execute_body(inner, otherwise);
    }
    const auto loop = make<Loop>(sequence, recursive ? this : nullptr, frame, level);
    for (const Value& element : sequence->elements) {
        Budget::current()->step();
        open_scope();
        inner.scope->set(loop_name, Value(loop));
        inner.assign(target, element);
        if (execute_body(inner, body) == Flow::leave_loop) break;
        ++loop->index;
    }
    return Flow::normal;
}

Flow Set::execute(Frame& frame) const {
    frame.assign(target, value->evaluate(frame));
    return Flow::normal;
}

Flow SetBlock::execute(Frame& frame) const {
    frame.assign(target, filtered(frame, capture(frame, body), filters));
    return Flow::normal;
}

Flow FilterBlock::execute(Frame& frame) const {
    frame.write(to_string(filtered(frame, capture(frame, body), filters)));
    return Flow::normal;
}

Flow With::execute(Frame& frame) const {
    Frame inner = frame.nested();
    for (const auto& [target, value] : assignments) inner.assign(target, value->evaluate(frame));
    return execute_body(inner, body);
}

Flow MacroDefinition::execute(Frame& frame) const {
    frame.interpreter.remember(frame.scope);
    Target target;
    target.name = name;
    frame.assign(target, Value(make<Macro>(procedure, frame.scope)));
    return Flow::normal;
}

Flow CallBlock::execute(Frame& frame) const {
    frame.interpreter.remember(frame.scope);
    const Value callee = call->callee->evaluate(frame);
    Arguments arguments = evaluate_arguments(frame, call->arguments);
    arguments.named.emplace_back("caller", Value(make<Macro>(caller, frame.scope)));
    frame.write(to_string(frame.interpreter.call(callee, arguments)));
    return Flow::normal;
}

Flow Block::execute(Frame& frame) const {
    Frame inner = frame.nested();
    const std::size_t begin = frame.out->size();
    execute_body(inner, body);
    if (generation && frame.generations) frame.generations->push_back({begin, frame.out->size()});
    return Flow::normal;
}

}  // namespace mixwright::jinja
