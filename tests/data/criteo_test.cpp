// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Criteo's click logs: what a line may hold, how it becomes a batch, and the synthetic log that looks like them.

#include <rookery/data/criteo.hpp>
#include <rookery/data/criteo_line.hpp>
#include <rookery/data/line_reader.hpp>
#include <rookery/data/pinned.hpp>
#include <rookery/data/prefetch.hpp>
#include <rookery/data/synthetic_criteo.hpp>

#include <ATen/ops/equal.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::Folder;
using cases::message_of;

namespace {

/// A line with one integer and one id replaced; the others are 1 to 13 and 0000000a.
std::string line_of(std::string_view label = "0", std::string_view first_integer = "1", std::string_view first_id = "0000000a") {
  std::string line = concat(label, "\t", first_integer);
  for (int i = 2; i <= 13; ++i) line += concat("\t", i);
  line += concat("\t", first_id);
  for (int i = 2; i <= 26; ++i) line += "\t0000000a";
  return line;
}

std::string mistake_of(std::string_view text, bool has_label = true) {
  CriteoLine line;
  const auto mistake = parse_criteo_line(text, line, has_label);
  return mistake.why.empty() ? "" : concat(mistake.column, ": ", mistake.why);
}

std::uint32_t id_of(std::string_view text) {
  CriteoLine line;
  CHECK(parse_criteo_line(line_of("0", "1", text), line).why == "");
  return line.ids[0];
}

/// What reading a file of this text says.
std::string refusal_of(std::string_view text, CriteoOptions options = {}) {
  const Folder folder;
  options.paths = {folder.write("day_0", text)};
  options.rows = {10};
  return message_of([&] {
    for (auto& batch : CriteoReader(options).epoch()) CHECK(batch.size() > 0);
  }).substr(0, 200);
}

std::string after_path(const std::string& message) { return message.substr(message.find("day_0") + 5); }

}  // namespace

