// {"config": {...}, "tensors": {NAME: [DTYPE, SHAPE], ...}}: refused with an Error, or every tensor of the model lies inside
// those on disk, however they are packed, fused or quantised.
#include "arch/canonical.h"
#include "error.h"
#include "plain_source.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const io::Json json = io::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
        if (!json.is_object() || !json.contains("config") || !json.contains("tensors") || !json["tensors"].is_object()) return 0;
        std::vector<checkpoint::TensorInfo> infos;
        for (const auto& [name, form] : json["tensors"].items()) {
            if (!form.is_array() || form.size() != 2 || !form[0].is_string() || !form[1].is_array()) return 0;
            const auto dtype = dtype_from_safetensors(form[0].get<std::string>());
            if (!dtype) return 0;
            checkpoint::TensorInfo info{name, *dtype, {}};
            for (const io::Json& dim : form[1]) {
                // As readers of checkpoints guarantee.
                if (!dim.is_number_integer() || dim < 0 || dim > (std::int64_t{1} << 32)) return 0;
                info.shape.push_back(dim.get<std::int64_t>());
            }
            infos.push_back(std::move(info));
        }
        auto source = fuzz::PlainSource::make(std::move(infos));
        if (!source) return 0;
        fuzz::read_all(*arch::open_model(checkpoint::Checkpoint{"fuzz", "fuzz", checkpoint::Format::safetensors, json["config"], source}).tensors);
    } catch (const Error&) {
    }
    return 0;
}
