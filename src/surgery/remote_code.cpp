#include "surgery/remote_code.h"

#include "arch/remote_code.h"

namespace mixwright::surgery {

void add_remote_code(const arch::ModelSpec& spec, checkpoint::OutputPlan& plan, io::Json& config) {
    arch::RemoteCode code = arch::remote_code(spec);
    if (code.file.empty()) return;
    config["auto_map"] = std::move(code.auto_map);
    plan.files.push_back({code.file, std::move(code.text)});
}

}  // namespace mixwright::surgery
