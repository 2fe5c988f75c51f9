#include "train/teacher.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "model/head.h"
#include "tokenizer/same_tokens.h"

namespace mixwright::train {
namespace {

model::Placement placement_of(const TrainRecipe& recipe, at::Device device) {
    const std::string& dtype = recipe.distillation.dtype.empty() ? recipe.dtype : recipe.distillation.dtype;
    return {model::scalar_type(*dtype_from_name(dtype)), device};
}

}  // namespace

Teacher::Teacher(arch::OpenModel files, const TrainRecipe& recipe, const arch::ModelSpec& student, at::Device device)
    : model_(model::load_model(std::move(files), placement_of(recipe, device))),
      weights_{recipe.distillation.logits, recipe.distillation.temperature, recipe.distillation.cross_entropy},
      stream_weight_(recipe.distillation.hidden) {
    const arch::ModelSpec& own = model_.files.spec;
    const std::string& name = model_.files.checkpoint.name;
    if (own.vocab_size != student.vocab_size)
        throw Error(ErrorCode::mismatch, fmt::format("teacher {}: its vocabulary has {} tokens, the student's {}", name, own.vocab_size, student.vocab_size),
                    "predictions can be compared over one vocabulary only");
    if (stream_weight_ > 0 && (own.num_layers != student.num_layers || own.hidden_size != student.hidden_size))
        throw Error(ErrorCode::mismatch, fmt::format("teacher {}: {} layers of width {} cannot be matched with {} layers of width {}", name, own.num_layers,
                                                     own.hidden_size, student.num_layers, student.hidden_size),
                    "leave `hidden` out of `distill`: predictions can be learnt from any teacher");
}

Teacher::Lesson Teacher::teach(const at::Tensor& ids) const {
    const at::NoGradGuard guard;
    const model::Decoder& decoder = model_.decoder;
    const model::Step step = decoder.step(ids.size(1), ids.device());
    Lesson lesson{.hidden = decoder.embed(model_.weights, ids)};
    for (std::int64_t layer = 0; layer < decoder.spec().num_layers; ++layer) {
        lesson.hidden = decoder.run_layer(model_.weights.layers[static_cast<std::size_t>(layer)], layer, lesson.hidden, step);
        if (stream_weight_ > 0) lesson.streams.push_back(lesson.hidden);
    }
    lesson.hidden = decoder.final_norm(model_.weights, lesson.hidden);
    return lesson;
}

ops::TeacherHead Teacher::head(at::Tensor hidden) const { return {std::move(hidden), model_.weights.lm_head, model::head_form(model_.decoder, model_.weights)}; }

void check_same_tokens(const std::string& student, const std::string& teacher) {
    const tokenizer::Tokenizer own = arch::open_tokenizer(student), other = arch::open_tokenizer(teacher);
    const tokenizer::TokenDifference difference = tokenizer::compare_tokens(own, other);
    if (difference.differing > 0)
        throw Error(ErrorCode::mismatch, fmt::format("teacher {}: {} of {} tokens differ from those of {}: {}", teacher, difference.differing, difference.compared, student,
                                                     difference.examples),
                    "a teacher must have the student's tokenizer");
    if (own.vocab_size() != other.vocab_size())
        throw Error(ErrorCode::mismatch, fmt::format("teacher {}: its tokenizer has {} tokens, that of {} has {}", teacher, other.vocab_size(), student, own.vocab_size()),
                    "a teacher must have the student's tokenizer");
}

at::Tensor stream_error(const std::vector<at::Tensor>& student, const std::vector<at::Tensor>& teacher) {
    at::Tensor total;
    for (std::size_t layer = 0; layer < student.size(); ++layer) {
        const at::ScalarType type = at::promote_types(student[layer].scalar_type(), at::kFloat);
        const at::Tensor t = teacher[layer].to(type);
        const at::Tensor error = ((student[layer].to(type) - t).square().sum(-1) / t.square().sum(-1).clamp_min(1e-12)).sum();
        total = total.defined() ? total + error : error;
    }
    return total / static_cast<double>(student.size());
}

}  // namespace mixwright::train