TEST_SUITE("data/criteo") {
  TEST_CASE("D1 a line is a label, 13 integers and 26 ids, any but the label missing") {
    CriteoLine line;
    const auto text = line_of("1", "-3", "");
    CHECK(parse_criteo_line(text, line).why == "");
    CHECK(line.label == 1);
    CHECK(line.integers[0] == -3);
    CHECK(line.integers[12] == 13);
    CHECK(line.ids[1] == 10);
    CHECK(!line.integer_missing(0));
    CHECK(line.id_missing(0));
    CHECK(!line.id_missing(1));
    CHECK(parse_criteo_line("0" + std::string(39, '\t'), line).why == "");
    CHECK(line.missing == (std::uint64_t{1} << 39) - 1);
    CHECK(parse_criteo_line(text.substr(2), line, false).why == "");
    CHECK(line.integers[0] == -3);
    CHECK(mistake_of(text, false) == "0: the line has more than 39 columns");
  }

  TEST_CASE("D1 what a field must not hold is refused with its column") {
    CHECK(mistake_of(line_of("2")) == "1: '2' is not 0 or 1");
    CHECK(mistake_of(line_of("10")) == "1: '10' is not 0 or 1");
    CHECK(mistake_of(line_of("")) ==
          "1: the label is missing; lines without labels have no column for it and are read with has_label = false");
    for (const std::string_view wrong : {"1.5", "0x1", " 1", "1 ", "+1", "--1", "-", "1e3", "one"})
      CHECK(mistake_of(line_of("0", wrong)) == concat("2: '", wrong, "' is not an integer"));
    CHECK(mistake_of(line_of("0", std::string_view("1\0", 2))).starts_with("2: "));
    CHECK(mistake_of(line_of("0", "9223372036854775808")) == "2: '9223372036854775808' is outside the range of 64-bit integers");
    CHECK(mistake_of(line_of("0", "-9223372036854775808")) == "");
    CHECK(mistake_of(line_of("0", "-9223372036854775809")) == "2: '-9223372036854775809' is outside the range of 64-bit integers");
    CHECK(mistake_of(line_of(std::string_view("\0", 1))).starts_with("1: "));
    CHECK(mistake_of(line_of("0", "1", std::string_view("0000\000a", 6))).starts_with("15: "));
    for (const std::string_view wrong :
         {"123456789", "0000000g", " 000000a", "000000a ", "-1", "0x1", "1234567:", "@bcdefab", "\x10\x11\x12\x13\x14\x15\x16\x17"})
      CHECK(mistake_of(line_of("0", "1", wrong)) == concat("15: '", wrong, "' is not an id of at most 8 hexadecimal digits"));
    const auto line = line_of();
    CHECK(mistake_of(line.substr(0, line.rfind('\t'))) == "0: the line has 39 of 40 columns");
    CHECK(mistake_of(line + "\t") == "0: the line has more than 40 columns");
    CHECK(mistake_of("") == "1: the label is missing; lines without labels have no column for it and are read with has_label = false");
    CHECK(mistake_of("0") == "0: the line has 1 of 40 columns");
    CHECK(mistake_of(line_of("0", std::string(1 << 20, 'x'))).size() < 120);
  }

  TEST_CASE("D3 ids are unsigned, in digits of either case, eight or fewer") {
    CHECK(id_of("ffffffff") == 4294967295);
    CHECK(id_of("80000000") == 2147483648);
    CHECK(id_of("68fd1e64") == 0x68fd1e64);
    CHECK(id_of("68FD1E64") == 0x68fd1e64);
    CHECK(id_of("a") == 10);
    CHECK(id_of("00000000") == 0);
    std::mt19937 engine(3);
    for (int round = 0; round < 20'000; ++round) {
      const auto id = static_cast<std::uint32_t>(engine());
      char digits[9];
      std::snprintf(digits, sizeof digits, round % 2 ? "%08x" : "%08X", id);
      CHECK(id_of(digits) == id);
    }
    for (int byte = 0; byte < 256; ++byte) {          // each byte in each place is a digit or is refused
      const char c = static_cast<char>(byte);
      const bool digit = ('0' <= c && c <= '9') || ('a' <= c && c <= 'f') || ('A' <= c && c <= 'F');
      for (std::size_t place = 0; c != '\t' && place < 8; ++place) {
        std::string text = "01234567";
        text[place] = c;
        CHECK((mistake_of(line_of("0", "1", text)) == "") == digit);
      }
    }
    // As a row it is in its table, and another for another seed.
    for (const std::uint32_t id : {0U, 1U, 0x7fffffffU, 0x80000000U, 0xffffffffU})
      for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{10}, std::int64_t{1} << 40}) {
        CHECK(criteo_row(id, rows) >= 0);
        CHECK(criteo_row(id, rows) < rows);
        if (rows > 10) CHECK(criteo_row(id, rows) != criteo_row(id, rows, 1));
      }
    // These never change; from the formula in Python.
    CHECK(criteo_row(0, 1'000'000) == 0);
    CHECK(criteo_row(0x68fd1e64, 1'000'000) == 339670);
    CHECK(criteo_row(0xffffffff, 1'000'000, 7) == 351940);
  }

  TEST_CASE("D2 dense values are log(1 + max(x, 0)) whatever else the file holds, and a flag says what was missing") {
    const Folder folder;
    const auto read = [&](const std::string& text) {
      return *CriteoReader({.paths = {folder.write("day_0", text)}, .rows = {10}, .missing_flags = true}).epoch().next();
    };
    const auto values = std::vector<std::string>{"0", "-3", "", "5", "1023", "1024", "9223372036854775807", "-9223372036854775808"};
    const double wanted[] = {0, 0, 0, std::log(6.0), std::log(1024.0), std::log(1025.0), 63 * std::log(2.0), 0};
    std::string all;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto alone = read(line_of("0", values[i]) + "\n");
      CHECK(alone.dense[0][0].item<double>() == doctest::Approx(wanted[i]));
      CHECK(alone.dense[0][13].item<double>() == (values[i].empty() ? 1 : 0));
      all += line_of("0", values[i]) + "\n";
    }
    const auto together = read(all);
    for (std::size_t i = 0; i < values.size(); ++i)
      CHECK(together.dense[static_cast<std::int64_t>(i)][0].item<double>() == doctest::Approx(wanted[i]));
    CHECK(together.dense.isfinite().all().item<bool>());
  }

  TEST_CASE("D1 CRLF, no last line end, a byte order mark and several files are read; 39 and 41 columns are refused by line") {
    const auto line = line_of();
    CHECK(refusal_of(line + "\r\n" + line + "\r\n") == "");
    CHECK(refusal_of(line + "\n" + line) == "");
    CHECK(refusal_of("\xEF\xBB\xBF" + line + "\n") == "");
    CHECK(after_path(refusal_of("")) == ": the file is empty");
    CHECK(after_path(refusal_of(line + "\n" + line + "\t\n")) == ":2: the line has more than 40 columns");
    CHECK(after_path(refusal_of(line + "\n" + line.substr(0, line.rfind('\t')) + "\n" + line + "\n")) ==
          ":2: the line has 39 of 40 columns; lines without labels, of 39 columns, are read with has_label = false");
    CHECK(after_path(refusal_of(line_of("0", "5").substr(2) + "\n")) ==
          ":1: column 'label': '5' is not 0 or 1; lines without labels, of 39 columns, are read with has_label = false");
    CHECK(after_path(refusal_of(line + "\n\n")).starts_with(":2: column 'label': the label is missing"));
    CHECK(after_path(refusal_of(line_of("0", "1.5") + "\n")) == ":1: column 'I1': '1.5' is not an integer");
    CHECK(after_path(refusal_of(line_of("0", "1", "xyz") + "\n")).starts_with(":1: column 'C1': 'xyz' is not an id"));
    CHECK(after_path(refusal_of(line + "\n" + std::string(1 << 20, '7') + "\n")).starts_with(":2: column 'label': '777"));
    // Cut off in the middle of the last id, or of the line.
    CHECK(after_path(refusal_of(line + "\n" + line.substr(0, line.size() - 3))) == ":2: the file ends in the middle of the line");
    CHECK(after_path(refusal_of(line + "\n" + line.substr(0, 40))).starts_with(":2: the line has "));
    CHECK(message_of([] { CriteoReader({.paths = {"/nowhere/day_0"}, .rows = {1}}).epoch().next(); }) ==
          "/nowhere/day_0: the file cannot be opened: No such file or directory");
  }

  TEST_CASE("D1 bad lines are counted and left out, up to a limit for each epoch") {
    const auto good = line_of("1") + "\n", bad = line_of("0", "x") + "\n";
    const Folder folder;
    const auto path = folder.write("day_0", good + bad + good + bad + good);
    const CriteoReader reader({.paths = {path}, .batch_size = 2, .rows = {10}, .bad_lines = 2});
    for (int epoch = 1; epoch <= 3; ++epoch) {
      std::vector<std::int64_t> sizes;
      for (const TableBatch& batch : prefetch(reader.epoch())) sizes.push_back(batch.size());
      CHECK(sizes == std::vector<std::int64_t>{1, 1, 1});
      CHECK(reader.skipped() == 2 * epoch);
    }
    const CriteoReader strict({.paths = {path}, .batch_size = 2, .rows = {10}, .bad_lines = 1});
    for (int epoch = 1; epoch <= 2; ++epoch) {
      auto lines = strict.epoch();
      CHECK(lines.next()->size() == 1);
      CHECK(message_of([&] { lines.next(); }) ==
            path + ":4: column 'I1': 'x' is not an integer; it is bad line 2 of the epoch, and bad_lines = 1");
      CHECK(strict.skipped() == epoch);
    }
  }

  TEST_CASE("law: the shares of all ranks are the file's lines, in batches that every rank has") {
    const Folder folder;
    const SyntheticCriteo clicks;
    const std::vector<std::string> paths{folder.path("a"), folder.path("b")};
    clicks.write(paths[0], 0, 103);
    clicks.write(paths[1], 103, 64);
    auto wanted = CriteoReader({.paths = paths, .batch_size = 1000, .rows = {50}}).epoch();
    const auto all = *wanted.next();
    CHECK(all.size() == 167);
    CHECK(all.ids.keys().size() == 26);
    CHECK(all.ids.values().min().item<std::int64_t>() >= 0);
    CHECK(all.ids.values().max().item<std::int64_t>() == 50);      // the missing id's row
    for (const std::int64_t world : {1, 2, 5}) {
      std::vector<std::vector<TableBatch>> shares(static_cast<std::size_t>(world));
      for (std::int64_t rank = 0; rank < world; ++rank)
        for (auto& batch : CriteoReader({.paths = paths, .batch_size = 32, .rows = {50}, .rank = rank, .world_size = world}).epoch())
          shares[static_cast<std::size_t>(rank)].push_back(batch);
      std::int64_t row = 0;
      for (std::size_t step = 0; step < 6; ++step)
        for (const auto& share : shares) {
          CHECK(share.size() == 6);
          const auto& batch = share[step];
          CHECK(at::equal(batch.dense, all.dense.narrow(0, row, batch.size())));
          CHECK(at::equal(batch.labels, all.labels.narrow(0, row, batch.size())));
          CHECK(at::equal(batch.ids.values(), all.ids.slice(row, row + batch.size()).values()));
          row += batch.size();
        }
      CHECK(row == 167);
    }
    auto whole = CriteoReader({.paths = paths, .batch_size = 32, .rows = {50}, .drop_last = true}).epoch();
    for (int batch = 0; batch < 5; ++batch) CHECK(whole.next()->size() == 32);
    CHECK(!whole.next());
  }

  TEST_CASE("lines without labels give batches without") {
    const Folder folder;
    const auto path = folder.write("t", line_of().substr(2) + "\n");
    const auto batch = *CriteoReader({.paths = {path}, .rows = {10}, .has_label = false}).epoch().next();
    CHECK(!batch.labels.defined());
    CHECK(batch.size() == 1);
    CHECK(batch.ids.keys()[25] == "C26");
  }

  TEST_CASE("options that mean nothing are refused") {
    CHECK(message_of([] { CriteoReader({.rows = {1}}); }) == "CriteoReader: no path is given");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}}); }) ==
          "CriteoReader: rows has 0 entries; it must have one for all tables or one for each of the 26");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}, .rows = {0}}); }) == "CriteoReader: rows = [0] must be at least 1 each");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}, .rows = {std::numeric_limits<std::int64_t>::max()}}); }) ==
          "CriteoReader: 9223372036854775807 rows leave none for missing ids");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}, .batch_size = 0, .rows = {1}}); }) ==
          "CriteoReader: batch_size 0 must be at least 1");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}, .rows = {1}, .bad_lines = -1}); }) == "CriteoReader: bad_lines -1 is negative");
    CHECK(message_of([] { CriteoReader({.paths = {"x"}, .rows = {1}, .rank = 2, .world_size = 2}); }) ==
          "CriteoReader: rank 2 is not in a world of 2");
  }

  TEST_CASE("pinned is a no-op where batches stay on the host") {
    const Folder folder;
    const auto path = folder.path("a");
    SyntheticCriteo().write(path, 0, 10);
    const CriteoReader reader({.paths = {path}, .batch_size = 4, .rows = {50}});
    auto plain = reader.epoch();
    int batches = 0;
    for (const TableBatch& batch : prefetch(pinned(reader.epoch(), at::kCPU), 2)) {
      const auto wanted = *plain.next();
      CHECK(at::equal(batch.dense, wanted.dense));
      CHECK(at::equal(batch.ids.values(), wanted.ids.values()));
      CHECK(!batch.dense.is_pinned());
      ++batches;
    }
    CHECK(batches == 3);
  }
}

