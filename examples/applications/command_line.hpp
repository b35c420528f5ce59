// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the programs say of a command line that they do not take: one sentence, where CLI11 has several lines.

#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/suggest.hpp>

namespace examples {

/// Takes whole numbers from `least` on, of 18 digits at most.
inline CLI::Validator whole_number(std::int64_t least) {
  const auto refuse = [least](const std::string& text) {
    constexpr std::int64_t most = 999'999'999'999'999'999;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool holds = error == std::errc{} && end == text.data() + text.size() && least <= value && value <= most;
    return holds ? std::string() : rookery::concat("it must be a whole number from ", least, " on, not '", text, "'");
  };
  return {refuse, ""};
}

/// Takes bytes, such as 80GB (80 * 10^9) or 512GiB (512 * 2^30), and makes a number of them.
inline CLI::Validator bytes() {
  const auto convert = [sizes = CLI::AsSizeValue(true)](std::string& text) mutable {
    const bool is_number = !text.empty() && '0' <= text[0] && text[0] <= '9';
    if (is_number && sizes(text).empty()) return std::string();
    return rookery::concat("it must be a number of bytes, such as 80GB or 512GiB, not '", text, "'");
  };
  return {convert, "BYTES"};
}

/// The sentence for a command line that CLI11 refuses. Of what it does not know that comes first: a misspelt option may be one that is
/// required.
inline std::string mistake(const CLI::App& app, const CLI::ParseError& error) {
  std::vector<std::string> names;
  for (const auto* option : app.get_options())
    if (!option->get_lnames().empty()) names.push_back(option->get_name());
  std::string extra;
  for (const auto& given : app.remaining()) {
    const auto name = given.substr(0, given.find('='));
    if (!name.starts_with("-")) {
      extra = given;
      continue;
    }
    for (const auto& other : names)
      if (name.size() > 3 && other.starts_with(name)) return rookery::concat(name, " is no option; did you mean '", other, "'?");
    const auto meant = rookery::suggestion(name, names);
    return rookery::concat(name, " is no option", meant.starts_with("; did you mean") ? meant : "; --help lists those that there are");
  }
  if (!extra.empty()) return rookery::concat("'", extra, "' belongs to no option");
  const std::string_view said = error.what();
  if (error.get_name() == "ArgumentMismatch" && said.ends_with(" missing"))
    return rookery::concat(said.substr(0, said.find(':')), " needs a value");
  if (error.get_name() == "ArgumentMismatch" && said.find(": At Most 1 ") != said.npos)
    return rookery::concat(said.substr(0, said.find(':')), " may be given once");
  if (const auto value = said.find(" = "); error.get_name() == "ConversionError" && value != said.npos) {
    const auto name = said.find("--");                           // Could not convert: --over = 64,x
    return rookery::concat(said.substr(name, value - name), " cannot be '", said.substr(value + 3), "'");
  }
  return std::string(said);
}

}  // namespace examples
