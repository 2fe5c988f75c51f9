#include "evaluate/questions.h"

#include <gmock/gmock.h>

#include <fstream>

#include "error.h"
#include "evaluate/exact_match.h"
#include "temporary_directory.h"

namespace mixwright::evaluate {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Questions : public testing::Test {
protected:
    std::filesystem::path file(const std::string& lines) {
        const auto path = folder_.path() / "questions.jsonl";
        std::ofstream(path) << lines;
        return path;
    }
    std::string refusal(const std::string& lines) {
        try {
            read_choice_questions(file(lines), 0);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::malformed);
            return error.what();
        }
        return "accepted";
    }

    TemporaryDirectory folder_;
};

TEST_F(Questions, ComeInTheFormsOfPublicBenchmarks) {
    const auto read = read_choice_questions(file(R"({"passage": "It rains.", "question": "Wet?", "options": ["(A)yes", "(B)no"], "label": "B", "answer": null}
{"question": "2+2", "choices": ["3", "4", "5"], "answer": 1}

{"question": "Ice is", "choices": {"text": ["hot", "cold"], "label": ["1", "2"]}, "answerKey": "2"}
)"), 0);
    ASSERT_EQ(read.size(), 3u);
    EXPECT_EQ(read[0].prompt, "It rains.\nQuestion: Wet?\nAnswer:");
    EXPECT_THAT(read[0].options, ElementsAre("yes", "no"));
    EXPECT_EQ(read[0].right, 1u);
    EXPECT_EQ(read[1].right, 1u);
    EXPECT_THAT(read[2].options, ElementsAre("hot", "cold"));
    EXPECT_EQ(read[2].right, 1u);
}

TEST_F(Questions, StopAtTheLimit) {
    const std::string line = R"({"question": "q", "options": ["a", "b"], "label": "A"})" "\n";
    EXPECT_EQ(read_choice_questions(file(line + line + "no json"), 2).size(), 2u);
}

TEST_F(Questions, KeepLettersThatNotAllOptionsHave) {
    EXPECT_THAT(read_choice_questions(file(R"({"question": "q", "options": ["(A)5", "none"], "label": "A"})"), 0)[0].options, ElementsAre("(A)5", "none"));
}

TEST_F(Questions, ThatAreIncompleteAreRefusedByLine) {
    EXPECT_THAT(refusal(R"({"question": "q", "options": ["a", "b"], "label": "A"})" "\n" R"({"question": "q", "options": ["a", "b"]})"), HasSubstr("questions.jsonl:2: it does not say which"));
    EXPECT_THAT(refusal(R"({"question": "q", "options": ["a", "b"], "label": "C"})"), HasSubstr("none of the 2"));
    EXPECT_THAT(refusal(R"({"question": "q", "options": ["a", "b"], "answer": -1})"), HasSubstr("none of the 2"));
    EXPECT_THAT(refusal(R"({"question": "q", "options": ["a"], "label": "A"})"), HasSubstr("no list of 2"));
    EXPECT_THAT(refusal(R"({"options": ["a", "b"], "label": "A"})"), HasSubstr("no `question`"));
    EXPECT_THAT(refusal(R"({"question": "q", "options": ["a", 7], "label": "A"})"), HasSubstr("an option is no text"));
    EXPECT_THAT(refusal("[1]"), HasSubstr("not a JSON object"));
    EXPECT_THAT(refusal("\n"), HasSubstr("no question in it"));
}

TEST_F(Questions, WithFreeAnswersNeedBoth) {
    const auto read = read_open_questions(file(R"({"question": "2+2", "answer": "It is 4\n#### 4"})"), 0, {});
    ASSERT_EQ(read.size(), 1u);
    EXPECT_EQ(read[0].prompt, "Question: 2+2\nAnswer:");
    EXPECT_EQ(read[0].answer, " It is 4\n#### 4");
    EXPECT_THROW(read_open_questions(file(R"({"text": "no question"})"), 0, {}), Error);
}

TEST(FinalAnswer, IsBehindTheMarkOrTheLastNumber) {
    const std::string right = "... #### 1,234";
    EXPECT_EQ(final_answer(right, right), "1234");
    EXPECT_EQ(final_answer("so #### 7\n#### $1,234.\nQuestion", right), "1234");
    EXPECT_EQ(final_answer("She has 3 apples, and 1,234 pears.", right), "1234");
    EXPECT_EQ(final_answer("it falls to -2.5 degrees", right), "-2.5");
    EXPECT_EQ(final_answer("I do not know", right), "");
}

TEST(FinalAnswer, IsTheWholeTextWithoutAMark) { EXPECT_EQ(final_answer("  Paris\n", " Paris"), "Paris"); }

}  // namespace
}  // namespace mixwright::evaluate
