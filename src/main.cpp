#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <string_view>

#include "verbs/verb.h"

// Threads of libgomp that wait for work spin for milliseconds by default. On a machine whose cores have anything else to
// do, that makes every step several times slower; a short spin costs nothing on an idle one. libgomp asks for the setting
// while it is loaded, ahead of any code of ours: so this getenv stands in for libc's in the whole process, and answers
// that one question when the user has set neither of the two variables.
extern "C" __attribute__((visibility("default"))) char* getenv(const char* name) noexcept {
    static char short_spin[] = "2000";
    const auto set = [](std::string_view variable) -> char* {
        for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
            if (std::strncmp(*entry, variable.data(), variable.size()) == 0 && (*entry)[variable.size()] == '=') return *entry + variable.size() + 1;
        return nullptr;
    };
    if (char* value = set(name)) return value;
    return std::string_view(name) == "GOMP_SPINCOUNT" && set("OMP_WAIT_POLICY") == nullptr ? short_spin : nullptr;
}

int main(int argc, char** argv) {
    const int code = mixwright::verbs::run_command_line(argc, argv);
    // libtorch's global destructors take tenths of a second to free what the process's end frees anyway.
    std::cout.flush();
    std::fflush(nullptr);
    ::_exit(code);
}
