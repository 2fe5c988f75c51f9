#include "verbs/verb.h"

int main(int argc, char** argv) { return mixwright::verbs::run_command_line(argc, argv); }
