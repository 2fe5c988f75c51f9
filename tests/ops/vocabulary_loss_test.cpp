#include "ops/vocabulary_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/distillation_loss.h"
#include "ops/gradient_check.h"

namespace mixwright::ops {
namespace {

constexpr std::int64_t num_tokens = 7, width = 5, vocabulary = 11, teacher_width = 3;

struct Case {
    at::Tensor hidden, head, bias, targets;
    TeacherHead teacher;
};

Case make_case(at::ScalarType dtype, std::int64_t vocab = vocabulary) {
    at::manual_seed(5);
    const auto options = at::TensorOptions(dtype);
    return {.hidden = at::randn({num_tokens, width}, options),
            .head = at::randn({vocab, width}, options),
            .bias = at::randn({vocab}, options),
            .targets = at::randint(vocab, {num_tokens}, at::kLong),
            .teacher = {.hidden = at::randn({num_tokens, teacher_width}, options), .head = at::randn({vocab, teacher_width}, options)}};
}

// log softmax of the logits that a head of this form gives, in double.
at::Tensor log_probabilities(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, double temperature = 1) {
    at::Tensor logits = at::linear(hidden.to(at::kDouble), head.to(at::kDouble));
    if (form.bias.defined()) logits = logits + form.bias.to(at::kDouble);
    logits = logits / form.divisor;
    if (form.softcap > 0) logits = at::tanh(logits / form.softcap) * form.softcap;
    return at::log_softmax(logits / temperature, -1);
}

double expected_distillation(const Case& c, const HeadForm& form, const DistillationWeights& weights) {
    const at::Tensor p = log_probabilities(c.teacher.hidden, c.teacher.head, c.teacher.form, weights.temperature);
    const at::Tensor q = log_probabilities(c.hidden, c.head, form, weights.temperature);
    const at::Tensor divergence = (p.exp() * (p - q)).sum() * (weights.temperature * weights.temperature);
    const at::Tensor text = -log_probabilities(c.hidden, c.head, form).gather(1, c.targets.unsqueeze(1)).sum();
    return (divergence * weights.divergence + text * weights.cross_entropy).item<double>();
}

const DistillationWeights forms[] = {{1, 1, 0}, {1, 2.5, 0}, {0.7, 1, 0.4}, {0.7, 0.6, 0.4}, {0, 1, 1}};

TEST(VocabularyLoss, gradients_equal_finite_differences) {
    const Case c = make_case(at::kDouble);
    for (const double softcap : {0.0, 2.0})
        expect_gradients_match({c.hidden, c.head, c.bias}, [&](const std::vector<at::Tensor>& in) {
            return vocabulary_loss(in[0], in[1], c.targets, 0.3, 3, {.bias = in[2], .divisor = 1.7, .softcap = softcap});
        });
}

TEST(VocabularyLoss, of_single_tokens_adds_up_to_the_sum) {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
        const Case c = make_case(dtype);
        const at::Tensor each = token_losses(head_logits(c.hidden, c.head, {}), c.targets);
        EXPECT_NEAR(each.sum().item<double>(), vocabulary_loss(c.hidden, c.head, c.targets, 1.0, 2).item<double>(), 1e-4);
    }
}

TEST(DistillationLoss, gradients_equal_finite_differences) {
    const Case c = make_case(at::kDouble);
    for (const DistillationWeights& weights : forms)
        for (const double softcap : {0.0, 2.0})
            expect_gradients_match({c.hidden, c.head, c.bias}, [&](const std::vector<at::Tensor>& in) {
                return distillation_loss(in[0], in[1], {.bias = in[2], .divisor = 1.3, .softcap = softcap}, c.teacher, c.targets, weights, 0.3, 3);
            });
}

// The vectorised kernels, over a vocabulary that leaves a rest, against the definition in double.
TEST(DistillationLoss, kernels_in_f32_and_bf16_agree_with_double) {
    for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 2e-2}})
        for (const DistillationWeights& weights : forms) {
            const Case low = make_case(dtype, 301);
            Case exact = low;
            for (at::Tensor* tensor : {&exact.hidden, &exact.head, &exact.teacher.hidden, &exact.teacher.head}) *tensor = tensor->to(at::kDouble);
            at::Tensor narrow[] = {low.hidden.detach().clone(), low.head.detach().clone()}, wide[] = {exact.hidden, exact.head};
            for (at::Tensor& tensor : narrow) tensor.requires_grad_(true);
            for (at::Tensor& tensor : wide) tensor.requires_grad_(true);
            const at::Tensor loss = distillation_loss(narrow[0], narrow[1], {}, low.teacher, low.targets, weights, 1.0, 4);
            const at::Tensor reference = distillation_loss(wide[0], wide[1], {}, exact.teacher, exact.targets, weights, 1.0, 4);
            EXPECT_NEAR(reference.item<double>(), expected_distillation(exact, {}, weights), 1e-9);
            EXPECT_NEAR(loss.item<double>(), reference.item<double>(), tolerance * reference.item<double>());
            loss.backward();
            reference.backward();
            for (int i = 0; i < 2; ++i) {
                const at::Tensor expected = wide[i].grad();
                EXPECT_LT((narrow[i].grad() - expected).abs().max().item<double>(), tolerance * expected.abs().max().item<double>()) << "input " << i;
            }
        }
}

TEST(DistillationLoss, of_a_student_that_says_what_the_teacher_says_is_zero) {
    Case c = make_case(at::kFloat);
    c.teacher = {.hidden = c.hidden, .head = c.head};
    c.hidden.requires_grad_(true);
    const at::Tensor loss = distillation_loss(c.hidden, c.head, {}, c.teacher, c.targets, {.temperature = 2});
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), 0, 1e-5);
    EXPECT_LT(c.hidden.grad().abs().max().item<double>(), 1e-5);
}

TEST(DistillationLoss, with_no_weight_on_the_teacher_is_the_loss_of_the_text) {
    const Case c = make_case(at::kFloat);
    EXPECT_NEAR(distillation_loss(c.hidden, c.head, {}, c.teacher, c.targets, {.divergence = 0, .cross_entropy = 1}).item<double>(),
                vocabulary_loss(c.hidden, c.head, c.targets).item<double>(), 1e-4);
}

}  // namespace
}  // namespace mixwright::ops
