#include "train/adamw.h"

#include <ATen/ATen.h>

#include <cmath>

#include "ops/fast_math.h"
#include "ops/parallel.h"

namespace mixwright::train {
namespace {

struct Coefficients {
    float keep, step_size, beta1, beta2, root_correction, eps, gradient_scale;
};

// m and v are running means; theta <- keep * theta - step_size * m / (sqrt(v) / root_correction + eps).
template <class T>
MIXWRIGHT_INLINE void update(const T* gradient, float* master, float* mean, float* variance, T* working, std::int64_t count, const Coefficients& c) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = ops::widen(gradient[i]) * c.gradient_scale;
        const float m = mean[i] + (1 - c.beta1) * (g - mean[i]);
        const float v = c.beta2 * variance[i] + (1 - c.beta2) * g * g;
        const float theta = c.keep * master[i] - c.step_size * m / (ops::fast_sqrt(v) * c.root_correction + c.eps);
        mean[i] = m;
        variance[i] = v;
        master[i] = theta;
        working[i] = ops::narrow<T>(theta);
    }
}

MIXWRIGHT_VECTORISED void update_bf16(const std::uint16_t* __restrict gradient, float* __restrict master, float* __restrict mean,
                                      float* __restrict variance, std::uint16_t* __restrict working, std::int64_t count, const Coefficients& c) {
    update(gradient, master, mean, variance, working, count, c);
}

MIXWRIGHT_VECTORISED void update_f32(const float* __restrict gradient, float* __restrict master, float* __restrict mean,
                                     float* __restrict variance, std::int64_t count, const Coefficients& c) {
    update(gradient, master, mean, variance, master, count, c);
}

void update_on_cpu(const Parameter& p, const at::Tensor& gradient, const Coefficients& c) {
    const bool bf16 = p.working.scalar_type() == at::kBFloat16;
    const void* g = gradient.const_data_ptr();
    void* working = p.working.mutable_data_ptr();
    auto* master = p.master.mutable_data_ptr<float>();
    auto* mean = p.mean.mutable_data_ptr<float>();
    auto* variance = p.variance.mutable_data_ptr<float>();
    ops::parallel_for(0, gradient.numel(), 1 << 15, [&](std::int64_t begin, std::int64_t end) {
        if (bf16)
            update_bf16(static_cast<const std::uint16_t*>(g) + begin, master + begin, mean + begin, variance + begin,
                        static_cast<std::uint16_t*>(working) + begin, end - begin, c);
        else
            update_f32(static_cast<const float*>(g) + begin, master + begin, mean + begin, variance + begin, end - begin, c);
    });
}

// All tensors in a few launches: libtorch's fused step, which wants f32 throughout.
void update_together(const std::vector<Parameter*>& parameters, const AdamWOptions& options, double lr, double weight_decay, std::int64_t step, double gradient_scale) {
    if (parameters.empty()) return;
    std::vector<at::Tensor> masters, gradients, means, variances, workings;
    for (Parameter* p : parameters) {
        masters.push_back(p->master.detach());
        gradients.push_back(p->working.grad().to(at::kFloat));
        means.push_back(p->mean);
        variances.push_back(p->variance);
        workings.push_back(p->working.detach());
    }
    if (gradient_scale != 1.0) gradients = at::_foreach_mul(gradients, gradient_scale);
    const std::vector<at::Tensor> steps(parameters.size(), at::full({}, static_cast<double>(step), masters.front().options()));
    at::_fused_adamw_(masters, gradients, means, variances, /*max_exp_avg_sqs=*/{}, steps, lr, options.beta1, options.beta2, weight_decay, options.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
    if (!parameters.front()->working.is_same(parameters.front()->master)) at::_foreach_copy_(workings, masters);
}

}  // namespace

Parameter make_parameter(std::string name, const at::Tensor& value, at::ScalarType dtype) {
    Parameter p{.name = std::move(name)};
    p.master = value.detach().to(at::kFloat, false, true).contiguous();  // a copy: loaded tensors may lie in a mapped file
    p.mean = at::zeros_like(p.master);
    p.variance = at::zeros_like(p.master);
    p.working = dtype == at::kFloat ? p.master : p.master.to(dtype);
    p.working.requires_grad_(true);
    p.decays = value.dim() > 1;
    return p;
}

double gradient_norm(const std::vector<Parameter>& parameters) {
    std::vector<at::Tensor> norms;  // looked at together: each look waits for the device
    for (const Parameter& p : parameters)
        if (const at::Tensor& gradient = p.working.grad(); gradient.defined()) norms.push_back(at::linalg_vector_norm(gradient, 2, std::nullopt, false, at::kFloat));
    return norms.empty() ? 0 : at::linalg_vector_norm(at::stack(norms).to(at::kDouble)).item<double>();
}

void adamw_step(std::vector<Parameter>& parameters, const AdamWOptions& options, double lr, std::int64_t step, double gradient_scale) {
    const at::NoGradGuard guard;
    const double correction1 = 1 - std::pow(options.beta1, step), correction2 = 1 - std::pow(options.beta2, step);
    std::vector<Parameter*> decaying, others;
    for (Parameter& p : parameters) {
        if (!p.working.grad().defined()) continue;
        if (options.together || !p.working.is_cpu()) {
            (p.decays ? decaying : others).push_back(&p);
            continue;
        }
        const at::Tensor gradient = p.working.grad().contiguous();
        const Coefficients c{.keep = static_cast<float>(1 - (p.decays ? lr * options.weight_decay : 0)),
                             .step_size = static_cast<float>(lr / correction1),
                             .beta1 = static_cast<float>(options.beta1),
                             .beta2 = static_cast<float>(options.beta2),
                             .root_correction = static_cast<float>(1 / std::sqrt(correction2)),
                             .eps = static_cast<float>(options.eps),
                             .gradient_scale = static_cast<float>(gradient_scale)};
        update_on_cpu(p, gradient, c);
    }
    update_together(decaying, options, lr, options.weight_decay, step, gradient_scale);
    update_together(others, options, lr, 0, step, gradient_scale);
}

}  // namespace mixwright::train
