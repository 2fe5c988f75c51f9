#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "error.h"

namespace mixwright::tokenizer {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ModelFolder : public testing::Test {
protected:
    void SetUp() override {
        folder = fs::temp_directory_path() / ("chat-template-" + std::to_string(::getpid()));
        fs::create_directories(folder);
    }
    void TearDown() override { fs::remove_all(folder); }
    void write(const std::string& name, const std::string& text) const {
        fs::create_directories((folder / name).parent_path());
        std::ofstream(folder / name) << text;
    }
    std::string hello() const { return ChatTemplate::load(folder)->render(Conversation::parse(R"([{"role":"user","content":"hi"}])")); }

    fs::path folder;
};

TEST_F(ModelFolder, WithoutATemplateHasNone) {
    write("tokenizer_config.json", R"({"bos_token": "<s>"})");
    EXPECT_FALSE(ChatTemplate::load(folder));
}

TEST_F(ModelFolder, TakesTheTemplateAndTheTokensOfTheTokenizerConfig) {
    write("tokenizer_config.json",
          R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"})");
    EXPECT_EQ(hello(), "<s>hi</s>");
}

TEST_F(ModelFolder, PrefersTheJinjaFile) {
    write("tokenizer_config.json", R"({"chat_template": "config"})");
    write("chat_template.json", R"({"chat_template": "json"})");
    EXPECT_EQ(hello(), "json");
    write("chat_template.jinja", "file {{ messages|length }}");
    EXPECT_EQ(hello(), "file 1");
}

TEST_F(ModelFolder, TakesTheToolTemplateWhenThereAreTools) {
    write("tokenizer_config.json",
          R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools|length }}"}]})");
    ChatOptions options;
    EXPECT_EQ(hello(), "plain");
    options.tools = Conversation::array({1, 2});
    EXPECT_EQ(ChatTemplate::load(folder)->render(Conversation::array(), options), "tools 2");
    write("chat_template.jinja", "file");
    write("additional_chat_templates/tool_use.jinja", "more {{ tools|length }}");
    EXPECT_EQ(ChatTemplate::load(folder)->render(Conversation::array(), options), "more 2");
}

TEST_F(ModelFolder, NamesTheFileOfABrokenTemplate) {
    write("chat_template.jinja", "line one\n{% if %}");
    try {
        ChatTemplate::load(folder);
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::malformed);
        EXPECT_THAT(error.message(), testing::AllOf(HasSubstr("chat_template.jinja"), HasSubstr("line 2")));
    }
}

TEST_F(ModelFolder, RefusesATemplateOfTheWrongKind) {
    write("tokenizer_config.json", R"({"chat_template": 5})");
    EXPECT_THROW(ChatTemplate::load(folder), Error);
    write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
    EXPECT_THROW(ChatTemplate::load(folder), Error);
}

TEST(ChatTemplate, TellsTheTemplatesOwnRefusal) {
    const ChatTemplate chat("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role!') }}{% endif %}{% endfor %}",
                            "model.gguf");
    try {
        chat.render(Conversation::parse(R"([{"role": "system", "content": ""}])"));
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::mismatch);
        EXPECT_THAT(error.message(), testing::AllOf(HasSubstr("model.gguf"), HasSubstr("No system role!")));
    }
}

TEST(ChatTemplate, PassesPromptFlagVariablesAndTime) {
    const ChatTemplate chat("{{ add_generation_prompt }} {{ enable_thinking }} {{ tools }} {{ strftime_now('%Y') }} {{ bos_token }}", "t",
                            {{"bos_token", "<s>"}});
    ChatOptions options;
    options.add_generation_prompt = true;
    options.variables = {{"enable_thinking", false}};
    options.now = 86400 * 365;
    EXPECT_EQ(chat.render(Conversation::array(), options), "True False None 1971 <s>");
}

TEST(ChatTemplate, TellsWhatTheAssistantWrote) {
    const ChatTemplate chat("{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
                            "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}", "t");
    const auto rendered = chat.render_with_spans(
        Conversation::parse(R"([{"role":"user","content":"ä"},{"role":"assistant","content":"öö"},{"role":"user","content":"c"}])"));
    ASSERT_EQ(rendered.generations.size(), 1u);
    const auto [begin, end] = rendered.generations[0];
    EXPECT_EQ(rendered.text.substr(begin, end - begin), "öö");
}

}  // namespace
}  // namespace mixwright::tokenizer
