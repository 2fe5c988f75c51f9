// Values of the template language, with Python's meaning: what is true, equal, smaller, how a value prints.
// Values are immutable (the sandbox of transformers forbids changing lists and dicts), except namespaces.
// Knows nothing of the syntax.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "jinja/budget.h"

namespace mixwright::jinja {

class Interpreter;
struct Arguments;
struct Text;
struct Sequence;
struct Dict;

/// Something with an identity: namespace, macro, loop, bound method.
struct Object : std::enable_shared_from_this<Object> {
    /// `depth`: how deep the values it holds nest; containers refuse to go below kMaxValueDepth, so that
    /// destruction and printing, which recurse, are bounded.
    explicit Object(int depth = 0);
    virtual ~Object() = default;

    virtual std::string_view type_name() const = 0;
    virtual std::optional<class Value> attribute(std::string_view name);
    virtual bool callable() const { return true; }
    virtual Value call(Interpreter& interpreter, const Arguments& arguments);
    virtual String repr(int level) const;

    int depth;
};

/// The result of a name or attribute that is not there. Using it in most ways fails with `message`.
struct Undefined {
    String message;
    bool unsafe = false;
};

struct None {};

class Value {
public:
    Value() = default;  // undefined
    Value(None) : data_(None{}) {}
    Value(bool value) : data_(value) {}
    Value(std::int64_t value) : data_(value) {}
    Value(double value) : data_(value) {}
    Value(Ref<Text> value) : data_(std::move(value)) {}
    Value(Ref<Sequence> value) : data_(std::move(value)) {}
    Value(Ref<Dict> value) : data_(std::move(value)) {}
    Value(Ref<Object> value) : data_(std::move(value)) {}
    template <class T>
        requires std::is_base_of_v<Object, T>
    Value(Ref<T> value) : data_(Ref<Object>(std::move(value))) {}
    Value(const void*) = delete;  // a pointer must not turn into a bool

    static Value text(std::string_view bytes);
    static Value text(const char* bytes) { return text(std::string_view(bytes)); }
    static Value text(String&& bytes, bool safe = false);
    static Value undefined(String message, bool unsafe = false);

    template <class T>
    const T* get() const noexcept {
        return std::get_if<T>(&data_);
    }
    bool is_undefined() const noexcept { return data_.index() == 0 || data_.index() == 1; }
    bool is_none() const noexcept { return get<None>(); }
    bool is_number() const noexcept { return get<std::int64_t>() || get<bool>() || get<double>(); }
    const Text* text() const noexcept;
    const Sequence* sequence() const noexcept;
    const Dict* dict() const noexcept;
    Object* object() const noexcept;
    /// An int or a bool as Python's int.
    std::optional<std::int64_t> integer() const noexcept;
    std::optional<double> number() const noexcept;
    int depth() const noexcept;

    /// Error text of an undefined value.
    std::string undefined_message() const;

private:
    std::variant<std::monostate, Ref<Undefined>, None, bool, std::int64_t, double, Ref<Text>, Ref<Sequence>, Ref<Dict>,
                 Ref<Object>>
        data_;
};

/// Depth of the deepest value, 0 for none.
int depth_of(const Vector<Value>& values) noexcept;

/// UTF-8 text. Lengths and indices of the language count code points.
struct Text {
    explicit Text(String&& bytes, bool safe = false);
    std::string_view view() const noexcept { return bytes; }
    bool ascii() const noexcept { return length == bytes.size(); }
    /// Byte offset of the code point `index` (0..length).
    std::size_t offset(std::size_t index) const;

    String bytes;
    std::size_t length;  // in code points
    bool safe;           // marked by |safe or |escape: adding to it escapes what is added
};

struct Sequence {
    enum class Flavor { list, tuple, range, keys, values, items, generator };

    explicit Sequence(Vector<Value>&& values, Flavor flavor = Flavor::list);
    bool indexable() const noexcept { return flavor <= Flavor::range; }
    /// The elements not yet consumed: all of them, except for generators, which give each element once.
    const Value* next() const;

    Vector<Value> elements;
    Flavor flavor;
    int depth;
    mutable std::size_t position = 0;    // of a generator
    std::array<std::int64_t, 3> bounds{};  // of a range
};

struct ValueHash {
    std::size_t operator()(const Value& value) const;
};
struct ValueEqual {
    bool operator()(const Value& a, const Value& b) const;
};

/// Insertion-ordered, as Python's.
struct Dict {
    const Value* find(const Value& key) const;
    const Value* find(std::string_view key) const;
    void insert(Value key, Value value);
    const Vector<std::pair<Value, Value>>& items() const noexcept { return items_; }
    int depth = 1;

private:
    Vector<std::pair<Value, Value>> items_;
    std::unordered_map<Value, std::size_t, ValueHash, ValueEqual, Counted<std::pair<const Value, std::size_t>>> index_;
};

Value make_list(Vector<Value>&& elements, Sequence::Flavor flavor = Sequence::Flavor::list);
Value from_json(const nlohmann::ordered_json& json);

/// Python's name of the value's type, for messages.
std::string_view type_name(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
/// Less-than; Failure when the types have no order.
bool less(const Value& a, const Value& b, const char* symbol = "<");
/// str(value) and repr(value).
String to_string(const Value& value);
String repr(const Value& value, int level = 0);
String repr_float(double value);
/// What `for x in value` walks through; Failure when it cannot. Consumes a generator.
Ref<Sequence> iterate(const Value& value);
bool is_iterable(const Value& value);
/// len(value), or Failure.
std::int64_t length_of(const Value& value);
/// Python's `needle in haystack`.
bool contains(const Value& haystack, const Value& needle);

/// environment.getattr and environment.getitem of Jinja, in its sandbox.
Value get_attribute(const Value& object, std::string_view name);
Value get_item(const Value& object, const Value& key);
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step);

[[noreturn]] void type_error(const std::string& message);

}  // namespace mixwright::jinja
