// The stack machine: opcodes to nodes. What the nodes mean is read in pickled_tensors.cpp.
#include "checkpoint/unpickler.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "checkpoint/pickle_globals.h"

namespace mixwright::checkpoint {
namespace {

// A state dict of 200,000 tensors has about 3 million values.
constexpr std::size_t max_nodes = 4'000'000;
constexpr std::size_t max_memo = 4'000'000;
constexpr std::uint64_t max_text_bytes = 1u << 20;
constexpr int max_protocol = 5;

// Names of the opcodes we refuse, for the message.
std::string_view foreign_opcode(std::uint8_t opcode) {
    switch (opcode) {
        case 'i': return "INST";
        case 'o': return "OBJ";
        case 0x81: return "NEWOBJ";
        case 0x92: return "NEWOBJ_EX";
        case 0x82: return "EXT1";
        case 0x83: return "EXT2";
        case 0x84: return "EXT4";
        case 'P': return "PERSID";
        case 'I': return "INT";
        case 'L': return "LONG";
        case 'F': return "FLOAT";
        case 'S': return "STRING";
        case 'V': return "UNICODE";
        case 'B': return "BINBYTES";
        case 'C': return "SHORT_BINBYTES";
        case 0x8e: return "BINBYTES8";
        case 0x96: return "BYTEARRAY8";
        case 0x8f: return "EMPTY_SET";
        case 0x90: return "ADDITEMS";
        case 0x91: return "FROZENSET";
        case 0x97: return "NEXT_BUFFER";
        case 0x98: return "READONLY_BUFFER";
        case 'g': return "GET";
        case 'p': return "PUT";
        case 'd': return "DICT";
        case 'l': return "LIST";
        case '2': return "DUP";
        default: return "unknown";
    }
}

}  // namespace

class PickleReader {
public:
    explicit PickleReader(ByteReader& reader) : reader_(reader), pickle_(reader.source()) {}

    Pickle read() {
        for (;;) {
            at_ = reader_.offset();
            const auto opcode = reader_.number<std::uint8_t>("an opcode");
            if (opcode == '.') break;
            step(opcode);
        }
        pickle_.root_ = pop();
        return std::move(pickle_);
    }

private:
    using Kind = Pickle::Kind;
    using Node = Pickle::Node;
    using Index = Pickle::Index;

    void step(std::uint8_t opcode) {
        switch (opcode) {
            case 0x80: return check_protocol();
            case 0x95: reader_.number<std::uint64_t>("a frame length"); return;
            case '(': marks_.push_back(stack_.size()); return;
            case '0': pop(); return;
            case '1': take_mark(); return;
            case 'N': push({.kind = Kind::none}); return;
            case 0x88: push({.kind = Kind::boolean, .number = 1}); return;
            case 0x89: push({.kind = Kind::boolean}); return;
            case 'J': return push_integer(reader_.number<std::int32_t>("an integer"));
            case 'K': return push_integer(reader_.number<std::uint8_t>("an integer"));
            case 'M': return push_integer(reader_.number<std::uint16_t>("an integer"));
            case 0x8a: return push_long(reader_.number<std::uint8_t>("the length of an integer"));
            case 'G': reader_.number<double>("a float"); push({.kind = Kind::real}); return;
            case 'X': return push_text(reader_.number<std::uint32_t>("the length of a text"));
            case 0x8c: return push_text(reader_.number<std::uint8_t>("the length of a text"));
            case 0x8d: return push_text(reader_.number<std::uint64_t>("the length of a text"));
            case 'T': return push_text(reader_.number<std::uint32_t>("the length of a text"));
            case 'U': return push_text(reader_.number<std::uint8_t>("the length of a text"));
            case ')': push({.kind = Kind::tuple}); return;
            case ']': push({.kind = Kind::list}); return;
            case '}': push({.kind = Kind::dict}); return;
            case 't': push({.kind = Kind::tuple, .items = take_mark()}); return;
            case 0x85: return push_tuple(1);
            case 0x86: return push_tuple(2);
            case 0x87: return push_tuple(3);
            case 'a': return extend({pop()}, Kind::list);
            case 'e': return extend(take_mark(), Kind::list);
            case 's': return set_item();
            case 'u': return extend(take_mark(), Kind::dict);
            case 'q': return put(reader_.number<std::uint8_t>("a memo key"));
            case 'r': return put(reader_.number<std::uint32_t>("a memo key"));
            case 0x94: return put(memo_.size());
            case 'h': return get(reader_.number<std::uint8_t>("a memo key"));
            case 'j': return get(reader_.number<std::uint32_t>("a memo key"));
            case 'c': return global_by_lines();
            case 0x93: return global_from_stack();
            case 'Q': return persistent_storage();
            case 'R': return reduce();
            case 'b': return build();
            default:
                throw Error(ErrorCode::unsupported, fmt::format("{}: at byte {}: the pickle uses opcode {} (0x{:02x}), which a state dict has no need of",
                                                                reader_.source(), at_, foreign_opcode(opcode), opcode),
                            "the file holds more than tensors; save its state dict as safetensors");
        }
    }

