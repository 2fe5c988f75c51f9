#include "jinja/template.h"

#include "jinja/interpreter.h"
#include "jinja/parser.h"
#include "jinja/unicode.h"

namespace mixwright::jinja {

Template::Template(std::string_view source, const Limits& limits) : limits_(limits) {
    if (source.size() > limits.template_bytes)
        throw Failure("the template is larger than " + std::to_string(limits.template_bytes >> 10) + " kB",
                      Failure::Reason::budget);
    if (!is_valid_utf8(source)) throw Failure("the template is not UTF-8", Failure::Reason::syntax);
    Budget budget(limits_);
    tree_ = std::make_unique<Tree>(parse(source));
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

Rendered Template::render(const nlohmann::ordered_json& variables, std::time_t now) const {
    Budget budget(limits_);
    String out;
    Vector<Span> spans;
    Interpreter(*tree_, variables, now ? now : std::time(nullptr)).run(out, spans);
    Rendered rendered{std::string(out), {}};
    for (const Span& span : spans) rendered.generations.emplace_back(span.begin, span.end);
    return rendered;
}

}  // namespace mixwright::jinja
