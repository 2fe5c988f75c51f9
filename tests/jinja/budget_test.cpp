// Templates that want too much: each must end with an error, quickly and in bounded memory, or render within the budget.
#include <gtest/gtest.h>

#include "jinja/template.h"

namespace mixwright::jinja {
namespace {

using Json = nlohmann::ordered_json;

std::string repeated(std::string_view part, std::size_t times) {
    std::string out;
    out.reserve(part.size() * times);
    for (std::size_t i = 0; i < times; ++i) out += part;
    return out;
}

Json nested_list(int depth) {
    Json value = 1;
    for (int i = 0; i < depth; ++i) value = Json::array({std::move(value)});
    return value;
}

struct Hostile {
    const char* name;
    std::string source;
};

class HostileTemplate : public testing::TestWithParam<Hostile> {};

TEST_P(HostileTemplate, EndsWithAnError) {
    EXPECT_THROW(Template(GetParam().source).render(Json::object()), Failure);
}

const std::string kDouble = "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}";

INSTANTIATE_TEST_SUITE_P(
    All, HostileTemplate,
    testing::Values(
        Hostile{"MacroRecursion", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"},
        Hostile{"MutualRecursion", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}"},
        Hostile{"RecursionInAnArgument", "{% macro f(x) %}{{ x }}{{ f(f(x)) }}{% endmacro %}{{ f(1) }}"},
        Hostile{"RecursionInADefault", "{% macro f(x=f()) %}{{ x }}{% endmacro %}{{ f() }}"},
        Hostile{"BinaryRecursion", "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"},
        Hostile{"CallerRecursion", "{% macro f() %}{% call f() %}x{% endcall %}{% endmacro %}{{ f() }}"},
        Hostile{"RecursiveLoop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"},
        Hostile{"RecursionThroughANamespace",
                "{% set ns = namespace() %}{% macro f() %}{{ ns.f() }}{% endmacro %}{% set ns.f = f %}{{ f() }}"},
        Hostile{"HugeRange", "{% for x in range(10**9) %}{% endfor %}"},
        Hostile{"RangeOfTheWholeIntegers", "{{ range(-9223372036854775807, 9223372036854775807) }}"},
        Hostile{"NestedLoops", "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
                               "{% endfor %}{% endfor %}{% endfor %}"},
        Hostile{"LoopsThatPrint", "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}"},
        Hostile{"LoopOverALongText", "{% for c in 'x' * 99999999 %}{% endfor %}"},
        Hostile{"StringTimesHuge", "{{ 'x' * 10**18 }}"},
        Hostile{"StringTimesStringTimes", "{{ 'x' * 10**4 * 10**4 * 10**4 }}"},
        Hostile{"ListTimesHuge", "{{ [1, 2] * 10**17 }}"},
        Hostile{"EmptyTextTimesHugeInALoop", "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' * 10**18 }}{% endfor %}{% endfor %}"},
        Hostile{"Doubling", kDouble + "{% set ns.x = ns.x + ns.x %}{% endfor %}"},
        Hostile{"DoublingByTilde", kDouble + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"},
        Hostile{"DoublingByJoin", kDouble + "{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}"},
        Hostile{"DoublingByReplace", kDouble + "{% set ns.x = ns.x.replace('a', 'aa').replace('b', ns.x) %}{% endfor %}"},
        Hostile{"DoublingByFormat", kDouble + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}"},
        Hostile{"DoublingByBraces", kDouble + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}"},
        Hostile{"DoublingByBlockSet", kDouble + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"},
        Hostile{"DoublingByMacro", "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}" + kDouble + "{% set ns.x = d(ns.x) %}{% endfor %}"},
        Hostile{"DoublingLists", "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"},
        Hostile{"DoublingBySplit", kDouble + "{% set ns.x = (ns.x * 3).split('a')|join('aa') %}{% endfor %}"},
        Hostile{"NestingByDoublingPrinted", "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"},
        Hostile{"NestingByDoublingAsJson", "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}"},
        Hostile{"NestingByDoublingCompared", "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
                                             "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}"},
        Hostile{"NestingByDoublingHashed", "{% set ns = namespace(x=(1, 2)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}"},
        Hostile{"ValuesNestedByALoop", "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}"},
        Hostile{"MapsNestedByALoop", "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}"},
        Hostile{"NamespaceThatHoldsItself", "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}"},
        Hostile{"Parentheses", "{{ " + repeated("(", 60000) + "1" + repeated(")", 60000) + " }}"},
        Hostile{"OpenParentheses", "{{ " + repeated("(", 60000)},
        Hostile{"Brackets", "{{ " + repeated("[", 60000) + repeated("]", 60000) + " }}"},
        Hostile{"Braces", "{{ " + repeated("{1:", 60000)},
        Hostile{"Calls", "{{ " + repeated("f(", 60000)},
        Hostile{"Nots", "{{ " + repeated("not ", 60000) + "1 }}"},
        Hostile{"Minuses", "{{ " + repeated("- ", 60000) + "1 }}"},
        Hostile{"Conditionals", "{{ " + repeated("1 if 0 else ", 30000) + "1 }}"},
        Hostile{"Attributes", "{{ a" + repeated(".b", 60000) + " }}"},
        Hostile{"Subscripts", "{{ a" + repeated("[0]", 60000) + " }}"},
        Hostile{"Filters", "{{ a" + repeated("|list", 60000) + " }}"},
        Hostile{"Tests", "{{ 1 " + repeated("is is ", 60000) + " }}"},
        Hostile{"NestedIfs", repeated("{% if 1 %}", 60000) + repeated("{% endif %}", 60000)},
        Hostile{"NestedFors", repeated("{% for a in b %}", 30000)},
        Hostile{"NestedMacros", repeated("{% macro a() %}", 30000)},
        Hostile{"NestedTargets", "{% for " + repeated("(", 60000) + "a in b %}{% endfor %}"},
        Hostile{"TooLong", repeated("x", (1 << 20) + 1)},
        Hostile{"WideFormat", "{{ '%999999999999s' % 'x' }}"},
        Hostile{"WideBraceFormat", "{{ '{:999999999}'.format('x') }}"},
        Hostile{"WideCentre", "{{ 'x'|center(10**12) }}{{ 'x'.center(10**9) }}"},
        Hostile{"WideZfill", "{{ 'x'.zfill(10**12) }}"},
        Hostile{"WideIndent", "{{ 'a\nb'|indent(10**12) }}"},
        Hostile{"WideJsonIndent", "{{ [1]|tojson(indent=10**12) }}"},
        Hostile{"ManySlices", "{{ []|slice(10**12)|list }}"},
        Hostile{"BatchFilled", "{{ [1]|batch(10**12, 0)|list }}"},
        Hostile{"HugePower", "{{ 10 ** 10 ** 10 }}"},
        Hostile{"PowerOfNegative", "{{ (0 - 8) ** 0.5 }}"},
        Hostile{"IntegerOverflow", "{{ 9223372036854775807 + 1 }}"},
        Hostile{"NegatedMinimum", "{{ -(-9223372036854775807 - 1) }}"},
        Hostile{"MinimumByMinusOne", "{{ (-9223372036854775807 - 1) // -1 }}"},
        Hostile{"HugeLiteral", "{{ " + repeated("9", 10000) + " }}"},
        Hostile{"SortsOfLongEqualTexts",
                "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{% set b = [s ~ 1, s ~ 2, s ~ 3]|sort %}{% endfor %}"},
        Hostile{"ComparisonsOfLongTexts", "{% set s = 'x' * 10**6 %}{% set t = s ~ '' %}{% for i in range(99999) %}{% if s == t %}{% endif %}{% endfor %}"},
        Hostile{"SearchesInALongText", "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}"},
        Hostile{"QuadraticSearches", "{% set s = 'x' * 10**6 %}{% set t = 'x' * 10**5 ~ 'y' %}{% for i in range(99999) %}{% if t in s %}{% endif %}{% endfor %}"},
        Hostile{"IndexesInALongWideText", "{% set s = 'ñ' * 10**6 %}{% for i in range(99999) %}{{ s[999999] }}{% endfor %}"},
        Hostile{"MembershipInALongList", "{% set l = range(99999)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}"},
        Hostile{"UniqueOfLongTexts", "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{% set u = [s, s, s]|unique|list %}{% endfor %}"},
        Hostile{"MapOfMap", "{{ [[[[1]]]]|map(" + repeated("'map', ", 50000) + "'list')|list }}"},
        Hostile{"MacroChain", "{% set ns = namespace(f=none) %}{% macro mk(prev) %}{% macro g() %}{{ prev }}{% endmacro %}"
                              "{% set ns.f = g %}{% endmacro %}{% for i in range(99999) %}{% for j in range(99) %}{{ mk(ns.f) }}{% endfor %}{% endfor %}"},
        Hostile{"NamespacesInALoop", "{% set ns = namespace(x=0) %}{% for i in range(99999) %}{% for j in range(99999) %}"
                                     "{% set n = namespace(p=ns.x) %}{% set ns.x = n %}{% endfor %}{% endfor %}"},
        Hostile{"CyclersInCyclers", "{% set ns = namespace(x=cycler(1)) %}{% for i in range(99999) %}{% set ns.x = cycler(ns.x) %}{% endfor %}"},
        Hostile{"BoundMethodsInBoundMethods", "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x.index] %}{% endfor %}"},
        Hostile{"TimeFormat", "{{ strftime_now('%c' * 99999) }}"}),
    [](const auto& test) { return std::string(test.param.name); });

void PrintTo(const Hostile& hostile, std::ostream* out) { *out << hostile.name; }

TEST(Budget, LongButFlatExpressionsAreFine) {
    EXPECT_EQ(Template("{{ 0" + repeated(" + 1", 10000) + " }}").render(Json::object()).text, "10000");
    EXPECT_EQ(Template("{{ ''" + repeated(" ~ 'a'", 1000) + " }}").render(Json::object()).text, repeated("a", 1000));
    EXPECT_EQ(Template("{{ 0" + repeated(" or 0", 10000) + " or 7 }}").render(Json::object()).text, "7");
}

TEST(Budget, RefusesDeeplyNestedVariables) {
    const Template copy("{{ x }}");
    EXPECT_THROW(copy.render({{"x", nested_list(5000)}}), Failure);
    EXPECT_EQ(copy.render({{"x", nested_list(50)}}).text, repeated("[", 50) + "1" + repeated("]", 50));
}

TEST(Budget, GivesEveryByteBack) {
    const Template lively("{% set ns = namespace(x=[]) %}{% macro f(n) %}{% set ns.x = ns.x + [f, ns, loop] %}{% if n %}"
                          "{{ f(n - 1) }}{% endif %}{% endmacro %}{% for i in range(3) %}{{ f(3) }}{% endfor %}{{ x }}");
    Budget outer(Limits{});
    lively.render({{"x", "y"}});
    EXPECT_EQ(outer.live_bytes(), 0u);
}

TEST(Budget, LimitsTheOutputExactly) {
    Limits limits;
    limits.output = 10;
    EXPECT_EQ(Template("{{ 'x' * 10 }}", limits).render(Json::object()).text.size(), 10u);
    EXPECT_THROW(Template("{{ 'x' * 11 }}", limits).render(Json::object()), Failure);
}

TEST(Budget, AFailedRenderLeavesTheTemplateUsable) {
    const Template choosy("{% if x %}{{ raise_exception('no') }}{% endif %}ok");
    EXPECT_THROW(choosy.render({{"x", true}}), Failure);
    EXPECT_EQ(choosy.render({{"x", false}}).text, "ok");
}

}  // namespace
}  // namespace mixwright::jinja
