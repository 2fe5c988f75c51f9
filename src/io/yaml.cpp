#include "io/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <unordered_map>

#include "error.h"
#include "io/file.h"
#include "nearest.h"

namespace mixwright::io {

enum class Kind { null, scalar, list, map };

struct Yaml::Node {
    Kind kind = Kind::null;
    int line = 0;
    std::string scalar;
    std::vector<std::string> keys;                     // of a map, in order
    std::vector<std::shared_ptr<const Node>> children; // of a list, or the values of a map
    std::size_t size = 1;                              // nodes of the whole subtree, aliases written out
};

namespace {

using Node = Yaml::Node;

const char* kind_text(Kind kind) {
    constexpr const char* texts[] = {"nothing", "a single value", "a list", "a mapping"};
    return texts[static_cast<int>(kind)];
}

// Builds the tree from the parser's events.
class TreeBuilder final : public YAML::EventHandler {
public:
    TreeBuilder(std::string_view source, YamlLimits limits) : source_(source), limits_(limits) {}

    std::shared_ptr<const Node> root() const { return root_ ? root_ : std::make_shared<const Node>(Node{.line = 1}); }

    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { place(new_node(Kind::null, mark), anchor); }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        const auto it = anchors_.find(anchor);
        if (it == anchors_.end()) refuse(mark.line + 1, "an alias stands inside the value it names");
        add(it->second, mark.line + 1);
    }
    void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, const std::string& value) override {
        auto node = new_node(Kind::scalar, mark);
        node->scalar = value;
        place(std::move(node), anchor);
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(Kind::list, mark, anchor);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
        open(Kind::map, mark, anchor);
    }
    void OnMapEnd() override { close(); }

private:
    struct Open {
        std::shared_ptr<Node> node;
        YAML::anchor_t anchor;
        bool expects_key;
    };

    [[noreturn]] void refuse(int line, const std::string& what) const {
        throw Error(ErrorCode::recipe, fmt::format("{}:{}: {}", source_, line, what));
    }

    static std::shared_ptr<Node> new_node(Kind kind, const YAML::Mark& mark) {
        auto node = std::make_shared<Node>();
        node->kind = kind;
        node->line = mark.line + 1;
        return node;
    }

    void open(Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
        if (stack_.size() >= limits_.depth)
            refuse(mark.line + 1, fmt::format("nested deeper than {} levels", limits_.depth));
        stack_.push_back({new_node(kind, mark), anchor, kind == Kind::map});
    }

    void close() {
        const Open done = std::move(stack_.back());
        stack_.pop_back();
        place(done.node, done.anchor);
    }

    void place(std::shared_ptr<const Node> node, YAML::anchor_t anchor) {
        if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
        const int line = node->line;
        add(std::move(node), line);
    }

    void add(std::shared_ptr<const Node> node, int line) {
        if (stack_.empty()) {
            root_ = std::move(node);
            return;
        }
        Open& parent = stack_.back();
        parent.node->size += node->size;
        if (parent.node->size > limits_.nodes)
            refuse(line, fmt::format("more than {} values once its aliases are written out", limits_.nodes));
        if (parent.node->kind == Kind::map && parent.expects_key) {
            if (node->kind != Kind::scalar) refuse(line, "a key must be a single word");
            if (std::ranges::find(parent.node->keys, node->scalar) != parent.node->keys.end())
                refuse(line, fmt::format("key \"{}\" occurs twice", printable(node->scalar)));
            parent.node->keys.push_back(node->scalar);
            parent.expects_key = false;
            return;
        }
        parent.node->children.push_back(std::move(node));
        parent.expects_key = true;
    }

    std::string source_;
    YamlLimits limits_;
    std::vector<Open> stack_;
    std::unordered_map<YAML::anchor_t, std::shared_ptr<const Node>> anchors_;
    std::shared_ptr<const Node> root_;
};

}  // namespace

Yaml::Yaml(std::shared_ptr<const std::string> source, std::shared_ptr<const Node> node)
    : source_(std::move(source)), node_(std::move(node)) {}

