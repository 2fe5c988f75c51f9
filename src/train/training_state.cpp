#include "train/training_state.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstring>

#include "checkpoint/safetensors_source.h"
#include "checkpoint/tensor_file.h"
#include "error.h"
#include "io/file.h"

namespace mixwright::train {
namespace {

// The three tensors of a parameter and the prefix of their names in the file.
struct Part {
    const char* prefix;
    PartOfParameter tensor;
};
constexpr Part parts[] = {{"master/", &Parameter::master}, {"mean/", &Parameter::mean}, {"variance/", &Parameter::variance}};

// Whether any rank has the part: what no gradient moves has no moments.
bool has(const Parameter& p, const Part& part) { return part.tensor == &Parameter::master || p.by_gradient(); }

std::vector<std::int64_t> whole_shape(const Parameter& p, const distributed::Ranks& ranks) {
    std::vector<std::int64_t> shape = p.working.sizes().vec();
    if (p.divided) shape[0] *= ranks.experts().size();
    return shape;
}

checkpoint::OutputTensor bytes_tensor(const char* name, Dtype dtype, std::span<const std::byte> bytes) {
    const auto count = static_cast<std::int64_t>(bytes.size() / dtype_bytes(dtype));
    return {{name, dtype, {count}}, checkpoint::OwnedBytes(bytes.begin(), bytes.end())};
}

}  // namespace

void save_state(const std::filesystem::path& path, const std::vector<Parameter>& parameters, std::int64_t steps_done, const std::string& identity, const distributed::Ranks& ranks) {
    with_whole_tensors(parameters, ranks, [&](const WholeTensor& whole) {
        std::vector<checkpoint::OutputTensor> tensors;
        tensors.push_back(bytes_tensor("steps_done", Dtype::i64, std::as_bytes(std::span(&steps_done, 1))));
        tensors.push_back(bytes_tensor("identity", Dtype::u8, std::as_bytes(std::span(identity))));
        for (const Parameter& p : parameters)
            for (const Part& part : parts) {
                if (!has(p, part)) continue;
                const auto fill = [&whole, &p, &part, host = at::Tensor()](std::uint64_t offset, std::span<std::byte> out) mutable {
                    if (!host.defined()) host = whole(p, part.tensor);
                    std::memcpy(out.data(), static_cast<const std::byte*>(host.const_data_ptr()) + offset, out.size());
                    if (offset + out.size() == host.nbytes()) host.reset();
                };
                tensors.push_back({{part.prefix + p.name, Dtype::f32, whole_shape(p, ranks)}, checkpoint::Generated{fill, "state"}});
            }
        checkpoint::write_tensor_file(path, std::move(tensors));
    });
}

std::int64_t load_state(const std::filesystem::path& path, std::vector<Parameter>& parameters, const std::string& identity, const distributed::Ranks& ranks) {
    const auto source = checkpoint::open_safetensors_file(path);
    const std::string shown = io::shown(path);
    const auto bytes_of = [&](const std::string& name) { return source->bytes(source->at(name)); };

    const checkpoint::TensorBytes saved = bytes_of("identity");
    if (std::string_view(reinterpret_cast<const char*>(saved.bytes.data()), saved.bytes.size()) != identity)
        throw Error(ErrorCode::mismatch, fmt::format("{}: the interrupted run had another recipe, model or data", shown),
                    "go on with the recipe it was started with, or start anew with --force");
    const checkpoint::TensorBytes steps = bytes_of("steps_done");
    std::int64_t steps_done = 0;
    if (steps.bytes.size() != sizeof steps_done) throw Error(ErrorCode::malformed, fmt::format("{}: steps_done is no number", shown));
    std::memcpy(&steps_done, steps.bytes.data(), sizeof steps_done);

    const at::NoGradGuard guard;
    for (Parameter& p : parameters) {
        const std::vector<std::int64_t> shape = whole_shape(p, ranks);
        for (const Part& part : parts) {
            at::Tensor& tensor = p.*part.tensor;
            const bool weights = part.tensor == &Parameter::master;
            if (!tensor.defined() && !weights) continue;
            const checkpoint::TensorInfo& info = source->at(part.prefix + p.name);
            if (info.dtype != Dtype::f32 || info.shape != shape)
                throw Error(ErrorCode::mismatch, fmt::format("{}: {} has another shape than the model's", shown, printable(info.name)));
            const checkpoint::TensorBytes bytes = source->bytes(info);
            at::Tensor host = at::empty(p.working.sizes(), at::kFloat);
            const std::size_t begin = p.divided ? static_cast<std::size_t>(ranks.experts().index()) * host.nbytes() : 0;
            std::memcpy(host.mutable_data_ptr(), bytes.bytes.data() + begin, host.nbytes());
            if (tensor.defined()) tensor.copy_(host);
            if (weights && !p.working.is_same(tensor)) p.working.copy_(host);
        }
    }
    return steps_done;
}

}  // namespace mixwright::train
