#include "train/gradient_sums.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace mixwright::train {

namespace autograd = torch::autograd;

// Tells that the gradient of a parameter is complete.
struct GradientSums::Watch final : autograd::PostAccumulateGradHook {
    Watch(GradientSums& owner, std::size_t index) : sums(owner), parameter(index) {}
    void operator()(const autograd::Variable&) override { sums.complete(parameter); }

    GradientSums& sums;
    std::size_t parameter;
};

GradientSums::GradientSums(std::vector<Parameter>& parameters, std::vector<Bucket> buckets, const distributed::Ranks& ranks)
    : parameters_(parameters), ranks_(ranks), buckets_(std::move(buckets)), bucket_of_(parameters.size(), buckets_.size()), earlier_(parameters.size()), leaving_(buckets_.size()) {
    for (std::size_t b = 0; b < buckets_.size(); ++b)
        for (const std::size_t i : buckets_[b].parameters) {
            bucket_of_[i] = b;
            autograd::impl::set_post_acc_grad_hooks(parameters_[i].working, std::make_unique<Watch>(*this, i));
        }
}

GradientSums::~GradientSums() {
    for (const Bucket& bucket : buckets_)
        for (const std::size_t i : bucket.parameters) autograd::impl::set_post_acc_grad_hooks(parameters_[i].working, nullptr);
}

void GradientSums::start() {
    for (Parameter& p : parameters_) p.working.mutable_grad().reset();
    for (std::size_t b = 0; b < buckets_.size(); ++b) leaving_[b] = {.missing = buckets_[b].parameters.size()};
    next_ = 0;
}

void GradientSums::backward(const at::Tensor& loss, bool last) {
    last_ = last;
    loss.backward();
    if (last) return;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        at::Tensor& gradient = parameters_[i].working.mutable_grad();
        if (!gradient.defined()) continue;
        if (earlier_[i].defined())
            earlier_[i] += gradient;
        else
            earlier_[i] = gradient.to(at::kFloat);
        gradient.reset();
    }
}

void GradientSums::complete(std::size_t parameter) {
    if (!last_) return;
    --leaving_[bucket_of_[parameter]].missing;
    for (; next_ < buckets_.size() && leaving_[next_].missing == 0; ++next_) send(next_);
}

// The sum over the micro-batches; undefined when none reached the parameter.
at::Tensor GradientSums::gradient_of(std::size_t parameter) const {
    const at::Tensor &last = parameters_[parameter].working.grad(), &earlier = earlier_[parameter];
    if (!earlier.defined()) return last;
    return last.defined() ? earlier + last : earlier;
}

void GradientSums::send(std::size_t bucket) {
    const at::NoGradGuard guard;
    const Bucket& b = buckets_[bucket];
    Leaving& leaving = leaving_[bucket];
    leaving.flat = at::empty({b.elements}, at::kFloat);
    std::int64_t begin = 0;
    for (const std::size_t i : b.parameters) {
        const std::int64_t count = parameters_[i].working.numel();
        at::Tensor part = leaving.flat.narrow(0, begin, count);
        if (const at::Tensor gradient = gradient_of(i); gradient.defined())
            part.copy_(gradient.reshape({-1}));
        else
            part.zero_();
        parameters_[i].working.mutable_grad().reset();
        earlier_[i].reset();
        begin += count;
    }
    leaving.transfer = b.team(ranks_).sum_at(b.owner, leaving.flat);
}

void GradientSums::finish() {
    const at::NoGradGuard guard;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        if (bucket_of_[i] < buckets_.size() || !earlier_[i].defined()) continue;
        parameters_[i].working.mutable_grad() = gradient_of(i).to(parameters_[i].working.scalar_type());
        earlier_[i].reset();
    }
    for (; next_ < buckets_.size(); ++next_) send(next_);  // what no gradient reached
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
        leaving_[b].transfer.wait();
        if (buckets_[b].owner == buckets_[b].team(ranks_).index()) {
            std::int64_t begin = 0;
            for (const std::size_t i : buckets_[b].parameters) {
                at::Tensor& working = parameters_[i].working;
                working.mutable_grad() = leaving_[b].flat.narrow(0, begin, working.numel()).view(working.sizes()).to(working.options().requires_grad(false));
                begin += working.numel();
            }
        }
        leaving_[b].flat.reset();
    }
}

void GradientSums::hand_out_weights() {
    const at::NoGradGuard guard;
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
        std::vector<at::Tensor> weights;
        for (const std::size_t i : buckets_[b].parameters) weights.push_back(parameters_[i].working.detach().reshape({-1}).to(at::kCPU));
        leaving_[b].flat = at::cat(weights);
        leaving_[b].transfer = buckets_[b].team(ranks_).spread_from(buckets_[b].owner, leaving_[b].flat.view(at::kByte));
    }
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
        leaving_[b].transfer.wait();
        std::int64_t begin = 0;
        for (const std::size_t i : buckets_[b].parameters) {
            at::Tensor& working = parameters_[i].working;
            if (buckets_[b].owner != buckets_[b].team(ranks_).index()) working.detach().copy_(leaving_[b].flat.narrow(0, begin, working.numel()).view(working.sizes()));
            begin += working.numel();
        }
        leaving_[b].flat.reset();
    }
}

}  // namespace mixwright::train
