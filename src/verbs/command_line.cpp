// The command line: common options, the verb table, errors as messages and exit statuses.
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "error.h"
#include "progress.h"
#include "verbs/progress_display.h"
#include "verbs/verb.h"

namespace mixwright::verbs {
namespace {

constexpr const char* version = "0.1.0";

void handle_interrupt(int) {
    request_interrupt();
    std::signal(SIGINT, SIG_DFL);  // a second Ctrl-C ends the process at once
}

void declare_common(CLI::App& app, CommonOptions& common) {
    const auto group = "Common";
    app.add_option("--device", common.device, "cpu, cuda or cuda:N (default: cuda when there)")->group(group);
    app.add_option("--threads", common.threads, "number of CPU threads (default: all)")->check(CLI::Range(1, 1024))->group(group);
    app.add_option("--dtype", common.dtype, "compute type: bfloat16, float32, ...")->group(group);
    app.add_option("-s,--seed", common.seed, "seed of everything random (default 0)")->group(group);
    app.add_flag("--quiet", common.quiet, "no progress, no notes; warnings and errors only")->group(group);
    app.add_flag("-v", common.verbosity, "say more (repeat for more still)")->group(group);
    app.add_option("--progress", common.progress, "auto, plain, json or none")
        ->check(CLI::IsMember({"auto", "plain", "json", "none"}))->group(group);
    app.add_flag("--json", common.json, "the result as JSON on stdout")->group(group);
}

// llama.cpp has flags of several letters behind one dash, which CLI11 would read as letters.
std::vector<std::string> spelled_out(int argc, char** argv) {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    for (std::string& argument : arguments)
        if (argument == "-sys") argument = "--system-prompt";
    std::ranges::reverse(arguments);  // as CLI11 takes them
    return arguments;
}

int report(ErrorCode code, const std::string& message) {
    std::fflush(stdout);
    fmt::print(stderr, "error: {}\n", message);
    return exit_status(code);
}

// Runs `work`, turning what it throws into a message and an exit status.
template <class Work>
int guarded(Work work) {
    try {
        work();
        return 0;
    } catch (const Error& e) {
        return report(e.code(), e.what());
    } catch (const c10::Error& e) {
        return report(ErrorCode::internal, e.what_without_backtrace());
    } catch (const std::bad_alloc&) {
        return report(ErrorCode::out_of_memory, "out of memory");
    } catch (const std::exception& e) {
        return report(ErrorCode::internal, e.what());
    }
}

}  // namespace

int run_command_line(int argc, char** argv) {
    CLI::App app{"mixwright: build, profile, zip, split, chain, train and run Mixture-of-Experts language models", "mixwright"};
    app.set_version_flag("--version", std::string("mixwright ") + version);
    app.require_subcommand(1);
    app.fallthrough(false);

    CommonOptions common;
    std::unique_ptr<Verb> chosen;
    std::vector<std::pair<CLI::App*, std::unique_ptr<Verb>>> verbs;
    for (const VerbEntry& entry : verb_table()) {
        CLI::App* sub = app.add_subcommand(entry.name, entry.summary);
        sub->footer(std::string("Examples:\n") + entry.examples);
        auto verb = entry.make();
        verb->declare(*sub);
        declare_common(*sub, common);
        verbs.emplace_back(sub, std::move(verb));
    }

    try {
        app.parse(spelled_out(argc, argv));
    } catch (const CLI::ParseError& e) {
        const int status = app.exit(e);  // prints help, version or the complaint
        return status == 0 ? 0 : exit_status(ErrorCode::usage);
    }

    std::signal(SIGINT, handle_interrupt);
    std::signal(SIGPIPE, SIG_IGN);
    install_progress_display(common);
    if (common.threads > 0) at::set_num_threads(common.threads);
    for (auto& [sub, verb] : verbs)
        if (sub->parsed()) {
            const int status = guarded([&verb = verb, &common] { verb->run(common); });
            set_progress_sink(nullptr);
            return status;
        }
    return exit_status(ErrorCode::usage);
}

}  // namespace mixwright::verbs
