// The model that another one learns from: it reads every batch and says what it predicts and how its stream looks. No gradient
// goes through it.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "model/model.h"
#include "ops/distillation_loss.h"
#include "train/recipe.h"

namespace mixwright::train {

class Teacher {
public:
    /// Loads `files`, a model of any architecture, to teach one of `student`'s form as the recipe says. Error(mismatch) when their
    /// vocabularies differ in size, or when streams are to be matched of models with another number of layers or another width.
    Teacher(arch::OpenModel files, const TrainRecipe& recipe, const arch::ModelSpec& student, at::Device device);

    struct Lesson {
        at::Tensor hidden;                 // [B, L, D'] behind the final norm
        std::vector<at::Tensor> streams;   // [B, L, D] behind each layer, when they are to be matched
    };
    /// ids [B, L].
    Lesson teach(const at::Tensor& ids) const;
    /// What the teacher predicts from `hidden` [N, D'].
    ops::TeacherHead head(at::Tensor hidden) const;

    const ops::DistillationWeights& weights() const noexcept { return weights_; }
    double stream_weight() const noexcept { return stream_weight_; }

private:
    model::Model model_;
    ops::DistillationWeights weights_;
    double stream_weight_;
};

/// Error(mismatch) when a token of one vocabulary has another id, or none, in the other. Models as on the command line.
void check_same_tokens(const std::string& student, const std::string& teacher);

/// sum over tokens of ||s - t||^2 / ||t||^2, mean over layers, as a scalar f32: each token counts alike, however large its stream is.
/// Differentiable in `student`.
at::Tensor stream_error(const std::vector<at::Tensor>& student, const std::vector<at::Tensor>& teacher);

}  // namespace mixwright::train
