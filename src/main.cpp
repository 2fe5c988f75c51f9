#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "verbs/verb.h"

namespace {

// Threads of libgomp that wait for work spin for milliseconds by default. On a machine whose cores have anything else to
// do, that makes every step several times slower; a short spin costs nothing on an idle one. libgomp reads the setting
// when it is loaded, so it has to be there before: this runs ahead of the constructors of all libraries, and starts the
// program once more with the variable set, unless the user has set one of the two.
void limit_spinning(int, char** argv, char** environment) {
    constexpr std::size_t max_variables = 4096;
    static char setting[] = "GOMP_SPINCOUNT=2000";
    static char* extended[max_variables + 2];
    std::size_t count = 0;
    for (; environment[count] != nullptr; ++count) {
        if (count == max_variables || std::strncmp(environment[count], "GOMP_SPINCOUNT=", 15) == 0 ||
            std::strncmp(environment[count], "OMP_WAIT_POLICY=", 16) == 0)
            return;
        extended[count] = environment[count];
    }
    extended[count] = setting;
    ::execve("/proc/self/exe", argv, extended);  // where it fails, the program goes on as it is
}

__attribute__((section(".preinit_array"), used)) void (*const before_libraries)(int, char**, char**) = limit_spinning;

}  // namespace

int main(int argc, char** argv) { return mixwright::verbs::run_command_line(argc, argv); }