    [[noreturn]] void fail(const std::string& message) const { reader_.fail_at(at_, message); }

    // ---- stack ----

    Index add(Node node) {
        if (pickle_.nodes_.size() == max_nodes) fail(fmt::format("the pickle holds too many values (limit {})", max_nodes));
        if (at_ > UINT32_MAX) fail("the pickle is too long");
        node.offset = static_cast<std::uint32_t>(at_);
        pickle_.nodes_.push_back(std::move(node));
        return static_cast<Index>(pickle_.nodes_.size() - 1);
    }

    void push(Node node) { stack_.push_back(add(std::move(node))); }

    void push_integer(std::int64_t value) { push({.kind = Kind::integer, .number = value}); }

    void push_long(std::uint8_t length) {
        const std::string_view bytes = reader_.text(length, "an integer");
        if (length > 8) return push({.kind = Kind::long_integer, .text = bytes});
        // Little-endian two's complement of any length.
        std::uint64_t value = length > 0 && (static_cast<std::uint8_t>(bytes.back()) & 0x80) != 0 ? ~std::uint64_t{0} : 0;
        for (std::size_t i = length; i-- > 0;) value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
        push_integer(static_cast<std::int64_t>(value));
    }

    void push_text(std::uint64_t length) {
        if (length > max_text_bytes) fail(fmt::format("a text is too long (got {} bytes, limit {})", length, max_text_bytes));
        push({.kind = Kind::text, .text = reader_.text(length, "a text")});
    }

    std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

    Index pop() {
        if (stack_.size() <= floor()) fail("the pickle takes a value from an empty stack");
        const Index index = stack_.back();
        stack_.pop_back();
        return index;
    }

    Node& top() {
        if (stack_.size() <= floor()) fail("the pickle needs a value on an empty stack");
        return pickle_.nodes_[stack_.back()];
    }

    std::vector<Index> take_mark() {
        if (marks_.empty()) fail("the pickle goes back to a mark that it never set");
        const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
        std::vector<Index> items(first, stack_.end());
        stack_.erase(first, stack_.end());
        marks_.pop_back();
        return items;
    }

    void push_tuple(int count) {
        std::vector<Index> items(static_cast<std::size_t>(count));
        for (auto it = items.rbegin(); it != items.rend(); ++it) *it = pop();
        push({.kind = Kind::tuple, .items = std::move(items)});
    }

    void extend(const std::vector<Index>& items, Kind kind) {
        Node& container = top();
        if (container.kind != kind) fail(kind == Kind::list ? "the pickle appends to what is no list" : "the pickle sets items of what is no dict");
        if (kind == Kind::dict && items.size() % 2 != 0) fail("the pickle sets a key without a value");
        container.items.insert(container.items.end(), items.begin(), items.end());
    }

    void set_item() {
        const Index value = pop(), key = pop();
        extend({key, value}, Kind::dict);
    }

    void put(std::uint64_t key) {
        if (memo_.size() == max_memo) fail(fmt::format("the pickle remembers too many values (limit {})", max_memo));
        top();
        memo_[key] = stack_.back();
    }

    void get(std::uint64_t key) {
        const auto it = memo_.find(key);
        if (it == memo_.end()) fail(fmt::format("the pickle recalls a value it never remembered (key {})", key));
        stack_.push_back(it->second);
        if (stack_.size() > max_nodes) fail("the stack of the pickle is too deep");
    }

    void check_protocol() {
        const auto protocol = reader_.number<std::uint8_t>("the protocol");
        if (protocol > max_protocol) fail(fmt::format("pickle protocol {} (limit {})", protocol, max_protocol));
    }

    // ---- what stands for code in Python is only named here ----

    void push_global(std::string_view module, std::string_view name) {
        const auto rows = pickle_globals();
        const auto it = std::ranges::find_if(rows, [&](const PickleGlobal& g) { return g.module == module && g.name == name; });
        if (it == rows.end())
            throw Error(ErrorCode::unsupported, fmt::format("{}: at byte {}: the pickle names {}.{}, which is none of the few globals a state dict needs",
                                                            reader_.source(), at_, printable(module), printable(name)),
                        "nothing was run; the file may be hostile, or hold more than tensors: save its state dict as safetensors");
        push({.kind = Kind::global, .number = it - rows.begin()});
    }

    void global_by_lines() {
        const std::string_view module = reader_.line("a module name");
        push_global(module, reader_.line("a global name"));
    }

