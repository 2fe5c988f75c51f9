// What a student's predictions are worth beside a teacher's (arXiv 1503.02531), over a large vocabulary and without ever holding
// all logits of either.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/vocabulary_head.h"

namespace mixwright::ops {

/// The teacher's final states [N, D'] and its head [V, D'], in a dtype of their own.
struct TeacherHead {
    at::Tensor hidden, head;
    HeadForm form;
};

struct DistillationWeights {
    double divergence = 1;      // of T^2 KL(teacher || student) between the predictions at temperature T
    double temperature = 1;     // T: logits are divided by it
    double cross_entropy = 0;   // of -log softmax(logits)[target], the loss of the text itself
};

/// scale * the sum of both over N tokens: head_loss() of the student's hidden [N, D] and head [V, D], with targets [N] int64 in
/// [0, V). The factor T^2 keeps gradients of one size whatever T. Logits of both exist for `chunk` tokens at a time. The teacher's
/// tensors get no gradient.
at::Tensor distillation_loss(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, const TeacherHead& teacher, const at::Tensor& targets,
                             const DistillationWeights& weights, double scale = 1.0, std::int64_t chunk = 512);

}  // namespace mixwright::ops
