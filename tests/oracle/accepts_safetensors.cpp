// Reads file names from stdin, a line each; answers "accepted" or the error on a line. For test_safetensors.py.
#include <iostream>
#include <string>

#include "checkpoint/safetensors_source.h"
#include "error.h"

int main() {
    for (std::string path; std::getline(std::cin, path);) {
        std::string answer = "accepted";
        try {
            mixwright::checkpoint::read_safetensors_header(path);
        } catch (const mixwright::Error& e) {
            answer = e.message();
        }
        std::cout << answer << '\n';
    }
}
