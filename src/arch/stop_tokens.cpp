#include "arch/stop_tokens.h"

#include "arch/config_reader.h"
#include "io/json.h"

namespace mixwright::arch {

std::vector<std::int64_t> eos_token_ids(const OpenModel& model) {
    const std::filesystem::path file = model.checkpoint.path / "generation_config.json";
    if (model.checkpoint.format != checkpoint::Format::gguf && std::filesystem::exists(file)) {
        const io::Json json = io::read_json(file);
        std::vector<std::int64_t> ids = ConfigReader(json, file.string()).integers("eos_token_id", 0, model.spec.vocab_size - 1);
        if (!ids.empty()) return ids;
    }
    return model.spec.eos_token_ids;
}

}  // namespace mixwright::arch
