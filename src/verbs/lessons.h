// What each student learns from the texts: all of them, one, or a kind of text that the MoE's experts tell apart.
#pragma once

#include <vector>

#include "split/student.h"
#include "verbs/split_report.h"
#include "verbs/parted_texts.h"

namespace mixwright::verbs {

struct Lessons {
    std::vector<split::StudentText> fit;      // a student each
    std::vector<data::TokenStream> heal;      // as many, or one for all
    std::vector<JudgeText> judge;             // the columns of the report: the texts, then the kinds

    /// All that is kept apart, each token once.
    data::TokenStream judged() const;
    std::size_t num_texts = 0;
};

/// One student for all texts, or with `each` one for every text.
Lessons lessons_by_text(const std::vector<PartedText>& texts, bool each);

/// `count` students, one for each kind of text (split/token_clusters.h). All see all of it, each token counting as much as it is of the
/// student's kind; what heals and what judges is put to kinds by the window of `context` tokens.
Lessons lessons_by_kind(const arch::OpenModel& moe, const std::vector<PartedText>& texts, std::int64_t count, std::int64_t context, const model::Placement& placement);

}  // namespace mixwright::verbs
