// Makes the N-th system call of a write fail, for every N until none is left, in every way a call can fail.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>

#include "checkpoint/checkpoint.h"
#include "checkpoint/sample_model.h"
#include "error.h"
#include "io/system_call.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;
using io::Call;
using io::Fault;

// Fails the N-th call of those `applies` to, once.
class FailNth final : public io::FaultInjector {
public:
    FailNth(int nth, Fault fault, bool (*applies)(Call)) : nth_(nth), fault_(fault), applies_(applies) { io::set_fault_injector(this); }
    ~FailNth() override { io::set_fault_injector(nullptr); }

    Fault before(Call call) override {
        if (!applies_(call)) return {};
        return ++count_ == nth_ ? fault_ : Fault{};
    }
    bool fired() const { return count_ >= nth_; }

private:
    int nth_;
    Fault fault_;
    bool (*applies_)(Call);
    std::atomic<int> count_{0};
};

int open_descriptors() {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

struct Kind {
    const char* name;
    Fault fault;
    bool (*applies)(Call);
    bool harmless;  // the write carries on
};

bool any(Call) { return true; }
bool transfers(Call call) { return call == Call::read || call == Call::write; }
bool interruptible(Call call) {
    return call == Call::read || call == Call::write || call == Call::open || call == Call::sync || call == Call::reserve || call == Call::lock;
}
bool takes_space(Call call) {
    return call == Call::write || call == Call::reserve || call == Call::make_directory || call == Call::open || call == Call::sync;
}

const Kind kinds[] = {
    {"EIO", {.error = EIO}, any, false},
    {"ENOSPC", {.error = ENOSPC}, takes_space, false},
    {"EINTR", {.error = EINTR}, interruptible, true},
    {"short transfer", {.cut_short = true}, transfers, true},
    {"failed sync", {.error = EIO}, [](Call call) { return call == Call::sync; }, false},
    {"failed rename", {.error = EACCES}, [](Call call) { return call == Call::rename; }, false},
};

class Faults : public testing::Test {
protected:
    Faults() {
        write_text(directory / "in/model.safetensors", sample_safetensors());
        write_text(directory / "in/config.json", R"({"model_type":"llama"})");
    }

    void write(const fs::path& out, bool resume = false) {
        const Checkpoint checkpoint = open_checkpoint((directory / "in").string());
        OutputPlan plan = copy_plan(checkpoint.tensors, 2);
        plan.files.push_back({"copied.json", directory / "in/config.json"});
        plan.tensors.push_back(copy_tensor("scaled", checkpoint.tensors, checkpoint.tensors->at("b"), Dtype::f32));
        std::get<Pieces>(plan.tensors.back().content)[0].scale = 2;
        write_model(plan, out, {.shard_bytes = 24, .resume = resume});
    }

    TemporaryDirectory directory{memory_directory()};
};

TEST_F(Faults, every_failing_call_is_a_clean_error_and_resuming_gives_the_same_bytes) {
    write(directory / "whole");
    const auto whole = directory_contents(directory / "whole");
    int injected = 0;
    for (const Kind& kind : kinds) {
        for (int nth = 1;; ++nth) {
            SCOPED_TRACE(std::string(kind.name) + " at call " + std::to_string(nth));
            const fs::path out = directory / "out";
            const int descriptors = open_descriptors();
            std::string message;
            bool fired = false;
            {
                const FailNth injector(nth, kind.fault, kind.applies);
                try {
                    write(out);
                } catch (const Error& e) {
                    message = e.message();
                    if (kind.fault.error == ENOSPC) {
                        EXPECT_EQ(e.code(), ErrorCode::out_of_disk) << message;
                    }
                }
                fired = injector.fired();
            }
            EXPECT_EQ(open_descriptors(), descriptors);
            if (!fired) {
                EXPECT_EQ(message, "");
                fs::remove_all(out);
                break;
            }
            ++injected;
            if (kind.harmless) {
                EXPECT_EQ(message, "");
            }
            if (!message.empty()) {
                EXPECT_THAT(message, testing::HasSubstr(directory.path().string()));
                EXPECT_FALSE(fs::exists(directory / "out.partial/config.json"));
            }
            if (fs::exists(out)) {  // whole or not at all
                ASSERT_EQ(directory_contents(out), whole);
            } else {
                EXPECT_NE(message, "");
                write(out, true);
                ASSERT_EQ(directory_contents(out), whole);
            }
            fs::remove_all(out);
        }
    }
    EXPECT_GE(injected, 300);
}

TEST_F(Faults, failing_reads_name_the_input) {
    const FailNth injector(1, {.error = EIO}, [](Call call) { return call == Call::read; });
    try {
        open_checkpoint((directory / "in").string());
        FAIL() << "read";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::io);
        EXPECT_THAT(e.message(), testing::HasSubstr("in/"));
        EXPECT_THAT(e.message(), testing::HasSubstr("Input/output error"));
    }
}

}  // namespace
}  // namespace mixwright::checkpoint
