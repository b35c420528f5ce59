// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Records, fields and numbers of CSV text.

#include <rookery/data/csv.hpp>
#include <rookery/data/table_text.hpp>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::message_of;

namespace {

using Records = std::vector<std::vector<std::string>>;

Records records_of(std::string_view text, const CsvFormat& format = {}) {
  CsvReader reader(text, "x.csv", format);
  Records records;
  while (reader.next()) records.emplace_back(reader.fields().begin(), reader.fields().end());
  return records;
}

std::string refusal_of(std::string_view text, const CsvFormat& format = {}) {
  return message_of([&] { records_of(text, format); });
}

Cell cell(std::string_view text) { return {"x.csv", 17, "rating", text}; }

/// A field as a careful writer would write it.
std::string written(const std::string& field, const CsvFormat& format) {
  if (!format.quote || field.find_first_of(concat(*format.quote, "\r\n", format.separator)) == std::string::npos) return field;
  std::string quoted(1, *format.quote);
  for (const char c : field) quoted += c == *format.quote ? std::string(2, c) : std::string(1, c);
  return quoted + *format.quote;
}

}  // namespace

TEST_SUITE("data/csv") {
  TEST_CASE("D4 MovieLens CSV: header, quoted titles with commas and doubled quotes, CRLF, half stars") {
    const auto records = records_of(
        "movieId,title,rating\r\n"
        "11,\"American President, The (1995)\",3.5\r\n"
        "25,\"\"\"Great Performances\"\" Cats (1998)\",0.5\r\n"
        "3,Plain \"inside\" (1999),5.0");
    CHECK(records == Records{{"movieId", "title", "rating"},
                             {"11", "American President, The (1995)", "3.5"},
                             {"25", "\"Great Performances\" Cats (1998)", "0.5"},
                             {"3", "Plain \"inside\" (1999)", "5.0"}});
  }

  TEST_CASE("D4 the variants with :: and with tabs hold the same records") {
    const Records wanted{{"1", "Toy Story: 1, 2", "Animation|Comedy"}, {"2", "", "Drama"}};
    CHECK(records_of("1::Toy Story: 1, 2::Animation|Comedy\n2::::Drama\n", {"::", '"'}) == wanted);
    CHECK(records_of("1\tToy Story: 1, 2\tAnimation|Comedy\n2\t\tDrama\n", {"\t", '"'}) == wanted);
    CHECK(records_of("1,\"Toy Story: 1, 2\",Animation|Comedy\n2,,Drama\n") == wanted);
  }

  TEST_CASE("D4 real files come back byte by byte") {
    struct File {
      std::filesystem::path path;
      std::string separator, line_end;
    };
    for (const auto& [path, separator, line_end] :
         {File{cases::data_folder() / "ml-latest-small/ratings.csv", ",", "\r\n"},
          File{cases::movielens_folder() / "ml-100k.inter", "\t", "\n"}, File{cases::movielens_folder() / "ml-100k.item", "\t", "\n"},
          File{cases::movielens_folder() / "ml-100k.user", "\t", "\n"}}) {
      if (!std::filesystem::exists(path)) {
        MESSAGE("skipped: there is no " << path.string());
        continue;
      }
      const auto text = read_text(path.string());
      CsvReader reader(text, path.string(), {separator, '"'});
      std::string again;
      while (reader.next()) {
        std::string_view between = "";
        for (const auto field : reader.fields()) again.append(between).append(field), between = separator;
        again += line_end;
      }
      CHECK(again == text);
    }
  }

  TEST_CASE("a byte order mark, no last line end, a last empty field and lines with nothing on them") {
    CHECK(records_of("\xEF\xBB\xBF"
                     "a,b\n1,2") == Records{{"a", "b"}, {"1", "2"}});
    CHECK(records_of("a,b,\n\n\r\n1,2,") == Records{{"a", "b", ""}, {"1", "2", ""}});
    CHECK(records_of("a,b\r\n1,2\r") == Records{{"a", "b"}, {"1", "2"}});
    CHECK(records_of("a\rb\n") == Records{{"a\rb"}});
    CHECK(records_of("").empty());
    CHECK(records_of("\xEF\xBB\xBF").empty());
    CHECK(records_of("\n\r\n\r").empty());
    CHECK(records_of("\"\"\n\"\",\"\"") == Records{{""}, {"", ""}});
    CHECK(records_of("\"a\nb\",c\n\"x\"") == Records{{"a\nb", "c"}, {"x"}});
    CHECK(records_of("\"a\",b", {",", std::nullopt}) == Records{{"\"a\"", "b"}});
    CHECK(records_of("'a,b',c", {",", '\''}) == Records{{"a,b", "c"}});
  }

  TEST_CASE("a record knows the line it starts on, quoted line ends counted") {
    CsvReader reader("h\n\"a\n\nb\"\n\nlast", "x.csv");
    std::vector<std::int64_t> lines;
    while (reader.next()) lines.push_back(reader.line());
    CHECK(lines == std::vector<std::int64_t>{1, 2, 6});
  }

  TEST_CASE("a quote never closed, text after a closing quote and NUL are refused with their line") {
    CHECK(refusal_of("a,b\n1,\"2\n3,4\n") == "x.csv:2: a quoted field is not closed before the end of the file");
    CHECK(refusal_of("a,b\n1,\"2\" 3,4\n") ==
          "x.csv:2: the quoted field '2' is followed by ' 3,4'; a separator or the end of the line belongs there");
    CHECK(refusal_of(std::string_view("a,b\n1,\0002\n", 9)) == "x.csv:2: a NUL byte: the file is not text");
    CHECK(refusal_of(std::string_view("a,b\n\"\n\0\"", 8)) == "x.csv:3: a NUL byte: the file is not text");
    CHECK(refusal_of("a", {"", '"'}) == "x.csv: the separator is empty");
    CHECK(refusal_of("a", {"\n", '"'}) == "x.csv: the separator holds a line end or NUL");
    CHECK(refusal_of("a", {"\"", '"'}) == "x.csv: the separator holds the quote");
  }

  TEST_CASE("law: reading what was written gives the same fields, for any separator, quote and line end") {
    std::mt19937_64 engine(1);
    const auto below = [&](std::size_t n) { return engine() % n; };
    for (int round = 0; round < 1000; ++round) {
      const CsvFormat format{std::vector<std::string>{",", "\t", "::", ", ", "|"}[below(5)], below(2) ? '"' : '\''};
      const std::string line_end = below(2) ? "\n" : "\r\n", letters = "ab,:\t| \"'\r\n\xC3";
      const auto columns = 2 + below(4);
      Records records(1 + below(5));
      std::string text = below(2) ? "\xEF\xBB\xBF" : "";
      for (auto& record : records) {
        for (std::size_t column = 0; column < columns; ++column) {
          auto& field = record.emplace_back();
          for (auto left = below(6); left > 0; --left) field += letters[below(letters.size())];
          text += (column ? format.separator : "") + written(field, format);
        }
        text += line_end;
      }
      if (below(2)) text.resize(text.size() - line_end.size());
      CHECK(records_of(text, format) == records);
    }
  }

  TEST_CASE("any bytes are either records or a DataError") {
    std::mt19937_64 engine(2);
    const std::string letters("a1,\"\r\n\0\xEF\xBB\xBF", 10);
    for (int round = 0; round < 5000; ++round) {
      std::string text;
      for (auto left = engine() % 24; left > 0; --left) text += letters[engine() % letters.size()];
      try {
        for (const auto& record : records_of(text, {engine() % 2 ? "," : "a1", '"'})) CHECK(!record.empty());
      } catch (const DataError& error) {
        CHECK(std::string_view(error.what()).starts_with("x.csv:"));
      }
    }
  }

  TEST_CASE("numbers are whole texts, finite and in range") {
    CHECK(number_of(cell("3.5")) == 3.5);
    CHECK(number_of(cell("-1e-3")) == -1e-3);
    CHECK(integer_of(cell("-9223372036854775808")) == std::numeric_limits<std::int64_t>::min());
    const auto number = [](std::string_view text) { return message_of([&] { number_of(cell(text)); }); };
    const auto integer = [](std::string_view text) { return message_of([&] { integer_of(cell(text)); }); };
    CHECK(number("abc") == "x.csv:17: column 'rating': 'abc' is not a number");
    for (const auto* text : {"", " 1", "1 ", "+1", "0x1", "1,5", "1_000", "--1", "1e"})
      CHECK(number(text) == concat("x.csv:17: column 'rating': '", text, "' is not a number"));
    CHECK(number("1e400") == "x.csv:17: column 'rating': '1e400' is outside the range of a double");
    for (const auto* text : {"nan", "inf", "-inf"})
      CHECK(number(text) == concat("x.csv:17: column 'rating': '", text, "' is not a finite number"));
    for (const auto* text : {"", "1.5", "1e3", " 1", "0x1"})
      CHECK(integer(text) == concat("x.csv:17: column 'rating': '", text, "' is not an integer"));
    CHECK(integer("9223372036854775808") == "x.csv:17: column 'rating': '9223372036854775808' is outside the range of 64-bit integers");
    CHECK(number(std::string(100, 'x')) == concat("x.csv:17: column 'rating': '", std::string(60, 'x'), "...' is not a number"));
  }
}
