#include "data/conversations.h"

#include <gtest/gtest.h>

#include "error.h"

namespace mixwright::data {
namespace {

const io::Json messages = {{{"role", "user"}, {"content", "2+2?"}}, {{"role", "assistant"}, {"content", "4"}},
                           {{"role", "user"}, {"content", "3+3?"}}, {{"role", "assistant"}, {"content", "6"}}};

std::vector<Segment> segments_of(const char* source) { return chat_renderer(tokenizer::ChatTemplate(source, "test"))(messages); }

TEST(Conversations, what_the_assistant_adds_is_learnt) {
    const auto segments = segments_of(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}");
    EXPECT_EQ(segments, (std::vector<Segment>{{"<user>2+2?</s><assistant>", false}, {"4</s>", true},
                                              {"<user>3+3?</s><assistant>", false}, {"6</s>", true}}));
}

TEST(Conversations, generation_blocks_say_what_is_learnt) {
    const auto segments = segments_of(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %};{% else %}{{ m.content }} {% endif %}{% endfor %}");
    EXPECT_EQ(segments, (std::vector<Segment>{{"2+2? ", false}, {"4", true}, {";3+3? ", false}, {"6", true}, {";", false}}));
}

TEST(Conversations, a_template_that_rewrites_earlier_turns_is_refused) {
    EXPECT_THROW(segments_of("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"), Error);
}

}  // namespace
}  // namespace mixwright::data
