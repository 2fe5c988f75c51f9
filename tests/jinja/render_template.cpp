// Renders what the oracle test asks for: each line of the input is {"template", "variables"}, each line of the output
// {"text", "generations"} or {"error", "reason"}.
#include <iostream>

#include "jinja/template.h"

int main() {
    using mixwright::jinja::Failure;
    using Json = nlohmann::ordered_json;
    for (std::string line; std::getline(std::cin, line);) {
        const Json request = Json::parse(line);
        Json answer;
        try {
            const mixwright::jinja::Template parsed(request["template"].get<std::string>());
            const auto rendered = parsed.render(request["variables"]);
            answer["text"] = rendered.text;
            answer["generations"] = rendered.generations;
        } catch (const Failure& failure) {
            constexpr const char* kReasons[] = {"raised", "syntax", "runtime", "budget"};
            answer["error"] = failure.what();
            answer["reason"] = kReasons[static_cast<int>(failure.reason)];
            answer["line"] = failure.line;
        }
        std::cout << answer.dump() << '\n';
    }
}
