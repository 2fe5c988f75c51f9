// Functions a template can call by name.
#include <unordered_map>

#include "jinja/interpreter.h"

namespace mixwright::jinja {

namespace {

constexpr std::int64_t kMaxRange = 100'000;  // Jinja's sandbox allows no longer one

Value range(Interpreter&, const Arguments& arguments) {
    const Bound bound("range", arguments, {"start", "stop", "step"}, 1);
    const bool only_stop = !bound[1];
    const std::int64_t start = only_stop ? 0 : bound.integer(0, 0), stop = bound.integer(only_stop ? 0 : 1, 0);
    const std::int64_t step = bound.integer(2, 1);
    if (step == 0) type_error("range() arg 3 must not be zero");
    const __int128 span = step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
    const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
    const __int128 count = span <= 0 ? 0 : (span + stride - 1) / stride;
    if (count > kMaxRange)
        type_error("Range too big. The sandbox blocks ranges larger than MAX_RANGE (" + std::to_string(kMaxRange) + ").");
    Vector<Value> elements;
    elements.reserve(static_cast<std::size_t>(count));
    for (__int128 i = 0; i < count; ++i) elements.push_back(static_cast<std::int64_t>(start + i * step));
    auto sequence = make<Sequence>(std::move(elements), Sequence::Flavor::range);
    sequence->bounds = {start, stop, step};
    return Value(Ref<Sequence>(std::move(sequence)));
}

/// dict(mapping or pairs, name=value...)
Ref<Dict> make_dict(const Arguments& arguments) {
    if (arguments.positional.size() > 1) type_error("dict expected at most 1 argument");
    auto dict = make<Dict>();
    for (const Value& source : arguments.positional) {
        if (source.dict()) {
            for (const auto& [key, value] : source.dict()->items()) dict->insert(key, value);
            continue;
        }
        for (const Ref<Sequence> elements = iterate(source); const Value& element : elements->elements) {
            const Ref<Sequence> pair = iterate(element);
            if (pair->elements.size() != 2) type_error("dictionary update sequence element has not length 2");
            dict->insert(pair->elements[0], pair->elements[1]);
        }
    }
    for (const auto& [name, value] : arguments.named) dict->insert(Value::text(name), value);
    return dict;
}

Value name_space(Interpreter& interpreter, const Arguments& arguments) {
    auto made = make<Namespace>();
    interpreter.remember(made);
    const Ref<Dict> attributes = make_dict(arguments);
    for (const auto& [key, value] : attributes->items()) made->set(to_string(key), value);
    return Value(std::move(made));
}

Value raise_exception(Interpreter&, const Arguments& arguments) {
    const Bound bound("raise_exception", arguments, {"message"}, 1);
    throw Failure(std::string(to_string(*bound[0])), Failure::Reason::raised);
}

Value strftime_now(Interpreter& interpreter, const Arguments& arguments) {
    const Bound bound("strftime_now", arguments, {"format"}, 1);
    const std::string format(bound.text(0));
    if (format.size() > 1000) type_error("the time format is too long");
    std::tm local{};
    const std::time_t now = interpreter.now();
    localtime_r(&now, &local);
    char buffer[4096];
    const std::size_t length = std::strftime(buffer, sizeof buffer, format.c_str(), &local);
    return Value::text(std::string_view(buffer, length));
}

struct Cycler final : Object {
    explicit Cycler(Vector<Value>&& values) : Object(depth_of(values) + 1), items(std::move(values)) {}
    std::string_view type_name() const override { return "Cycler"; }
    bool callable() const override { return false; }
    std::optional<Value> attribute(std::string_view name) override;

    Vector<Value> items;
    std::size_t position = 0;
};

struct CyclerMethod final : Object {
    CyclerMethod(Ref<Cycler> cycler, bool next) : Object(cycler->depth + 1), cycler(std::move(cycler)), next(next) {}
    std::string_view type_name() const override { return "method"; }
    Value call(Interpreter&, const Arguments&) override {
        const std::size_t at = cycler->position;
        cycler->position = next ? (at + 1) % cycler->items.size() : 0;
        return next ? cycler->items[at] : Value(None{});
    }

    Ref<Cycler> cycler;
    bool next;
};

std::optional<Value> Cycler::attribute(std::string_view name) {
    if (name == "current") return items[position];
    if (name != "next" && name != "reset") return {};
    return Value(make<CyclerMethod>(std::static_pointer_cast<Cycler>(shared_from_this()), name == "next"));
}

Value cycler(Interpreter&, const Arguments& arguments) {
    if (arguments.positional.empty()) type_error("at least one item has to be provided");
    Vector<Value> items = arguments.positional;
    return Value(make<Cycler>(std::move(items)));
}

struct Joiner final : Object {
    explicit Joiner(Value separator) : Object(separator.depth() + 1), separator(std::move(separator)) {}
    std::string_view type_name() const override { return "Joiner"; }
    Value call(Interpreter&, const Arguments&) override { return std::exchange(used, true) ? separator : Value::text(""); }

    Value separator;
    bool used = false;
};

Value joiner(Interpreter&, const Arguments& arguments) {
    const Bound bound("joiner", arguments, {"sep"});
    return Value(make<Joiner>(bound.get(0, Value::text(", "))));
}

}  // namespace

std::optional<Value> find_global(std::string_view name) {
    static const std::unordered_map<std::string_view, Function> table = {
        {"range", range},
        {"dict", [](Interpreter&, const Arguments& arguments) { return Value(make_dict(arguments)); }},
        {"namespace", name_space},
        {"raise_exception", raise_exception},
        {"strftime_now", strftime_now},
        {"cycler", cycler},
        {"joiner", joiner},
    };
    const auto it = table.find(name);
    if (it == table.end()) return {};
    return Value(make<Builtin>(it->first, it->second));
}

}  // namespace mixwright::jinja
