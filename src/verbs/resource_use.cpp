#include "verbs/resource_use.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
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

void keep_freed_memory() {
    ::mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that malloc accepts; larger blocks go back at once
    ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
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
