#include "jinja/arguments.h"

#include <algorithm>

namespace mixwright::jinja {

Bound::Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> parameters,
             std::size_t required)
    : function_(function), slots_(parameters.size()) {
    const auto refuse = [&](const std::string& what) { type_error(std::string(function_) + "() " + what); };
    if (arguments.positional.size() > slots_.size())
        refuse("takes at most " + std::to_string(slots_.size()) + " arguments (" +
               std::to_string(arguments.positional.size()) + " given)");
    std::copy(arguments.positional.begin(), arguments.positional.end(), slots_.begin());
    for (const auto& [name, value] : arguments.named) {
        const auto it = std::find(parameters.begin(), parameters.end(), std::string_view(name));
        if (it == parameters.end())
            refuse("got an unexpected keyword argument '" + std::string(name.substr(0, 60)) + "'");
        auto& slot = slots_[static_cast<std::size_t>(it - parameters.begin())];
        if (slot) refuse("got multiple values for argument '" + std::string(name) + "'");
        slot = value;
    }
    for (std::size_t i = 0; i < required; ++i)
        if (!slots_[i]) refuse("missing a required argument: '" + std::string(parameters.begin()[i]) + "'");
}

std::int64_t Bound::integer(std::size_t i, std::int64_t fallback) const {
    if (!slots_[i]) return fallback;
    if (const auto number = slots_[i]->integer()) return *number;
    type_error(std::string(function_) + "(): an integer is required, not " + std::string(type_name(*slots_[i])));
}

std::string_view Bound::text(std::size_t i, std::string_view fallback) const {
    if (!slots_[i]) return fallback;
    if (const Text* text = slots_[i]->text()) return text->view();
    type_error(std::string(function_) + "(): a string is required, not " + std::string(type_name(*slots_[i])));
}

}  // namespace mixwright::jinja
