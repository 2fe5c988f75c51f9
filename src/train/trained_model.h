// A model being trained: resident weights of which the chosen ones are leaves of the gradient, LoRA factors beside them,
// and what it takes to write the result.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/writer.h"
#include "distributed/ranks.h"
#include "model/model.h"
#include "train/adamw.h"
#include "train/ownership.h"
#include "train/recipe.h"

namespace mixwright::train {

class TrainedModel {
public:
    /// Loads `files` and makes what the recipe chooses trainable, computing in the recipe's dtype. LoRA factors start as in
    /// PEFT: A uniform in +-1/sqrt(in) from the recipe's seed, B zero. Of several ranks each keeps its share of the optimiser's state,
    /// and of the experts when they divide those; `ranks` must outlive the model. Error(recipe) when nothing is there to be trained.
    TrainedModel(arch::OpenModel files, const TrainRecipe& recipe, at::Device device, const distributed::Ranks& ranks);
    TrainedModel(const TrainedModel&) = delete;
    TrainedModel& operator=(const TrainedModel&) = delete;

    const arch::OpenModel& files() const noexcept { return model_.files; }
    const model::Decoder& decoder() const noexcept { return model_.decoder; }
    const model::ModelWeights& weights() const noexcept { return model_.weights; }
    std::vector<Parameter>& parameters() noexcept { return parameters_; }
    const std::vector<Parameter>& parameters() const noexcept { return parameters_; }
    /// Who owns which of them (ownership.h).
    const std::vector<Bucket>& buckets() const noexcept { return buckets_; }
    std::int64_t num_trained() const;
    /// The correction bias, f32 [E], of a router whose biases are moved for balance; undefined where they stay.
    at::Tensor movable_bias(std::int64_t layer, std::int64_t iteration) const;

    /// Brings the masters that other ranks own to the leading one, whose outputs below are then whole. All ranks call it together.
    void gather_masters();

    /// Every weight in the dtype of the source, under its canonical name; LoRA merged. Generated from the masters as they
    /// are when it is written.
    std::vector<checkpoint::OutputTensor> output_tensors() const;
    /// The LoRA factors as PEFT names them, in f32, and their adapter_config.json.
    std::vector<checkpoint::OutputTensor> adapter_tensors() const;
    std::string adapter_config() const;

private:
    // Where the master of a canonical tensor is: a parameter, or one expert's rows of it.
    struct Master {
        std::size_t parameter = 0;
        std::int64_t expert = -1, first_row = 0, rows = 0;
    };
    void train_whole(const TrainRecipe& recipe);
    void attach_lora(const TrainRecipe& recipe);
    void train_tensors(const std::set<std::string>& chosen);
    void train_experts_one_by_one(const TrainRecipe& recipe, std::int64_t layer);
    void stack_experts(const TrainRecipe& recipe);
    void stack_experts_of(std::int64_t layer, bool trained);
    void move_biases(const TrainRecipe& recipe);
    at::Tensor master(const Master& where) const;
    at::Tensor& add(std::string name, const at::Tensor& value);
    const Parameter* find(const std::string& name) const;
    at::Tensor merged(const arch::TensorSlot& slot) const;

    model::Model model_;
    std::vector<Parameter> parameters_;
    std::map<std::string, Master> masters_;   // of the canonical names of trained weights
    const distributed::Ranks& ranks_;
    std::vector<Bucket> buckets_;
    LoraRecipe lora_;
    bool has_lora_ = false;
    std::vector<std::string> lora_modules_;   // canonical names without ".weight"
};

}  // namespace mixwright::train
