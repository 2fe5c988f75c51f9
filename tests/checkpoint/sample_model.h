// Small safetensors files and output plans for tests, made without the code under test.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/safetensors_source.h"
#include "checkpoint/writer.h"
#include "temporary_directory.h"

namespace mixwright::checkpoint {

/// A safetensors file of header text and data, its length prefix in front.
inline std::string safetensors_bytes(const std::string& json, const std::string& data) {
    std::string file;
    for (int i = 0; i < 8; ++i) file += static_cast<char>(json.size() >> (8 * i) & 0xFF);
    return file + json + data;
}

/// Two bf16 tensors and an f32: "a" [2, 3], "b" [4], "c" [].
inline std::string sample_safetensors() {
    std::string data;
    for (int i = 0; i < 24; ++i) data += static_cast<char>(i * 7);
    return safetensors_bytes(R"({"__metadata__":{"format":"pt"},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                             R"("a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}})",
                             data);
}

/// Copies of every tensor of `source` `copies` times over, with config and a metadata file.
inline OutputPlan copy_plan(const std::shared_ptr<const TensorSource>& source, int copies = 1) {
    OutputPlan plan;
    for (int i = 0; i < copies; ++i)
        for (const TensorInfo& info : source->tensors()) plan.tensors.push_back(copy_tensor("layers." + std::to_string(i) + "." + info.name, source, info));
    plan.files.push_back({"tokenizer.json", std::string("{}")});
    plan.config = R"({"model_type":"llama"})";
    return plan;
}

}  // namespace mixwright::checkpoint
