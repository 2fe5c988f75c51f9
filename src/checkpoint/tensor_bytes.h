// The bytes of planned tensors, made piece by piece in bounded memory: read, converted, scaled, with noise, or generated.
#pragma once

#include <functional>

#include "checkpoint/shard_stream.h"
#include "checkpoint/writer.h"

namespace mixwright::checkpoint {

/// Sends the bytes of `tensor` into `stream`. `advanced` is called now and then with the number of bytes just sent; it may
/// throw to end the work.
void send_tensor(const OutputTensor& tensor, ShardStream& stream, const std::function<void(std::uint64_t)>& advanced);

}  // namespace mixwright::checkpoint
