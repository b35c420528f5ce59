// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every mistake in a schema or a file is one sentence.

#include <rookery/data/read_table.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/suggest.hpp>
#include <rookery/data/table_schema.hpp>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;

namespace {

/// A right schema over two small files; each test makes one thing wrong.
struct Clicks {
  cases::Folder folder;
  std::string clicks = folder.write("clicks.csv", "user,item,age,clicked\nu1,i1,30,1\nu2,i2,40,0\nu1,i2,50,1\n");
  std::string users = folder.write("users.csv", "user,city\nu1,Ulm\nu2,Bonn\n");
  TableSchema schema{.file = {.paths = {clicks}},
                     .label = {.column = "clicked"},
                     .dense = {{.column = "age"}},
                     .ids = {{.column = "user"}, {.column = "item"}, {.column = "city"}},
                     .side_tables = {{.name = "users", .file = {.paths = {users}}, .key = "user"}},
                     .split = SplitByOrder{.columns = {"(row)"}, .train = std::int64_t{2}}};

  std::string refusal() const {
    return cases::message_of([&] { read_table(schema); });
  }
  /// With the text of the main file replaced.
  std::string refusal_of(std::string_view text) const {
    folder.write("clicks.csv", text);
    return refusal();
  }
};

}  // namespace

TEST_SUITE("data/schema_check") {
  TEST_CASE("the right schema is not refused") { CHECK(Clicks().refusal() == ""); }

  TEST_CASE("schema mistake: a file given twice") {
    Clicks main, side;
    main.schema.file.paths.push_back(main.clicks);
    CHECK(main.refusal() == concat("file: path '", main.clicks, "' is given twice"));
    side.schema.side_tables[0].file.paths.push_back(side.users);
    CHECK(side.refusal() == concat("side table 'users': path '", side.users, "' is given twice"));
  }

  TEST_CASE("schema mistake: missing column") {
    Clicks dense, id, label, key, join, split;
    dense.schema.dense[0].column = "aeg";
    CHECK(dense.refusal() ==
          concat("dense column 'aeg': there is no such column in ", dense.clicks, ", ", dense.users, "; did you mean 'age'?"));
    id.schema.ids[1].column = "product";
    CHECK(id.refusal() == concat("id column 'product': there is no such column in ", id.clicks, ", ", id.users,
                                 "; there are [user, item, age, clicked, user, city]"));
    label.schema.label.column = "click";
    CHECK(label.refusal() == concat("label 'click': there is no such column in ", label.clicks, "; did you mean 'clicked'?"));
    key.schema.side_tables[0].key = "usr";
    CHECK(key.refusal() == concat("side table 'users', key 'usr': there is no such column in ", key.users, "; did you mean 'user'?"));
    join.schema.side_tables[0].column = "uesr";
    CHECK(join.refusal() ==
          concat("side table 'users', column 'uesr': there is no such column in ", join.clicks, "; did you mean 'user'?"));
    split.schema.split = SplitByOrder{.columns = {"time"}};
    CHECK(split.refusal() == concat("split 'time': there is no such column in ", split.clicks, "; there are [user, item, age, clicked]"));
    split.schema.ids[2].column = "users.town";
    CHECK(split.refusal() == concat("id column 'town': there is no such column in ", split.users, "; there are [user, city]"));
  }

  TEST_CASE("schema mistake: missing file, a folder, an empty file, a file without rows") {
    Clicks clicks;
    CHECK(clicks.refusal_of("") == clicks.clicks + ": the file is empty");
    CHECK(clicks.refusal_of("user,item,age,clicked\n") == clicks.clicks + ": there are no rows");
    clicks.schema.file.paths = {clicks.folder.path("none.csv")};
    CHECK(clicks.refusal() == clicks.folder.path("none.csv") + ": the file cannot be opened: No such file or directory");
    clicks.schema.file.paths = {clicks.folder.path("")};
    CHECK(clicks.refusal() == clicks.folder.path("") + ": the file cannot be read: Is a directory");
    clicks.schema.file = {.paths = {clicks.clicks}, .has_header = false, .columns = {"user", "item", "age", "clicked"}};
    CHECK(clicks.refusal_of("") == clicks.clicks + ": the file is empty");
  }

  TEST_CASE("schema mistake: wrong type of a value, with file, line, column and value") {
    Clicks clicks;
    const auto& path = clicks.clicks;
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\nu2,i2,old,0\n") == path + ":3: column 'age': 'old' is not a number");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\nu2,i2,40,no\n") == path + ":3: column 'clicked': 'no' is not a number");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,,1\n") ==
          path + ":2: column 'age': '' is missing, and the schema gives no value for dense column 'age' where it is missing");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,1e39,1\n") ==
          path + ":2: column 'age': '1e39' does not fit a float32 as dense column 'age'");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,1,1e39\n") ==
          path + ":2: column 'clicked': '1e39' does not fit a float32 as the label");
    clicks.schema.split = SplitByHash{.terms = {{.column = "user"}}};
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\n") == path + ":2: column 'user': 'u1' is not an integer");
    clicks.schema.ids[0].bucket = Bucket{};
    clicks.schema.split = SplitByFraction{};
    CHECK(clicks.refusal() == path + ":2: column 'user': 'u1' is not a number");
  }

  TEST_CASE("schema mistake: a line of too few or too many fields") {
    Clicks clicks;
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30\n") == clicks.clicks + ":2: 3 fields where there are 4 columns");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1,\n") == clicks.clicks + ":2: 5 fields where there are 4 columns");
    clicks.schema.file.separator = ";";
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\n").starts_with("dense column 'age': there is no such column"));
  }

  TEST_CASE("schema mistake: duplicate column, duplicate key, duplicate name, a column of two side tables") {
    Clicks header, key, name, side;
    CHECK(header.refusal_of("user,item,age,user\n") == header.clicks + ": column 'user' is there twice");
    key.folder.write("users.csv", "user,city\nu1,Ulm\nu2,Bonn\nu1,Jena\n");
    CHECK(key.refusal() == key.users + ":4: column 'user': 'u1' is there twice; it is the key of side table 'users'");
    name.schema.ids.push_back({.column = "age", .name = "user"});
    CHECK(name.refusal() == "id column 'user' is given twice; give one of them another name");
    name.schema.ids.clear();
    name.schema.dense.push_back({.column = "age"});
    CHECK(name.refusal() == "dense column 'age' is given twice; give one of them another name");
    side.schema.side_tables.push_back(side.schema.side_tables[0]);
    CHECK(side.refusal() == "side table 'users' is given twice");
    side.schema.side_tables[1].name = "people";
    CHECK(side.refusal() == "id column 'city' is in several side tables; write 'users.city' or 'people.city'");
  }

  TEST_CASE("schema mistake: no positive label, no negative label") {
    Clicks clicks;
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,0\nu2,i2,40,0\nu1,i2,50,1\n") ==
          clicks.clicks + ": column 'clicked': no positive label among the 2 training rows");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\nu2,i2,40,1\nu1,i2,50,0\n") ==
          clicks.clicks + ": column 'clicked': no negative label among the 2 training rows");
    clicks.schema.label.at_least = 10;
    CHECK(clicks.refusal() == clicks.clicks + ": column 'clicked': no positive label among the 2 training rows");
  }

  TEST_CASE("a numeric label may have any values, the training part's all the same too") {
    Clicks clicks;
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,0\nu2,i2,40,0\nu1,i2,50,2.5\n") == "");
    CHECK(clicks.refusal_of("user,item,age,clicked\nu1,i1,30,1\nu2,i2,40,1\nu1,i2,50,-3\n") == "");
    clicks.schema.label.above = 2;
    CHECK(clicks.refusal() == clicks.clicks + ": column 'clicked': no positive label among the 2 training rows");
  }

  TEST_CASE("schema mistake: nothing given where something must be") {
    const auto refusal = [](auto&& change) {
      Clicks clicks;
      change(clicks.schema);
      return clicks.refusal();
    };
    CHECK(refusal([](auto& s) { s.file.paths.clear(); }) == "file: no path is given");
    CHECK(refusal([](auto& s) { s.file.separator = ""; }) == "file: the separator is empty");
    CHECK(refusal([](auto& s) { s.file.quote = "''"; }) == "file: quote '''' must be one character or empty");
    CHECK(refusal([](auto& s) { s.file.name_ends_at = "::"; }) == "file: name_ends_at '::' must be one character or empty");
    CHECK(refusal([](auto& s) { s.file.has_header = false; }) == "file: without a header, columns must name the columns");
    CHECK(refusal([](auto& s) { s.file.columns = {"a", "b"}; }).ends_with(": the header has 4 columns, the schema gives names to 2"));
    const std::string no_label = "label: no column is given; data without labels is read with has_label = false";
    CHECK(refusal([](auto& s) { s.label.column = ""; }) == no_label);
    CHECK(refusal([](auto& s) { s.dense.clear(), s.ids.clear(); }) ==
          "schema: neither dense nor id columns are given; a model needs at least one");
    CHECK(refusal([](auto& s) { s.dense[0].column = ""; }) == "dense column: no column is given");
    CHECK(refusal([](auto& s) { s.ids[0].column = ""; }) == "id column: no column is given");
    CHECK(refusal([](auto& s) { s.side_tables[0].name = ""; }) == "side table: no name is given");
    CHECK(refusal([](auto& s) { s.side_tables[0].key = ""; }) == "side table 'users': no key is given");
    CHECK(refusal([](auto& s) { s.side_tables[0].file.paths = {}; }) == "side table 'users': no path is given");
    CHECK(refusal([](auto& s) { s.split = SplitByOrder{}; }) == "split by order: no columns are given");
    CHECK(refusal([](auto& s) { s.split = SplitByColumn{}; }) == "split by column: no column is given");
    CHECK(refusal([](auto& s) { s.split = SplitByHash{}; }) == "split by hash: no terms are given");
    CHECK(refusal([](auto& s) { s.split = SplitByHash{.terms = {{}}}; }) == "split by hash: a term has no column");
  }

  TEST_CASE("schema mistake: numbers that mean nothing") {
    const auto refusal = [](auto&& change) {
      Clicks clicks;
      change(clicks.schema);
      return clicks.refusal();
    };
    CHECK(refusal([](auto& s) { s.label.above = 1, s.label.equals = {"1"}; }) == "label: 2 comparisons are given; one is enough");
    CHECK(refusal([](auto& s) { s.dense[0].divide = 0; }) == "dense column 'age': (x - 0) / 0 is not a number");
    CHECK(refusal([](auto& s) { s.ids[0].rows = IdRows::hashed; }) == "id column 'user': num_embeddings 0 must be at least 1");
    for (const auto rows : {IdRows::hashed, IdRows::number})
      CHECK(refusal([&](auto& s) {
              s.ids[0].rows = rows;
              s.ids[0].num_embeddings = std::numeric_limits<std::int64_t>::max();
            }) == "id column 'user': num_embeddings 9223372036854775807 leaves no room for own_row");
    CHECK(refusal([](auto& s) { s.ids[0].num_embeddings = 9; }) ==
          "id column 'user': num_embeddings is given, but its rows come from the vocabulary; leave it out, or say rows = hashed or number");
    CHECK(refusal([](auto& s) { s.ids[0].seed = 9; }) == "id column 'user': seed is given, but only hashed rows use one");
    CHECK(refusal([](auto& s) { s.ids[0].first_characters = -1; }) == "id column 'user': first_characters -1 is negative");
    CHECK(refusal([](auto& s) { s.ids[0].bucket = Bucket{.width = 0}; }) == "id column 'user': the bucket's width 0 must be above 0");
    CHECK(refusal([](auto& s) {
            s.ids[2].rows = IdRows::training_part, s.ids[2].missing_texts = {"Ulm", "Bonn"}, s.ids[2].unknown = UnknownIds::empty_bag;
          }) == "id column 'city': the training part has no token of it");
  }

  TEST_CASE("schema mistake: boundaries, labels and weights that mean nothing") {
    const auto refusal = [](const TableSchema& schema) { return cases::message_of([&] { check_schema(schema); }); };
    const TableSchema right{.file = {.paths = {"x"}}, .labels = {{.column = "a"}, {.column = "b"}}, .ids = {{.column = "u"}}};
    CHECK(refusal(right) == "");
    auto wrong = right;
    wrong.ids[0].bucket = Bucket{.boundaries = {1, 1}};
    CHECK(refusal(wrong) == "id column 'u': the bucket's boundaries [1, 1] must be finite and increasing");
    wrong.ids[0].bucket = Bucket{.width = 2, .boundaries = {1, 2}};
    CHECK(refusal(wrong) == "id column 'u': a bucket has either boundaries or width and zero_apart");
    wrong = right;
    wrong.label.column = "a";
    CHECK(refusal(wrong) == "schema: label and labels are both given; one is enough");
    wrong = right;
    wrong.labels[1].name = "a";
    CHECK(refusal(wrong) == "label 'a' is given twice; give one of them another name");
    wrong.labels[1].column = "";
    CHECK(refusal(wrong) == "label: no column is given; data without labels is read with has_label = false");
  }

  TEST_CASE("schema mistake: parts of a split that cannot be") {
    const auto refusal = [](const Split& split) {
      Clicks clicks;
      clicks.schema.split = split;
      auto text = clicks.refusal();
      return text.starts_with(clicks.clicks) ? text.substr(clicks.clicks.size()) : text;
    };
    const std::vector<HashTerm> row{{.column = "(row)"}};
    CHECK(refusal(SplitByFraction{.train = 1.5}) == "split: train = 1.5 must be a share from 0 to 1; a number of rows is an integer");
    CHECK(refusal(SplitByFraction{.train = std::int64_t{-1}}) == "split: train = -1 rows is negative");
    CHECK(refusal(SplitByFraction{.train = std::int64_t{4}}) == "split: train = 4 rows, but the table has 3");
    CHECK(refusal(SplitByFraction{.train = 0.0}) == "split: no row of 3 is left to train on");
    CHECK(refusal(SplitByFraction{.train = 0.9, .validation = 0.2}) == "split: validation = 0.2 does not fit beside train = 0.9");
    CHECK(refusal(SplitByFraction{.train = 0.1, .validation = 0.2, .validation_in_train = true}) ==
          "split: validation = 0.2 does not fit in train = 0.1");
    CHECK(refusal(SplitByFraction{.train = std::int64_t{2}, .validation = std::int64_t{2}}) ==
          "split: validation = 2 rows, but only 1 are there for it");
    CHECK(refusal(SplitByHash{.terms = row, .test = {8, 9, 10}}) == "split by hash: residue 10 does not occur with modulus 10");
    CHECK(refusal(SplitByHash{.terms = row, .test = {8}}) == "split by hash: residue 9 is in no part; add it to train, validation or test");
    CHECK(refusal(SplitByHash{.terms = row, .shift = 32}) == "split by hash: shift 32 must be from 0 to 31");
    CHECK(refusal(SplitByHash{.terms = row, .modulus = 0}) == "split by hash: modulus 0 must be from 1 to 1000000");
    CHECK(refusal(SplitByColumn{.column = "age", .train = {"30"}, .test = {"40"}}) ==
          ":4: column 'age': '50' is in no part of the split; add it to train, validation or test");
    CHECK(refusal(SplitByColumn{.column = "age", .test = {"30", "40", "50"}}) == "split: no row of 3 is left to train on");
  }
}

TEST_SUITE("data/suggest") {
  TEST_CASE("the nearest name is suggested where one is near, else all are listed") {
    const std::vector<std::string> names{"width", "zero_apart"};
    CHECK(suggestion("widht", names) == "; did you mean 'width'?");
    CHECK(suggestion("zero_appart", names) == "; did you mean 'zero_apart'?");
    CHECK(suggestion("seed", names) == "; there are [width, zero_apart]");
    CHECK(suggestion("x", names) == "; there are [width, zero_apart]");
    CHECK(suggestion("x", {}) == "");
    CHECK(rookery::detail::edit_distance("kitten", "sitting") == 3);
    CHECK(rookery::detail::edit_distance("", "abc") == 3);
  }
}
