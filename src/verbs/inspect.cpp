#include <fmt/format.h>

#include "checkpoint/checkpoint.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

class Inspect final : public Verb {
public:
    void declare(CLI::App& app) override { app.add_option("PATH", path_, "model")->required(); }
    void run(const CommonOptions&) override {}

private:
    std::string path_;
};

}  // namespace

std::unique_ptr<Verb> make_inspect() { return std::make_unique<Inspect>(); }

}  // namespace mixwright::verbs
