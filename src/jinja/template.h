// The Jinja dialect of chat templates, as jinja2 runs it in the sandbox of transformers: same white space, same
// values, same refusals. An own evaluator because templates are code out of model files: each render has a budget of
// steps, memory, output and depth (jinja/budget.h) that nothing a template can write gets around.
// Knows nothing of messages or models.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "jinja/budget.h"

namespace mixwright::jinja {

struct Rendered {
    std::string text;
    /// What the {% generation %} blocks at top level wrote: byte ranges [first, second) of `text`, ascending.
    std::vector<std::pair<std::size_t, std::size_t>> generations;
};

/// A parsed template. Immutable: renders may run on several threads at once.
class Template {
public:
    /// Failure on a syntax error (with its line) or a template beyond the limits.
    explicit Template(std::string_view source, const Limits& limits = {});
    ~Template();
    Template(Template&&) noexcept;
    Template& operator=(Template&&) noexcept;

    /// `variables` is an object. `now` is what strftime_now tells; 0 is the present.
    /// Failure when the template raises, uses a value wrongly or exceeds the limits.
    Rendered render(const nlohmann::ordered_json& variables, std::time_t now = 0) const;

private:
    Limits limits_;
    std::unique_ptr<struct Tree> tree_;
};

}  // namespace mixwright::jinja
