// The bytes of planned tensors, made piece by piece in bounded memory: read, converted, scaled, with noise, or generated.
#pragma once

#include <functional>

#include "checkpoint/shard_stream.h"
#include "checkpoint/writer.h"
#include "io/sha256.h"

namespace mixwright::checkpoint {

/// Called now and then with the number of bytes just dealt with; may throw to end the work.
using Advanced = std::function<void(std::uint64_t)>;

/// Sends the bytes of `tensor` into `stream`.
void send_tensor(const OutputTensor& tensor, ShardStream& stream, const Advanced& advanced);

/// Looks at `tensor` as it stands at `offset` of `file`: what send_tensor() copies unhashed is compared with its source, the
/// rest goes into `hash`. Whether the comparison held.
bool check_tensor(const OutputTensor& tensor, const io::File& file, std::uint64_t offset, io::Sha256& hash, const Advanced& advanced);

}  // namespace mixwright::checkpoint
