#include "ops/attention_kernel.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/kernel_use.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {

bool attention_kernel_applies(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto fits = [&](const at::Tensor& x) { return x.scalar_type() == q.scalar_type() && x.stride(3) == 1; };
    return kernels_apply(q) && fits(q) && fits(k) && fits(v) && q.numel() > 0;
}

at::Tensor attend_with_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, kernels::Attention form, const at::Tensor& sinks,
                              const at::Tensor& key_mask) {
    form.element = q.scalar_type() == at::kFloat ? kernels::Element::f32 : kernels::Element::bf16;
    form.batch = q.size(0), form.heads = q.size(1), form.num_queries = q.size(2), form.dim = q.size(3);
    form.kv_heads = k.size(1), form.num_keys = k.size(2), form.value_dim = v.size(3);
    std::copy_n(q.strides().begin(), 3, form.q_strides);
    std::copy_n(k.strides().begin(), 3, form.k_strides);
    std::copy_n(v.strides().begin(), 3, form.v_strides);
    form.q = q.const_data_ptr();
    form.k = k.const_data_ptr();
    form.v = v.const_data_ptr();
    const at::Tensor float_sinks = sinks.defined() ? sinks.to(at::kFloat).contiguous() : sinks, mask = key_mask.defined() ? key_mask.contiguous() : key_mask;
    if (sinks.defined()) form.sinks = float_sinks.const_data_ptr<float>();
    if (mask.defined()) form.key_mask = mask.const_data_ptr<bool>();
    const at::Tensor out = at::empty({form.batch, form.num_queries, form.heads * form.value_dim}, q.options());
    form.out = out.data_ptr();
    share_work(form.num_pieces(), [&](std::int64_t piece) { form.run(piece); });
    return out;
}

}  // namespace mixwright::ops
