#include "generate/stop_strings.h"

#include <gtest/gtest.h>

namespace mixwright::generate {
namespace {

std::string shown(StopStrings& stop, std::initializer_list<const char*> pieces) {
    std::string text;
    for (const char* piece : pieces) text += stop.push(piece);
    return text;
}

TEST(StopStrings, EndTheTextBeforeThem) {
    StopStrings stop({"END"});
    EXPECT_EQ(shown(stop, {"one ", "two END three", "four"}), "one two ");
    EXPECT_TRUE(stop.stopped());
    EXPECT_EQ(stop.finish(), "");
}

TEST(StopStrings, AreFoundAcrossPieces) {
    StopStrings stop({"\n\nUser:"});
    EXPECT_EQ(shown(stop, {"fine.\n", "\nUs", "er", ": hello"}), "fine.");
    EXPECT_TRUE(stop.stopped());
}

TEST(StopStrings, GiveBackWhatOnlyLookedLikeOne) {
    StopStrings stop({"</s>", "<|end|>"});
    EXPECT_EQ(shown(stop, {"a < b", " and <", "/p> <|en"}), "a < b and </p> ");
    EXPECT_FALSE(stop.stopped());
    EXPECT_EQ(stop.finish(), "<|en");
}

TEST(StopStrings, TheFirstOfSeveralCounts) {
    StopStrings stop({"later", "now"});
    EXPECT_EQ(shown(stop, {"not now and not later"}), "not ");
}

TEST(StopStrings, OverlappingBeginningsAreHeldBack) {
    StopStrings stop({"aab"});
    EXPECT_EQ(shown(stop, {"a", "a", "a", "b"}), "a");
    EXPECT_TRUE(stop.stopped());
}

TEST(StopStrings, WithoutAnyTextPasses) {
    StopStrings stop({""});
    EXPECT_EQ(shown(stop, {"a", "b"}), "ab");
}

}  // namespace
}  // namespace mixwright::generate
