// The way of a shard's bytes to the disk: filled into buffers by the caller, hashed by one thread and written by another,
// past the page cache where the file system can. Bytes that are copied from an input are not hashed: whoever wants to
// check them can compare them with their source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/file.h"

namespace mixwright::checkpoint {

class ShardStream {
public:
    static constexpr std::size_t buffer_bytes = 8u << 20;

    /// `file` is written from its start and must outlive the stream.
    explicit ShardStream(io::File& file);
    ShardStream(const ShardStream&) = delete;
    ShardStream& operator=(const ShardStream&) = delete;
    /// Stops the threads; without finish() the file is left as it is.
    ~ShardStream();

    /// Room for the next bytes, never empty. Waits for a buffer when all are in use; throws what a thread has met.
    std::span<std::byte> space();
    enum class Hash { yes, no };
    /// The first `bytes` of space() are filled.
    void advance(std::size_t bytes, Hash hash = Hash::yes);
    /// Copies `bytes` in.
    void append(std::span<const std::byte> bytes);
    /// Waits until all is written (not synced). Returns the SHA-256 of what was to be hashed.
    std::string finish();

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mixwright::checkpoint
