#include "train/trained_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "arch/published_layout.h"
#include "error.h"

namespace mixwright::train {
namespace {

using arch::TensorRole;

constexpr std::string_view correction_bias = "e_score_correction_bias";

bool belongs(TensorRole role, Trainable part) {
    switch (part) {
        case Trainable::all: return true;
        case Trainable::mlp: return role == TensorRole::mlp || role == TensorRole::expert || role == TensorRole::shared_expert;
        case Trainable::experts: return role == TensorRole::expert || role == TensorRole::shared_expert;
        case Trainable::router: return role == TensorRole::router || role == TensorRole::router_bias || role == TensorRole::shared_gate;
        case Trainable::lora: return false;
    }
    return false;
}

bool is_trained(const TrainRecipe& recipe, const arch::TensorSlot& slot) {
    // No gradient reaches it: `balance_bias` moves it.
    if (slot.name.ends_with(correction_bias)) return false;
    if (recipe.trains(Trainable::all) && slot.layer < 0) return recipe.first_layer == 0;
    if (slot.layer < recipe.first_layer || slot.layer > recipe.last_layer) return false;
    return std::ranges::any_of(recipe.trainable, [&](Trainable part) { return belongs(slot.role, part); });
}

// The stack is for plain SwiGLU; an expert with a LoRA, a bias or another form computes on its own.
bool stands_alone(const ops::Mlp& expert) {
    if (expert.activation != arch::Activation::silu || !expert.gate.weight.defined()) return true;
    return std::ranges::any_of(std::array{&expert.gate, &expert.up, &expert.down}, [](const ops::Linear* l) { return l->lora_a.defined() || l->bias.defined(); });
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

Dtype output_dtype(const arch::OpenModel& files) {
    const Dtype own = files.spec.dtype.value_or(Dtype::bf16);
    return own == Dtype::f16 || own == Dtype::f32 ? own : Dtype::bf16;
}

// The bytes of `make()` in `dtype`; made once, when the first byte is asked for.
checkpoint::OutputTensor generated(std::string name, std::vector<std::int64_t> shape, Dtype dtype, std::function<at::Tensor()> make) {
    auto made = std::make_shared<at::Tensor>();
    const auto fill = [made, make = std::move(make), type = model::scalar_type(dtype)](std::uint64_t offset, std::span<std::byte> out) {
        const at::NoGradGuard guard;
        if (!made->defined()) *made = make().detach().to(at::kCPU, type).contiguous();
        std::memcpy(out.data(), static_cast<const std::byte*>(made->const_data_ptr()) + offset, out.size());
        if (offset + out.size() == made->nbytes()) made->reset();
    };
    return {{std::move(name), dtype, std::move(shape)}, checkpoint::Generated{fill, "trained"}};
}

}  // namespace

TrainedModel::TrainedModel(arch::OpenModel files, const TrainRecipe& recipe, at::Device device, const distributed::Ranks& ranks)
    : model_(model::load_model(std::move(files), {model::scalar_type(*dtype_from_name(recipe.dtype)), device})), ranks_(ranks), lora_(recipe.lora) {
    if (recipe.trains(Trainable::lora))
        attach_lora(recipe);
    else
        train_whole(recipe);
    stack_experts(recipe);
    if (recipe.balance_bias > 0) move_biases(recipe);
    if (parameters_.empty())
        throw Error(ErrorCode::recipe, fmt::format("{}: `trainable: {}` chooses nothing of {}", recipe.source, recipe.trained_parts(), model_.files.checkpoint.name),
                    model_.files.spec.is_moe() ? "look at `layers` and `lora.targets`"
                                               : "a dense model has no experts and no router: use `all`, `mlp` or `lora`, and look at `layers` and `lora.targets`");
    buckets_ = share_out(parameters_, ranks_);
}

void TrainedModel::train_whole(const TrainRecipe& recipe) {
    std::set<std::string> chosen;
    for (const arch::TensorSlot& slot : arch::tensor_slots(model_.files.spec))
        if (is_trained(recipe, slot) && slot.role != TensorRole::expert) chosen.insert(slot.name);
    train_tensors(chosen);
}

void TrainedModel::train_tensors(const std::set<std::string>& chosen) {
    if (chosen.empty()) return;
    const model::Placement exact{at::kFloat, model_.placement.device};
    visit_tensors(model_.files.spec, model_.weights, [&](const std::string& name, at::Tensor& tensor) {
        if (!chosen.contains(name)) return;
        masters_[name] = {parameters_.size()};
        tensor = add(name, model::load_tensor(model_.files, name, exact));
    });
}

at::Tensor& TrainedModel::add(std::string name, const at::Tensor& value) {
    parameters_.push_back(make_parameter(std::move(name), value, model_.placement.dtype));
    return parameters_.back().working;
}

void TrainedModel::train_experts_one_by_one(const TrainRecipe& recipe, std::int64_t layer) {
    std::set<std::string> chosen;
    for (const arch::TensorSlot& slot : arch::tensor_slots(model_.files.spec))
        if (slot.role == TensorRole::expert && slot.layer == layer && is_trained(recipe, slot)) chosen.insert(slot.name);
    train_tensors(chosen);
}

// The experts of a layer become one tensor of gates and ups and one of downs: one operation, one step of the optimiser.
void TrainedModel::stack_experts(const TrainRecipe& recipe) {
    const arch::ModelSpec& spec = model_.files.spec;
    if (ranks_.divides_experts() && spec.num_experts % ranks_.experts().size() != 0)
        throw Error(ErrorCode::recipe, fmt::format("{}: expert_parallel: {} experts do not divide among {} ranks", recipe.source, spec.num_experts, ranks_.experts().size()));
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
        const model::MoeWeights& moe = model_.weights.layers[static_cast<std::size_t>(layer)].moe;
        if (moe.experts.empty()) continue;
        const bool trained = is_trained(recipe, {.role = TensorRole::expert, .layer = layer});
        if (moe.groups.empty() && std::ranges::none_of(moe.experts, stands_alone)) {
            stack_experts_of(layer, trained);
        } else if (ranks_.divides_experts()) {
            throw Error(ErrorCode::recipe, fmt::format("{}: expert_parallel: the experts of layer {} have a LoRA, biases, neurons in common or another form than SwiGLU, and are not divided", recipe.source, layer),
                        "leave `expert_parallel` out");
        } else {
            train_experts_one_by_one(recipe, layer);
            model::bind_experts(spec, layer, model_.weights.layers[static_cast<std::size_t>(layer)]);
        }
    }
}

void TrainedModel::stack_experts_of(std::int64_t layer, bool trained) {
    const arch::ModelSpec& spec = model_.files.spec;
    model::MoeWeights& moe = model_.weights.layers[static_cast<std::size_t>(layer)].moe;
    const model::Placement placement{trained ? at::kFloat : model_.placement.dtype, model_.placement.device};
    const std::int64_t width = spec.expert_width, hidden = spec.hidden_size;
    const std::int64_t count = spec.num_experts / ranks_.experts().size(), first = count * ranks_.experts().index();
    const at::TensorOptions options = at::TensorOptions(placement.dtype).device(placement.device);
    at::Tensor gate_up = at::empty({count, 2 * width, hidden}, options), down = at::empty({count, hidden, width}, options);
    for (std::int64_t e = 0; e < count; ++e) {
        const arch::MlpNames names = arch::expert_names(*spec.architecture, layer, first + e);
        gate_up.select(0, e).narrow(0, 0, width).copy_(model::load_tensor(model_.files, names.gate, placement));
        gate_up.select(0, e).narrow(0, width, width).copy_(model::load_tensor(model_.files, names.up, placement));
        down.select(0, e).copy_(model::load_tensor(model_.files, names.down, placement));
    }
    for (ops::Mlp& expert : moe.experts) expert = {};
    moe.stack = {gate_up, down, ranks_.divides_experts() ? &ranks_.experts() : nullptr};
    if (!trained) return;
    const std::string prefix = arch::layer_tensor(layer, spec.architecture->moe->experts);
    const std::size_t gates = parameters_.size(), downs = gates + 1;
    moe.stack.gate_up = add(prefix + ".gate_up", gate_up);
    moe.stack.down = add(prefix + ".down", down);
    parameters_[gates].divided = parameters_[downs].divided = ranks_.divides_experts();
    for (std::int64_t e = 0; e < spec.num_experts; ++e) {
        const arch::MlpNames names = arch::expert_names(*spec.architecture, layer, e);
        masters_[names.gate] = {gates, e, 0, width};
        masters_[names.up] = {gates, e, width, width};
        masters_[names.down] = {downs, e, 0, hidden};
    }
}

// The correction biases of the trained layers become tensors of our own, which balance_biases() may write to.
void TrainedModel::move_biases(const TrainRecipe& recipe) {
    const arch::ModelSpec& spec = model_.files.spec;
    if (!spec.is_moe() || !spec.architecture->moe->correction_bias)
        throw Error(ErrorCode::recipe, fmt::format("{}: balance_bias: {} has no bias that takes part in the choice of experts alone", recipe.source, spec.architecture->model_type),
                    "it is for architectures with e_score_correction_bias (deepseek_v3, glm4_moe): use `balance_loss` here");
    for (std::int64_t layer = recipe.first_layer; layer <= std::min(recipe.last_layer, spec.num_layers - 1); ++layer) {
        model::MoeWeights& moe = model_.weights.layers[static_cast<std::size_t>(layer)].moe;
        if (moe.routers.empty()) continue;
        const std::vector<std::string> routers = arch::router_names(spec, layer);
        for (std::size_t t = 0; t < moe.routers.size(); ++t) {
            const std::string name = arch::sibling(routers[t], "e_score_correction_bias");
            Parameter bias{.name = name, .working = model::load_tensor(model_.files, name, {at::kFloat, model_.placement.device}).clone(), .decays = false};
            bias.master = moe.routers[t].correction = bias.working;
            masters_[name] = {parameters_.size()};
            parameters_.push_back(std::move(bias));
        }
    }
}

at::Tensor TrainedModel::movable_bias(std::int64_t layer, std::int64_t iteration) const {
    const auto& routers = model_.weights.layers[static_cast<std::size_t>(layer)].moe.routers;
    const at::Tensor& bias = routers[routers.size() > 1 ? static_cast<std::size_t>(iteration) : 0].correction;
    const bool movable = bias.defined() && std::ranges::any_of(parameters_, [&](const Parameter& p) { return p.working.is_same(bias); });
    return movable ? bias : at::Tensor();
}

at::Tensor TrainedModel::master(const Master& where) const {
    const at::Tensor whole = parameters_[where.parameter].master.detach();
    return where.expert < 0 ? whole : whole.select(0, where.expert).narrow(0, where.first_row, where.rows);
}

void TrainedModel::gather_masters() {
    if (ranks_.size() == 1) return;
    with_whole_tensors(parameters_, ranks_, [this](const WholeTensor& whole) {
        for (Parameter& p : parameters_) {
            p.mean.reset();
            p.variance.reset();
            p.working.mutable_grad().reset();
            p.master = whole(p, &Parameter::master);
        }
    });
}

void TrainedModel::attach_lora(const TrainRecipe& recipe) {
    has_lora_ = true;
    const auto& spec = model_.files.spec;
    at::Generator random = at::detail::createCPUGenerator(recipe.seed);
    for (std::int64_t layer = recipe.first_layer; layer <= std::min(recipe.last_layer, spec.num_layers - 1); ++layer) {
        visit_linears(spec, layer, model_.weights.layers[static_cast<std::size_t>(layer)], [&](const std::string& name, ops::Linear& linear) {
            if (!lora_.targets.empty() && std::ranges::find(lora_.targets, last_part(name)) == lora_.targets.end()) return;
            const std::int64_t out = linear.weight.size(0), in = linear.weight.size(1);
            const double bound = 1 / std::sqrt(static_cast<double>(in));
            const at::Tensor a = at::empty({lora_.rank, in}).uniform_(-bound, bound, random).to(model_.placement.device);
            parameters_.push_back(make_parameter(name + ".lora_A.weight", a, model_.placement.dtype));
            linear.lora_a = parameters_.back().working;
            parameters_.push_back(make_parameter(name + ".lora_B.weight", at::zeros({out, lora_.rank}, a.options()), model_.placement.dtype));
            linear.lora_b = parameters_.back().working;
            linear.lora_scale = lora_.alpha / static_cast<double>(lora_.rank);
            lora_modules_.push_back(name);
        });
    }
}

std::int64_t TrainedModel::num_trained() const {
    std::int64_t count = 0;
    for (const Parameter& p : parameters_) count += p.working.numel() * (p.divided ? ranks_.experts().size() : 1);
    return count;
}

const Parameter* TrainedModel::find(const std::string& name) const {
    const auto it = std::ranges::find(parameters_, name, &Parameter::name);
    return it == parameters_.end() ? nullptr : &*it;
}

at::Tensor TrainedModel::merged(const arch::TensorSlot& slot) const {
    const std::string module = slot.name.substr(0, slot.name.size() - std::string_view(".weight").size());
    const Parameter* a = find(module + ".lora_A.weight");
    const Parameter* b = find(module + ".lora_B.weight");
    const at::Tensor base = model::load_tensor(model_.files, slot.name, {at::kFloat, model_.placement.device});
    return base + at::mm(b->master, a->master) * (lora_.alpha / static_cast<double>(lora_.rank));
}

std::vector<checkpoint::OutputTensor> TrainedModel::output_tensors() const {
    const Dtype dtype = output_dtype(model_.files);
    std::set<std::string> with_lora;
    for (const std::string& module : lora_modules_) with_lora.insert(module + ".weight");
    std::vector<checkpoint::OutputTensor> tensors;
    for (const arch::TensorSlot& slot : arch::tensor_slots(model_.files.spec)) {
        if (const auto trained = masters_.find(slot.name); trained != masters_.end())
            tensors.push_back(generated(slot.name, slot.shape, slot.name.ends_with(correction_bias) ? Dtype::f32 : dtype, [this, where = trained->second] { return master(where); }));
        else if (with_lora.contains(slot.name))
            tensors.push_back(generated(slot.name, slot.shape, dtype, [this, slot] { return merged(slot); }));
        else
            tensors.push_back(checkpoint::copy_tensor(slot.name, model_.files.tensors, model_.files.tensors->at(slot.name), dtype));
    }
    return arch::published(model_.files.spec, std::move(tensors));
}

std::vector<checkpoint::OutputTensor> TrainedModel::adapter_tensors() const {
    std::vector<checkpoint::OutputTensor> tensors;
    for (const Parameter& p : parameters_)
        tensors.push_back(generated("base_model.model." + p.name, p.master.sizes().vec(), Dtype::f32, [master = p.master] { return master; }));
    return tensors;
}

std::string TrainedModel::adapter_config() const {
    std::set<std::string> targets;
    for (const std::string& module : lora_modules_) targets.insert(last_part(module));
    io::Json config{{"peft_type", "LORA"},
                    {"task_type", "CAUSAL_LM"},
                    {"base_model_name_or_path", model_.files.checkpoint.name},
                    {"r", lora_.rank},
                    {"lora_alpha", lora_.alpha},
                    {"lora_dropout", 0.0},
                    {"bias", "none"},
                    {"fan_in_fan_out", false},
                    {"inference_mode", true},
                    {"target_modules", targets}};
    std::set<std::int64_t> layers;
    for (const std::string& module : lora_modules_) layers.insert(std::stoll(module.substr(std::string_view("model.layers.").size())));
    if (static_cast<std::int64_t>(layers.size()) < model_.files.spec.num_layers) config["layers_to_transform"] = layers;
    return config.dump(2, ' ', false, io::Json::error_handler_t::replace) + "\n";
}

}  // namespace mixwright::train
