// The one exception of the project. Every failure a person can meet is an Error: a code from a closed
// list (which fixes the exit status), a message that says what and where, and a hint that says what to do.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace mixwright {

enum class ErrorCode {
    usage,          // the command line is wrong
    recipe,         // a recipe file is wrong
    malformed,      // an input file does not follow its format
    not_found,      // an input is not there
    unsupported,    // a well-formed input we cannot work with
    mismatch,       // inputs that do not fit each other
    out_of_disk,    // no room for the output
    out_of_memory,  // no room for the work
    io,             // the operating system refused a read or a write
    interrupted,    // Ctrl-C
    failed,         // the work itself failed (NaN loss, self-test differs, ...)
    internal        // our bug
};

/// Exit status of a command that ended with `code`: 1 failed, 2 command line or recipe, 3 malformed input,
/// 4 out of disk or memory, 130 interrupted.
int exit_status(ErrorCode code) noexcept;

class Error : public std::exception {
public:
    /// `message` reads "FILE: WHERE: what is wrong (got X, expected Y)"; `hint` says what to do about it.
    Error(ErrorCode code, std::string message, std::string hint = {});

    ErrorCode code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }
    const std::string& hint() const noexcept { return hint_; }
    /// The message, then the hint on a line of its own.
    const char* what() const noexcept override { return what_.c_str(); }

private:
    ErrorCode code_;
    std::string message_;
    std::string hint_;
    std::string what_;
};

/// `text` with control bytes and invalid UTF-8 written as \xNN, cut at `limit` bytes: names out of files are
/// printed only through this, so that a crafted name cannot drive a terminal.
std::string printable(std::string_view text, std::size_t limit = 200);

}  // namespace mixwright
