// Makers of every verb, one a file of this folder. verb_table.cpp lists them.
#pragma once

#include "verbs/verb.h"

namespace mixwright::verbs {

std::unique_ptr<Verb> make_bench();
std::unique_ptr<Verb> make_chat();
std::unique_ptr<Verb> make_eval();
std::unique_ptr<Verb> make_generate();
std::unique_ptr<Verb> make_import();
std::unique_ptr<Verb> make_build();
std::unique_ptr<Verb> make_split();
std::unique_ptr<Verb> make_inspect();
std::unique_ptr<Verb> make_logits();
std::unique_ptr<Verb> make_tokenize();
std::unique_ptr<Verb> make_profile();
std::unique_ptr<Verb> make_relayout();
std::unique_ptr<Verb> make_train();
std::unique_ptr<Verb> make_zip();
std::unique_ptr<Verb> make_chain();

}  // namespace mixwright::verbs
