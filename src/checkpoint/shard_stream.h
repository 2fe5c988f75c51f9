// The way of a shard's bytes to the disk: filled into a buffer by the caller, hashed by one thread, written by another,
// so that neither hash nor disk waits for the other. Writing out starts at once: the sync at the end finds little left.
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
    /// Buffers start at multiples of this many bytes of the file.
    static constexpr std::size_t buffer_bytes = 8u << 20;

    /// `file` is written from its start and must outlive the stream.
    explicit ShardStream(io::File& file);
    ShardStream(const ShardStream&) = delete;
    ShardStream& operator=(const ShardStream&) = delete;
    /// Stops the threads; without finish() the file is left as it is.
    ~ShardStream();

    /// Room for the next bytes, never empty. Waits for a buffer when all are in use; throws what a thread has met.
    std::span<std::byte> space();
    /// The first `bytes` of space() are filled.
    void advance(std::size_t bytes);
    /// Copies `bytes` in.
    void append(std::span<const std::byte> bytes);
    /// Waits until all is written (not synced). Returns the SHA-256 of the whole.
    std::string finish();

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mixwright::checkpoint
