// Code points of UTF-8 text as Python's str methods see them.
#pragma once

#include <string_view>

#include "jinja/budget.h"

namespace mixwright::jinja {

/// The code point at `offset`, which moves past it. Invalid bytes count as one code point each.
char32_t next_code_point(std::string_view text, std::size_t& offset);
/// The code point that ends at `offset`, which moves to its start.
char32_t previous_code_point(std::string_view text, std::size_t& offset);
void append_code_point(String& out, char32_t code_point);
std::size_t count_code_points(std::string_view text);
bool is_valid_utf8(std::string_view text);

/// str.isspace, str.isprintable, str.isalpha and so on, of one code point.
bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_digit(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
char32_t to_upper(char32_t c);
char32_t to_lower(char32_t c);

enum class Sides { left = 1, right = 2, both = 3 };
/// str.strip and its siblings without an argument.
std::string_view strip(std::string_view text, Sides sides = Sides::both);

/// The first (last) place of `wanted` at or after `from`, or npos. What is compared is charged to the budget: a search can
/// take the product of both lengths.
std::size_t find_text(std::string_view text, std::string_view wanted, std::size_t from = 0);
std::size_t find_last_text(std::string_view text, std::string_view wanted);

}  // namespace mixwright::jinja