    void global_from_stack() {
        const Index name = pop(), module = pop();
        if (node(name).kind != Kind::text || node(module).kind != Kind::text) fail("a global is not named by texts");
        push_global(node(module).text, node(name).text);
    }

    const Node& node(Index index) const { return pickle_.nodes_[index]; }

    const PickleGlobal* global(Index index) const {
        return node(index).kind == Kind::global ? &pickle_globals()[static_cast<std::size_t>(node(index).number)] : nullptr;
    }

    // ('storage', type, key, location, size) or, before 1.6, with a view behind it.
    void persistent_storage() {
        const Node& id = node(pop());
        if (id.kind != Kind::tuple || id.items.size() < 5 || node(id.items[0]).text != "storage") fail("a persistent id is no storage");
        const PickleGlobal* type = global(id.items[1]);
        if (type == nullptr || (type->kind != GlobalKind::storage && type->kind != GlobalKind::untyped_storage)) fail("a storage has no storage type");
        if (node(id.items[2]).kind != Kind::text) fail("the key of a storage is no text");
        if (node(id.items[4]).kind != Kind::integer || node(id.items[4]).number < 0) fail("the size of a storage is not a number of values");
        if (id.items.size() > 5 && node(id.items[5]).kind != Kind::none)
            throw Error(ErrorCode::unsupported, fmt::format("{}: at byte {}: a storage that is a view of another (torch before 0.4)", reader_.source(), at_));
        push({.kind = Kind::storage, .text = node(id.items[2]).text, .items = {id.items[1], id.items[4]}});
    }

    void reduce() {
        const Index args_index = pop(), callable = pop();
        // Nodes may move when one is added, so the arguments are copied: all that any of the globals looks at.
        constexpr std::size_t most_args = 8;
        const auto& given = node(args_index).items;
        const std::vector<Index> args(given.begin(), given.begin() + static_cast<std::ptrdiff_t>(std::min(given.size(), most_args)));
        if (node(args_index).kind != Kind::tuple) fail("the arguments of a global are no tuple");
        const PickleGlobal* what = global(callable);
        if (what == nullptr) fail("the pickle calls what is no global");
        const auto need = [&](std::size_t count) {
            if (args.size() < count) fail(fmt::format("{}.{} with {} arguments (expected {})", what->module, what->name, args.size(), count));
        };
        switch (what->kind) {
            case GlobalKind::ordered_dict: return push({.kind = Kind::dict, .items = pairs(args)});
            case GlobalKind::size:
                need(1);
                if (node(args[0]).kind != Kind::tuple) fail("torch.Size of what is no tuple");
                stack_.push_back(args[0]);
                return;
            case GlobalKind::rebuild_tensor:
                need(4);
                return push_tensor({args.begin(), args.begin() + 4});
            case GlobalKind::rebuild_tensor_v3:  // (storage, offset, size, stride, requires_grad, hooks, dtype)
                need(7);
                return push_tensor({args[0], args[1], args[2], args[3], args[6]});
            case GlobalKind::rebuild_parameter:
                need(1);
                if (node(args[0]).kind != Kind::tensor) fail("a parameter that is no tensor");
                stack_.push_back(args[0]);
                return;
            case GlobalKind::storage:
            case GlobalKind::untyped_storage:
            case GlobalKind::dtype: break;
        }
        fail(fmt::format("the pickle calls {}.{}", what->module, what->name));
    }

    // OrderedDict() or OrderedDict([(key, value), ...])
    std::vector<Index> pairs(const std::vector<Index>& args) {
        std::vector<Index> items;
        if (args.empty()) return items;
        // One list may be turned into many dicts: the copies count as values of their own.
        copied_ += node(args[0]).items.size();
        if (copied_ > max_nodes) fail(fmt::format("the pickle holds too many values (limit {})", max_nodes));
        for (const Index pair : node(args[0]).items) {
            if (node(pair).items.size() != 2) fail("an OrderedDict of what are no pairs");
            items.insert(items.end(), node(pair).items.begin(), node(pair).items.end());
        }
        return items;
    }

    void push_tensor(std::vector<Index> items) {
        if (node(items[0]).kind != Kind::storage) fail("a tensor without a storage");
        push({.kind = Kind::tensor, .items = std::move(items)});
    }

    // State of an object: a state dict carries its _metadata so. It says nothing of tensors, and is passed over.
    void build() {
        pop();
        if (top().kind != Kind::dict) fail("the pickle gives a state to what is no dict");
    }

    ByteReader& reader_;
    Pickle pickle_;
    std::vector<Index> stack_;
    std::vector<std::size_t> marks_;
    std::unordered_map<std::uint64_t, Index> memo_;
    std::size_t copied_ = 0;
    std::uint64_t at_ = 0;  // offset of the opcode at work
};

Pickle Pickle::read(ByteReader& reader) { return PickleReader(reader).read(); }

}  // namespace mixwright::checkpoint
