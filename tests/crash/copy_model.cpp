// copy-model MODEL OUT SHARD_SIZE [--resume] [--force]: writes a copy of a model through the checkpoint writer and nothing
// else, without libtorch: it starts fast enough to be killed hundreds of times.
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "checkpoint/writer.h"
#include "error.h"

namespace {

using namespace mixwright;

int copy_model(int argc, char** argv) {
    const auto checkpoint = checkpoint::open_checkpoint(argv[1]);
    checkpoint::OutputPlan plan;
    for (const auto& info : checkpoint.tensors->tensors()) plan.tensors.push_back(copy_tensor(info.name, checkpoint.tensors, info));
    plan.config = checkpoint.config.dump(2) + "\n";
    plan.inputs = {checkpoint.path};
    checkpoint::WriteOptions options{.shard_bytes = checkpoint::parse_byte_size(argv[3])};
    for (int i = 4; i < argc; ++i) {
        options.resume |= std::string_view(argv[i]) == "--resume";
        options.force |= std::string_view(argv[i]) == "--force";
    }
    const auto result = write_model(plan, argv[2], options);
    fmt::print("{} bytes, {} kept, {:.3f} s\n", result.bytes, result.resumed_bytes, result.seconds);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        fmt::print(stderr, "copy-model MODEL OUT SHARD_SIZE [--resume] [--force]\n");
        return 2;
    }
    try {
        return copy_model(argc, argv);
    } catch (const Error& e) {
        fmt::print(stderr, "error: {}\n", e.what());
        return exit_status(e.code());
    }
}