Yaml Yaml::parse(std::string_view text, std::string_view source, YamlLimits limits) {
    if (text.size() > limits.bytes)
        throw Error(ErrorCode::recipe, fmt::format("{}: too large (got {} bytes, limit {})", source, text.size(), limits.bytes));
    TreeBuilder builder(source, limits);
    try {
        std::istringstream stream{std::string(text)};
        YAML::Parser parser(stream);
        parser.HandleNextDocument(builder);
        TreeBuilder rest(source, limits);
        if (parser.HandleNextDocument(rest))
            throw Error(ErrorCode::recipe, fmt::format("{}: more than one document (a second --- line)", source));
    } catch (const YAML::Exception& e) {
        throw Error(ErrorCode::recipe, fmt::format("{}:{}: not valid YAML: {}", source, e.mark.line + 1, e.msg));
    }
    return {std::make_shared<const std::string>(source), builder.root()};
}

Yaml Yaml::read(const std::filesystem::path& path, YamlLimits limits) {
    return parse(read_file(path, limits.bytes), path.string(), limits);
}

bool Yaml::is_null() const noexcept { return node_->kind == Kind::null; }
bool Yaml::is_scalar() const noexcept { return node_->kind == Kind::scalar; }
bool Yaml::is_list() const noexcept { return node_->kind == Kind::list; }
bool Yaml::is_map() const noexcept { return node_->kind == Kind::map; }

const std::string& Yaml::text() const {
    if (!is_scalar()) refuse(fmt::format("got {}, expected a single value", kind_text(node_->kind)));
    return node_->scalar;
}

bool Yaml::boolean() const {
    const std::string& value = text();
    if (value == "true" || value == "True") return true;
    if (value == "false" || value == "False") return false;
    refuse(fmt::format("got \"{}\", expected true or false", printable(value)));
}

std::int64_t Yaml::integer(std::int64_t low, std::int64_t high) const {
    const std::string& value = text();
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc{} || end != value.data() + value.size() || number < low || number > high)
        refuse(fmt::format("got \"{}\", expected a whole number from {} to {}", printable(value), low, high));
    return number;
}

double Yaml::number(double low, double high) const {
    const std::string& value = text();
    double number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    // The comparison is written so that NaN fails it.
    if (error != std::errc{} || end != value.data() + value.size() || !(number >= low && number <= high))
        refuse(fmt::format("got \"{}\", expected a number from {} to {}", printable(value), low, high));
    return number;
}

std::vector<Yaml> Yaml::items() const {
    if (!is_list()) refuse(fmt::format("got {}, expected a list", kind_text(node_->kind)));
    std::vector<Yaml> items;
    items.reserve(node_->children.size());
    for (const auto& child : node_->children) items.push_back({source_, child});
    return items;
}

std::vector<std::string> Yaml::texts() const {
    if (is_scalar()) return {text()};
    std::vector<std::string> texts;
    for (const Yaml& item : items()) texts.push_back(item.text());
    return texts;
}

std::vector<std::pair<std::string, Yaml>> Yaml::entries() const {
    if (!is_map()) refuse(fmt::format("got {}, expected a mapping", kind_text(node_->kind)));
    std::vector<std::pair<std::string, Yaml>> entries;
    for (std::size_t i = 0; i < node_->keys.size(); ++i) entries.emplace_back(node_->keys[i], Yaml(source_, node_->children[i]));
    return entries;
}

void Yaml::expect_keys(std::span<const std::string_view> known) const {
    if (!is_map()) refuse(fmt::format("got {}, expected a mapping", kind_text(node_->kind)));
    for (std::size_t i = 0; i < node_->keys.size(); ++i) {
        const std::string& key = node_->keys[i];
        if (std::ranges::find(known, key) != known.end()) continue;
        Yaml(source_, node_->children[i])
            .refuse(fmt::format("unknown key \"{}\"", printable(key)),
                    fmt::format("{}known keys: {}", did_you_mean(key, known), fmt::join(known, ", ")));
    }
}

std::optional<Yaml> Yaml::get(std::string_view key) const {
    const auto it = std::ranges::find(node_->keys, key);
    if (it == node_->keys.end()) return std::nullopt;
    Yaml value(source_, node_->children[static_cast<std::size_t>(it - node_->keys.begin())]);
    return value.is_null() ? std::nullopt : std::optional(value);
}

Yaml Yaml::at(std::string_view key) const {
    if (auto value = get(key)) return *value;
    refuse(fmt::format("\"{}\" is missing", key));
}

std::string Yaml::place() const { return fmt::format("{}:{}", *source_, node_->line); }

void Yaml::refuse(const std::string& what, std::string hint) const {
    throw Error(ErrorCode::recipe, place() + ": " + what, std::move(hint));
}

}  // namespace mixwright::io
