// What a verb of the command line is. To add one: a file here that defines its class, and a line in verb_table.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/json.h"

namespace mixwright::verbs {

/// Options every verb takes.
struct CommonOptions {
    std::string device;             // "cpu", "cuda", "cuda:1"; empty: cuda when there, else cpu
    int threads = 0;                // 0: as many as the machine has
    std::string dtype;              // compute type; empty: the verb's default
    std::uint64_t seed = 0;
    bool quiet = false;
    int verbosity = 0;
    std::string progress = "auto";  // auto, plain, json, none
    bool json = false;              // the result as JSON on stdout, everything else on stderr
};

class Verb {
public:
    virtual ~Verb() = default;
    /// Declares arguments and options; values land in members.
    virtual void declare(CLI::App& app) = 0;
    /// Does the work. Throws Error.
    virtual void run(const CommonOptions& common) = 0;
};

struct VerbEntry {
    const char* name;
    const char* summary;   // one line of `mixwright --help`
    const char* examples;  // shown under `mixwright VERB --help`
    std::unique_ptr<Verb> (*make)();
};

/// Every verb, in the order of the help page.
std::span<const VerbEntry> verb_table();

/// Parses the command line, runs the verb, reports errors on stderr. Returns the exit status.
int run_command_line(int argc, char** argv);

}  // namespace mixwright::verbs
