#include "split/split_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "error.h"
#include "io/file.h"
#include "io/json.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {
namespace {

struct MethodName {
    Method method;
    std::string_view name;
};
constexpr std::array methods{MethodName{Method::slice, "slice"},   MethodName{Method::mean, "mean"},     MethodName{Method::slerp, "slerp"},
                             MethodName{Method::concat, "concat"}, MethodName{Method::routed, "routed"}, MethodName{Method::fit, "fit"}};
constexpr std::size_t file_limit = 16u << 20;

std::int64_t expert_of(const io::Json& value, const arch::ModelSpec& moe, const std::string& place) {
    if (!value.is_number_integer())
        throw Error(ErrorCode::recipe, fmt::format("{}: not the number of an expert", place));
    const auto expert = value.get<std::int64_t>();
    if (expert < 0 || expert >= moe.num_experts)
        throw Error(ErrorCode::recipe, fmt::format("{}: expert {} is not there", place, expert), fmt::format("experts are counted from 0 to {}", moe.num_experts - 1));
    return expert;
}

}  // namespace

Method parse_method(std::string_view name) {
    for (const MethodName& method : methods)
        if (method.name == name) return method.method;
    std::vector<std::string_view> names;
    for (const MethodName& method : methods) names.push_back(method.name);
    throw Error(ErrorCode::usage, fmt::format("--method {}: not known", printable(std::string(name))), fmt::format("known: {}", fmt::join(names, ", ")));
}

std::string_view method_name(Method method) { return std::ranges::find(methods, method, &MethodName::method)->name; }

bool needs_data(Method method) { return method == Method::routed || method == Method::fit; }

std::vector<std::vector<std::int64_t>> read_experts_per_layer(const std::filesystem::path& file, const arch::ModelSpec& moe) {
    const std::string source = io::shown(file);
    const io::Json json = io::parse_json(io::read_file(file, file_limit), source);
    const std::size_t layers = surgery::moe_layers(moe).size();
    if (!json.is_array() || json.size() != layers)
        throw Error(ErrorCode::recipe, fmt::format("{}: expected a list with an entry for each of the {} MoE layers (got {})", source, layers,
                                                   json.is_array() ? fmt::format("{} entries", json.size()) : "no list"),
                    "for example [3, 0, [1, 5], ...]: an expert, or several whose neurons are put side by side");
    std::vector<std::vector<std::int64_t>> experts;
    for (std::size_t i = 0; i < json.size(); ++i) {
        const std::string place = fmt::format("{}: entry {}", source, i);
        std::vector<std::int64_t>& layer = experts.emplace_back();
        if (!json[i].is_array()) {
            layer.push_back(expert_of(json[i], moe, place));
            continue;
        }
        for (const io::Json& value : json[i]) layer.push_back(expert_of(value, moe, place));
        if (layer.empty()) throw Error(ErrorCode::recipe, fmt::format("{}: an empty list", place), "every MoE layer needs an expert");
    }
    return experts;
}

void check_expert(std::int64_t expert, const arch::ModelSpec& moe) {
    if (expert < 0 || expert >= moe.num_experts)
        throw Error(ErrorCode::usage, fmt::format("--expert {}: the model has {} experts", expert, moe.num_experts),
                    fmt::format("experts are counted from 0 to {}", moe.num_experts - 1));
}

}  // namespace mixwright::split
