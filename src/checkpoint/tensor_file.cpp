#include "checkpoint/tensor_file.h"

#include <cerrno>
#include <limits>
#include <utility>

#include "checkpoint/shard_stream.h"
#include "checkpoint/tensor_bytes.h"
#include "io/file.h"
#include "io/system_call.h"
#include "progress.h"

namespace mixwright::checkpoint {

void write_tensor_file(const std::filesystem::path& path, std::vector<OutputTensor> tensors) {
    OutputPlan plan;
    plan.tensors = std::move(tensors);
    const OutputLayout layout = plan_layout(plan, std::numeric_limits<std::uint64_t>::max());
    const PlannedShard& shard = layout.shards.front();

    std::filesystem::path staging = path;
    staging += ".tmp";
    try {
        io::File file = io::File::open_or_create(staging);
        file.truncate(0);
        file.reserve(shard.bytes);
        ShardStream stream(file);
        stream.append(std::as_bytes(std::span(shard.header)));
        for (const std::size_t index : shard.tensors)
            send_tensor(plan.tensors[index], stream, [](std::uint64_t) { check_interrupted(); });
        stream.finish();
        file.sync();
        if (io::sys::rename_at(AT_FDCWD, staging.c_str(), path.c_str()) != 0) io::fail(path, "rename into place", errno);
    } catch (...) {
        io::sys::unlink(staging.c_str());
        throw;
    }
}

}  // namespace mixwright::checkpoint
