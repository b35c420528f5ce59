// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// .npy files: what is read, and what is refused by name.

#include <rookery/data/npy.hpp>
#include <rookery/data/npy_header.hpp>
#include <rookery/data/table_reader.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <limits>
#include <string>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::Folder;
using cases::message_of;

namespace {

/// A file of the given dictionary and numbers, as NumPy lays it out.
template <class Number> std::string npy(std::string dictionary, const std::vector<Number>& numbers, int version = 1) {
  dictionary += std::string(63 - (dictionary.size() + (version == 1 ? 10 : 12)) % 64, ' ') + '\n';
  std::string text = concat("\x93NUMPY", static_cast<char>(version)) + '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) text += static_cast<char>(dictionary.size() >> (8 * i) & 0xff);
  text += dictionary;
  text.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(Number));
  return text;
}
std::string header(std::string_view descr, std::string_view shape, std::string_view order = "False") {
  return concat("{'descr': ", descr, ", 'fortran_order': ", order, ", 'shape': ", shape, ", }");
}

/// What reading a file of these bytes says behind its path.
std::string refusal_of(const std::string& bytes) {
  const Folder folder;
  const auto path = folder.write("a.npy", bytes);
  const auto message = message_of([&] { read_npy(path); });
  return message.empty() ? "" : message.substr(path.size() + 2);
}

}  // namespace

