#include "verbs/resource_use.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>

namespace mixwright::verbs {

std::uint64_t peak_rss_bytes() {
    constexpr std::uint64_t kibi = 1024;
    // getrusage() begins with the memory of the process that started this one, which may be far larger.
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (std::uint64_t kib = 0; word == "VmHWM:" && status >> kib) return kib * kibi;
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::uint64_t>(usage.ru_maxrss) * kibi;
}

namespace {

// libtorch asks for aligned memory, and malloc cannot give an aligned block of some size where one of the same size was freed: the next
// layer's activations would lie behind those of the last one. Here blocks are plain ones, aligned within; before its data each holds its own address.
class PlainAllocator final : public c10::Allocator {
public:
    c10::DataPtr allocate(std::size_t bytes) override {
        if (bytes == 0) return {nullptr, nullptr, &release, c10::DeviceType::CPU};
        constexpr std::size_t more = c10::gAlignment + sizeof(void*);
        void* const block = bytes <= std::numeric_limits<std::size_t>::max() - more ? std::malloc(bytes + more) : nullptr;
        if (block == nullptr) throw std::bad_alloc();
        void* data = static_cast<void**>(block) + 1;
        std::size_t space = bytes + c10::gAlignment;
        std::align(c10::gAlignment, bytes, data, space);
        static_cast<void**>(data)[-1] = block;
        return {data, data, &release, c10::DeviceType::CPU};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

private:
    static void release(void* data) {
        if (data != nullptr) std::free(static_cast<void**>(data)[-1]);
    }
};

}  // namespace

void keep_freed_memory() {
    ::mallopt(M_MMAP_MAX, 0);  // what is mapped by itself goes back at once, which 32 MB and more always would
    ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
    static PlainAllocator* const allocator = new PlainAllocator;  // libtorch owns it from here on
    c10::SetCPUAllocator(allocator);
}

void release_startup_memory() {
    ::malloc_trim(0);
    const auto release_code = [](dl_phdr_info* object, std::size_t, void*) {
        // Of nothing else is there enough to matter, and a debugger's breakpoints in our own code would go with it.
        if (std::string_view(object->dlpi_name).find("libtorch") == std::string_view::npos) return 0;
        const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
        for (const ElfW(Phdr)& segment : std::span(object->dlpi_phdr, object->dlpi_phnum)) {
            // Pages that are never written are read from the file again when they are asked for; all others would be lost.
            if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0 || (segment.p_flags & PF_W) != 0) continue;
            const std::uintptr_t begin = (object->dlpi_addr + segment.p_vaddr) / page * page, end = object->dlpi_addr + segment.p_vaddr + segment.p_memsz;
            ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // NOLINT: an address is all the loader gives
        }
        return 0;
    };
    ::dl_iterate_phdr(release_code, nullptr);
}

}  // namespace mixwright::verbs
