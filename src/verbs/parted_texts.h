// Texts to make a model from: each cut into what a method learns from, what a student is healed with, and what is kept apart to
// judge the result by.
#pragma once

#include <string>
#include <vector>

#include "calibrate/domain_tokens.h"
#include "data/packing.h"

namespace mixwright::verbs {

struct PartedText {
    std::string name;                    // of the file
    calibrate::DomainTokens learn;
    data::TokenStream heal;              // what `learn` was cut from, and more of it
    data::TokenStream judge;             // of which the others hold nothing
};

struct PartedTextSettings {
    std::int64_t tokens = 16'384;        // to learn from, in all
    std::int64_t heal_tokens = 0;        // to heal with, in all
    std::int64_t context = 512;
};

/// A text of each file, its documents mixed. Error as from read_documents() and cut_domain().
std::vector<PartedText> read_parted_texts(const std::string& moe, const std::vector<std::string>& files, const arch::ModelSpec& spec, const PartedTextSettings& settings);

/// Changes whenever what is learnt from does.
std::string identity_of(const std::vector<PartedText>& texts);

}  // namespace mixwright::verbs