TEST_SUITE("data/npy") {
  TEST_CASE("D5 versions 1 to 3 of the four dtypes are read") {
    const Folder folder;
    for (const int version : {1, 2, 3}) {
      const auto read = [&](const std::string& text) { return read_npy(folder.write("a.npy", text)); };
      CHECK(at::equal(read(npy<float>(header("'<f4'", "(2, 3)"), {0, 1, 2, 3, 4, 5.5}, version)),
                      at::tensor({0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.5F}).view({2, 3})));
      CHECK(at::equal(read(npy<std::int32_t>(header("'<i4'", "(2,)"), {-1, 7}, version)), at::tensor({-1, 7}, at::kInt)));
      const auto scalar = read(npy<std::int64_t>(header("\"<i8\"", "()"), {std::int64_t{1} << 40}, version));
      CHECK(scalar.dim() == 0);
      CHECK(scalar.item<std::int64_t>() == std::int64_t{1} << 40);
      CHECK(at::equal(read(npy<std::uint8_t>(header("'|u1'", "(3)"), {0, 1, 255}, version)), at::tensor({0, 1, 255}, at::kByte)));
      CHECK(read(npy<float>(header("'<f4'", "(0, 13)"), {}, version)).sizes() == at::IntArrayRef({0, 13}));
    }
    const auto dense = npy<float>("{'shape':(1,),'fortran_order':False,'descr':'<f4'}", {2});
    CHECK(read_npy(folder.write("b.npy", dense)).item<float>() == 2);
  }

  TEST_CASE("D5 NumPy's other numbers are read, unsigned ones as int64") {
    const Folder folder;
    const auto read = [&](const std::string& text) { return read_npy(folder.write("a.npy", text)); };
    CHECK(at::equal(read(npy<double>(header("'<f8'", "(2,)"), {.1, 1e300})), at::tensor({.1, 1e300}, at::kDouble)));
    CHECK(at::equal(read(npy<std::uint8_t>(header("'|b1'", "(3,)"), {0, 1, 7})), at::tensor({0, 1, 1}).to(at::kBool)));
    CHECK(at::equal(read(npy<std::int8_t>(header("'|i1'", "(2,)"), {-1, 1})), at::tensor({-1, 1}, at::kChar)));
    CHECK(at::equal(read(npy<std::int16_t>(header("'<i2'", "(2,)"), {-1, 300})), at::tensor({-1, 300}, at::kShort)));
    CHECK(at::equal(read(npy<std::uint16_t>(header("'<u2'", "(2,)"), {1, 65535})), at::tensor({1, 65535}, at::kLong)));
    CHECK(at::equal(read(npy<std::uint32_t>(header("'<u4'", "(2,)"), {1, 4294967295})), at::tensor({1L, 4294967295L}, at::kLong)));
    CHECK(at::equal(read(npy<std::uint64_t>(header("'<u8'", "(2,)"), {1, ~std::uint64_t{0} >> 1})),
                    at::tensor({std::int64_t{1}, std::numeric_limits<std::int64_t>::max()}, at::kLong)));
    CHECK(refusal_of(npy<std::uint64_t>(header("'<u8'", "(2,)"), {1, std::uint64_t{1} << 63})) ==
          "a number of 2^63 or more, which int64 cannot hold");
  }

  TEST_CASE("D5 Fortran order, big-endian, objects, records and other dtypes are refused by name") {
    CHECK(refusal_of(npy<float>(header("'<f4'", "(1, 1)", "True"), {1})) ==
          "the array is in Fortran order; save numpy.ascontiguousarray of it");
    CHECK(refusal_of(npy<float>(header("'>f4'", "(1,)"), {1})) == "numbers of dtype '>f4' are big-endian; save them as little-endian");
    CHECK(refusal_of(npy<float>(header("'|O'", "(1,)"), {1})) == "dtype '|O' holds Python objects; save numbers");
    CHECK(refusal_of(npy<double>(header("'<c8'", "(1,)"), {1})) == "dtype '<c8' is not read; save float32, float64, bool or integers");
    CHECK(refusal_of(npy<float>(header("[('a', '<f4')]", "(1,)"), {1})) ==
          "records of several fields are not read; save each field as an array");
  }

  TEST_CASE("D5 a shape whose product overflows, a header beyond the file, and files too short or too long are refused") {
    CHECK(refusal_of(npy<float>(header("'<f4'", "(4611686018427387904, 2)"), {})) ==
          "an array of shape [4611686018427387904, 2] is larger than 2^63 bytes");
    CHECK(refusal_of(npy<float>(header("'<f4'", "(9223372036854775808,)"), {})) == "the shape has a number beyond 64 bits");
    CHECK(refusal_of(npy<float>(header("'<f4'", "(-1,)"), {})).starts_with("the header has '-1,), }"));
    CHECK(refusal_of(npy<float>(header("'<f4'", "(3,)"), {1, 2})) ==
          "an array of shape [3] has 12 bytes; the file has 8 behind its header");
    CHECK(refusal_of(npy<float>(header("'<f4'", "(1,)"), {1, 2})) ==
          "an array of shape [1] has 4 bytes; the file has 8 behind its header");
    auto text = npy<float>(header("'<f4'", "(1,)"), {1});
    text[8] = text[9] = '\xff';
    CHECK(refusal_of(text) == "the header is said to be of 65535 bytes, and 122 are there");
    for (const std::size_t size : {0, 5, 9}) CHECK(refusal_of(text.substr(0, size)) == "not a .npy file");
    CHECK(refusal_of(npy<float>(header("'<f4'", "(1,)"), {1}, 2).substr(0, 11)) == "the file ends within its header");
    CHECK(refusal_of(npy<float>(header("'<f4'", "(1,)"), {1}, 4)) == "version 4.0 of the format; known are 1.0, 2.0 and 3.0");
    CHECK(refusal_of(npy<float>("{'descr': '<f4', 'shape': (1,)}", {1})) == "the header lacks 'fortran_order'");
    CHECK(refusal_of(npy<float>("{'descr': '<f4', 'descr': '<f4'}", {1})) == "the header has 'descr' twice");
    CHECK(refusal_of(npy<float>("{'color': 1}", {1})) == "the header has a key 'color'");
    for (std::size_t cut = 0; cut < 60; ++cut) {          // any beginning of a dictionary is refused
      const auto dictionary = header("'<f4'", "(1,)");
      if (cut < dictionary.size()) CHECK(refusal_of(npy<float>(dictionary.substr(0, cut), {1})) != "");
    }
  }

  TEST_CASE("D5 dense, ids and labels are a table, refused where their rows disagree or an id or number is outside its range") {
    const Folder folder;
    const NpyTable files{.dense = folder.write("d.npy", npy<float>(header("'<f4'", "(4, 2)"), {0, 1, 2, 3, 4, 5, 6, 7})),
                         .ids = folder.write("s.npy", npy<std::int32_t>(header("'<i4'", "(4, 3)"), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7})),
                         .labels = folder.write("l.npy", npy<std::int32_t>(header("'<i4'", "(4, 1)"), {0, 1, 1, 0})),
                         .rows = {10, 10, 9},
                         .split = SplitByOrder{.columns = {"(row)"}, .train = std::int64_t{3}}};
    const TableReader reader{read_npy_table(files), {.batch_size = 8}};
    CHECK(reader.rows(Part::train) == 3);
    const auto batch = *reader.epoch(Part::test).next();
    CHECK(at::equal(batch.dense, at::tensor({6.0F, 7.0F}).view({1, 2})));
    CHECK(at::equal(batch.ids.values(), at::tensor({9, 8, 7}, at::kLong)));
    CHECK(batch.ids.keys() == std::vector<std::string>{"C1", "C2", "C3"});
    const auto refusal = [&](auto change) {
      auto changed = files;
      change(changed);
      return message_of([&] { read_npy_table(changed); });
    };
    CHECK(refusal([](auto& f) { f.rows = {10, 8, 9}; }) == files.ids + ": row 3, column 'C2': 8 is not a row of a table of 8");
    CHECK(refusal([](auto& f) { f.rows = {10}; }).starts_with("read_npy_table: rows has 1 entries;"));
    CHECK(refusal([](auto& f) { f.split = SplitByColumn{.column = "user"}; }) ==
          "read_npy_table: arrays have no column to split by but \"(row)\"");
    const auto three = folder.write("l3.npy", npy<std::int32_t>(header("'<i4'", "(3,)"), {0, 1, 1}));
    CHECK(refusal([&](auto& f) { f.labels = three; }) == concat(files.dense, " has 4 rows, ", files.ids, " 4 and ", three, " 3"));
    const auto nan = folder.write("n.npy", npy<float>(header("'<f4'", "(4, 1)"), {0, std::numeric_limits<float>::quiet_NaN(), 2, 3}));
    CHECK(refusal([&](auto& f) { f.dense = nan; }) == nan + ": row 1, column 'I1': nan is not a finite number");
    CHECK(refusal([&](auto& f) { f.dense = three; }) == three + ": dense values must be of two dimensions");
    const auto large = folder.write("f8.npy", npy<double>(header("'<f8'", "(4, 1)"), {0, 1, 1e300, 3}));
    CHECK(refusal([&](auto& f) { f.dense = large; }) == large + ": row 2, column 'I1': 1e+300 does not fit a float32");
    CHECK(refusal([&](auto& f) { f.labels = large; }) == large + ": row 2, column 'label': 1e+300 does not fit a float32");
    CHECK(refusal([&](auto& f) { f.labels = nan; }) == nan + ": row 1, column 'label': nan is not a finite number");
    const auto flags = folder.write("b.npy", npy<std::uint8_t>(header("'|b1'", "(4, 3)"), std::vector<std::uint8_t>(12, 1)));
    CHECK(refusal([&](auto& f) { f.ids = flags; }) == flags + ": ids must be integers of two dimensions");
    const auto ones = folder.write("1.npy", npy<float>(header("'<f4'", "(4,)"), {1, 1, 1, 0}));
    CHECK(refusal([&](auto& f) { f.labels = ones; }) == ones + ": column 'label': no negative label among the 3 training rows");
    CHECK(refusal([&](auto& f) { f.ids = files.dense; }) == files.dense + ": ids must be integers of two dimensions");
  }

  TEST_CASE("D5 float64, bool and unsigned numbers make the table that float32 and int64 make") {
    const Folder folder;
    const auto batch_of = [](NpyTable files) {
      files.rows = {10};
      files.split = SplitByOrder{.columns = {"(row)"}, .train = std::int64_t{3}, .validation_in_train = true};
      return *TableReader{read_npy_table(files), {.batch_size = 8, .seed = 1}}.epoch(Part::train).next();
    };
    const auto plain = batch_of({.dense = folder.write("d", npy<float>(header("'<f4'", "(3, 2)"), {0, 1, 2, 3, 4, 5})),
                                 .ids = folder.write("s", npy<std::int64_t>(header("'<i8'", "(3, 1)"), {7, 8, 9})),
                                 .labels = folder.write("l", npy<float>(header("'<f4'", "(3,)"), {0, 1, 1}))});
    const auto flags = folder.write("b", npy<std::uint8_t>(header("'|b1'", "(3, 1)"), {0, 1, 1}));
    const auto u4 = folder.write("u4", npy<std::uint32_t>(header("'<u4'", "(3, 1)"), {7, 8, 9}));
    const auto u8 = folder.write("u8", npy<std::uint64_t>(header("'<u8'", "(3, 1)"), {7, 8, 9}));
    const auto f8 = folder.write("f8", npy<double>(header("'<f8'", "(3, 2)"), {0, 1, 2, 3, 4, 5}));
    const auto u2 = folder.write("u2", npy<std::uint16_t>(header("'<u2'", "(3, 2)"), {0, 1, 2, 3, 4, 5}));
    for (const auto& files : {NpyTable{.dense = f8, .ids = u4, .labels = flags}, NpyTable{.dense = u2, .ids = u8, .labels = flags}}) {
      const auto batch = batch_of(files);
      CHECK(at::equal(batch.dense, plain.dense));
      CHECK(at::equal(batch.labels, plain.labels));
      CHECK(at::equal(batch.ids.values(), plain.ids.values()));
    }
  }
}
