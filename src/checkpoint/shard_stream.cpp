#include "checkpoint/shard_stream.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "io/sha256.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t num_buffers = 4;
struct FreeAligned {
    void operator()(std::byte* bytes) const noexcept { std::free(bytes); }
};

struct Range {
    std::size_t begin = 0, end = 0;
};

struct Buffer {
    std::unique_ptr<std::byte, FreeAligned> bytes{static_cast<std::byte*>(std::aligned_alloc(io::File::direct_alignment, ShardStream::buffer_bytes))};
    std::size_t size = 0;
    std::uint64_t offset = 0;    // in the file
    std::vector<Range> hashed;   // parts of the buffer
};

}  // namespace

// Buffers form a ring, numbered without end. Each of the three parties has a count of those it is through with:
// hashed, written <= filled < min(hashed, written) + num_buffers.
struct ShardStream::State {
    explicit State(io::File& f) : file(f) {}

    io::File& file;
    std::array<Buffer, num_buffers> ring;
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t filled = 0, hashed = 0, written = 0;
    std::uint64_t position = 0;  // in the file, of what comes next
    bool last_filled = false, abandoned = false;
    std::exception_ptr error;
    io::Sha256 hash;
    std::thread hasher, writer;

    // Runs `work` on each filled buffer in turn, counting in `done`, until the last one.
    template <class Work>
    void consume(std::uint64_t& done, Work work) {
        try {
            for (;;) {
                std::unique_lock lock(mutex);
                changed.wait(lock, [&] { return abandoned || done < filled || last_filled; });
                if (abandoned || done == filled) return;
                const Buffer& buffer = ring[done % num_buffers];
                lock.unlock();
                work(buffer);
                lock.lock();
                ++done;
                changed.notify_all();
            }
        } catch (...) {
            std::scoped_lock lock(mutex);
            if (!error) error = std::current_exception();
            abandoned = true;
            changed.notify_all();
        }
    }

    void start() {
        hasher = std::thread([this] {
            consume(hashed, [this](const Buffer& buffer) {
                for (const Range& range : buffer.hashed) hash.update({buffer.bytes.get() + range.begin, range.end - range.begin});
            });
        });
        writer = std::thread([this] {
            consume(written, [this](const Buffer& buffer) { file.write_at(buffer.offset, {buffer.bytes.get(), buffer.size}); });
        });
    }

    void join() {
        if (hasher.joinable()) hasher.join();
        if (writer.joinable()) writer.join();
    }

    // Gives the buffer in work to the threads and waits until there is another.
    void hand_over() {
        std::unique_lock lock(mutex);
        ++filled;
        changed.notify_all();
        changed.wait(lock, [&] { return abandoned || filled < std::min(hashed, written) + num_buffers; });
        if (error) std::rethrow_exception(error);
        Buffer& next = ring[filled % num_buffers];
        next.size = 0;
        next.hashed.clear();
    }
};

ShardStream::ShardStream(io::File& file) : state_(std::make_unique<State>(file)) {
    for (const Buffer& buffer : state_->ring)
        if (buffer.bytes == nullptr) throw std::bad_alloc();
    file.bypass_cache();
    state_->start();
}

ShardStream::~ShardStream() {
    {
        std::scoped_lock lock(state_->mutex);
        state_->abandoned = true;
        state_->changed.notify_all();
    }
    state_->join();
}

std::span<std::byte> ShardStream::space() {
    Buffer& buffer = state_->ring[state_->filled % num_buffers];
    return {buffer.bytes.get() + buffer.size, buffer_bytes - buffer.size};
}

void ShardStream::advance(std::size_t bytes, Hash hash) {
    Buffer& buffer = state_->ring[state_->filled % num_buffers];
    if (buffer.size == 0) buffer.offset = state_->position;
    if (hash == Hash::yes) buffer.hashed.push_back({buffer.size, buffer.size + bytes});
    buffer.size += bytes;
    state_->position += bytes;
    if (buffer.size == buffer_bytes) state_->hand_over();
}

void ShardStream::append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const std::span<std::byte> room = space();
        const std::size_t size = std::min(room.size(), bytes.size());
        std::ranges::copy(bytes.first(size), room.begin());
        advance(size);
        bytes = bytes.subspan(size);
    }
}

std::string ShardStream::finish() {
    {
        std::scoped_lock lock(state_->mutex);
        if (state_->ring[state_->filled % num_buffers].size > 0) ++state_->filled;
        state_->last_filled = true;
        state_->changed.notify_all();
    }
    state_->join();
    if (state_->error) std::rethrow_exception(state_->error);
    return state_->hash.hex();
}

}  // namespace mixwright::checkpoint