TEST_SUITE("data/synthetic_criteo") {
  TEST_CASE("law: a line is what was written of it, and a function of seed and index") {
    const SyntheticCriteo clicks{{.seed = 5}}, again{{.seed = 5}}, other{{.seed = 6}};
    const Folder folder;
    const auto path = folder.path("a");
    const auto planted = clicks.write(path, 1000, 300);
    LineReader reader({path});
    bool differs = false;
    for (std::int64_t index = 1000; reader.next(); ++index) {
      CriteoLine line;
      CHECK(parse_criteo_line(reader.line(), line).why == "");
      const auto wanted = again.line(index);
      CHECK(line.label == wanted.line.label);
      CHECK(line.integers == wanted.line.integers);
      CHECK(line.ids == wanted.line.ids);
      CHECK(line.missing == wanted.line.missing);
      CHECK(planted.probabilities[static_cast<std::size_t>(index - 1000)] == wanted.probability);
      CHECK(planted.labels[static_cast<std::size_t>(index - 1000)] == line.label);
      differs = differs || other.line(index).line.ids != line.ids;
    }
    CHECK(reader.number() == 300);
    CHECK(differs);
    std::string text;
    append_criteo_line(text, clicks.line(0).line, false);
    CriteoLine line;
    CHECK(parse_criteo_line(text.substr(0, text.size() - 1), line, false).why == "");
  }

  TEST_CASE("the log-odds have the variances that were asked for, and labels come at their probabilities") {
    const SyntheticCriteo clicks{{.seed = 1, .id_variance = 1.5, .integer_variance = 0.75}};
    double ids = 0, integers = 0, expected = 0, seen = 0, missing = 0;
    constexpr int count = 20'000;
    for (int i = 0; i < count; ++i) {
      const auto line = clicks.line(i);
      ids += line.id_log_odds * line.id_log_odds;
      integers += line.integer_log_odds * line.integer_log_odds;
      expected += line.probability;
      seen += line.line.label;
      missing += std::popcount(line.line.missing);
      CHECK(line.probability == doctest::Approx(1 / (1 + std::exp(1 - line.id_log_odds - line.integer_log_odds))));
    }
    CHECK(ids / count == doctest::Approx(1.5).epsilon(0.05));
    CHECK(integers / count == doctest::Approx(0.75).epsilon(0.1));
    CHECK(std::abs(seen - expected) < 4 * std::sqrt(count * 0.25));
    CHECK(missing > count);
    CHECK(clicks.num_ids(0) == 4);
    CHECK(clicks.num_ids(25) == 500);
  }

  TEST_CASE("a law that means nothing, and a file that cannot be written, are refused") {
    CHECK(message_of([] { SyntheticCriteo({.fewest_ids = 5, .most_ids = 4}); }) ==
          "SyntheticCriteo: fewest_ids 5 must be from 1 to most_ids, 4");
    CHECK(message_of([] { SyntheticCriteo({.zipf = -1}); }) == "SyntheticCriteo: zipf and the variances must not be negative");
    CHECK(message_of([] { SyntheticCriteo().write("/nowhere/a", 0, 1); }) == "/nowhere/a: the file cannot be written");
  }
}
