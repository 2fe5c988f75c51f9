#include "ops/linear.h"

#include <ATen/ATen.h>

#include "ops/panel_linear.h"
#include "ops/product.h"
#include "ops/skinny_linear.h"

namespace mixwright::ops {

at::Tensor Linear::operator()(const at::Tensor& x) const {
    const Linear* const self = this;
    if (skinny_applies({&self, 1}, x)) return skinny_linears({&self, 1}, x).front();
    if (panels_apply({&self, 1}, x)) return panel_linears({&self, 1}, x).front();
    at::Tensor y = scales.defined() ? dequantizing_linear(*this, x) : linear_product(x, weight, bias);
    if (lora_a.defined()) y = y + linear_product(linear_product(x, lora_a), lora_b) * lora_scale;
    return y;
}

Linear Linear::rows(std::int64_t first, std::int64_t count) const {
    Linear part = *this;
    for (at::Tensor* tensor : {&part.weight, &part.bias, &part.lora_b, &part.scales})
        if (tensor->defined()) *tensor = tensor->narrow(0, first, count);
    return part;
}

std::array<at::Tensor, 3> project(const Linear& a, const Linear& b, const Linear& c, const at::Tensor& x) {
    const std::array linears{&a, &b, &c};
    std::vector<at::Tensor> results;
    if (skinny_applies(linears, x))
        results = skinny_linears(linears, x);
    else if (panels_apply(linears, x))
        results = panel_linears(linears, x);
    else
        return {a(x), b(x), c(x)};
    return {std::move(results[0]), std::move(results[1]), std::move(results[2])};
}

}  // namespace mixwright::ops
