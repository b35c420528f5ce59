// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Schemas out of TOML: what each key becomes, what each mistake says, and the two schemas that the examples ship.

#include "../../examples/applications/schema_toml.hpp"

#include <rookery/data/table_reader.hpp>

#include <filesystem>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using examples::parse_schema;

namespace {

const auto applications = std::filesystem::path(__FILE__).parent_path() / "../../examples/applications";

std::string refusal_of(std::string_view text) {
  return cases::message_of([&] { parse_schema(text, "my.toml", "data"); });
}

/// The refusal of `text` below the three lines that every schema needs.
std::string refusal_below(std::string_view text) { return refusal_of(concat("file = 'a.csv'\nlabel = 'y'\ndense = ['x']\n", text)); }

}  // namespace

TEST_SUITE("examples/schema_toml") {
  TEST_CASE("three lines are a schema") {
    const auto schema =
        parse_schema("file = 'clicks.csv'\nlabel = 'clicked'\nids = ['user', {column = 'tags', separator = '|'}]\n", "my.toml", "data");
    CHECK(schema.file.paths == std::vector<std::string>{"data/clicks.csv"});
    CHECK(schema.file.separator == ",");
    CHECK(schema.file.has_header);
    CHECK(schema.label.column == "clicked");
    CHECK(schema.ids.size() == 2);
    CHECK(schema.ids[0].column == "user");
    CHECK(schema.ids[1].separator == "|");
    CHECK(std::get<double>(std::get<SplitByFraction>(schema.split).train) == 0.8);
  }

  TEST_CASE("every key is a member of the schema") {
    const auto schema = parse_schema(R"toml(
      has_label = false
      group = {column = "u"}
      [file]
      paths = ["a.csv", "/b.csv"]
      separator = "::"
      quote = ""
      has_header = false
      columns = ["u", "f", "y"]
      name_ends_at = ":"
      [label]
      column = "y"
      equals = [">50K", ">50K."]
      [[dense]]
      column = "f"
      name = "g"
      transform = "signed_log1p"
      subtract = 1
      divide = 2.5
      missing = -1
      missing_texts = ["", "?"]
      [[ids]]
      column = "u"
      name = "v"
      separator = "|"
      first_characters = 3
      bucket = {width = 5, zero_apart = true}
      rows = "hashed"
      num_embeddings = 1000
      seed = 9
      missing_texts = "-"
      unknown = "empty_bag"
      [[side_tables]]
      name = "users"
      paths = "u.csv"
      separator = ";"
      key = "id"
      column = "u"
      unknown = "missing"
      [split]
      by = "hash"
      terms = ["u", {column = "(row)", multiplier = 2654435761, add = 3}]
      shift = 16
      modulus = 4
      train = [0, 1]
      validation = 1
      test = [2, 3]
    )toml",
                                     "my.toml", "data");
    CHECK(schema.file.paths == std::vector<std::string>{"data/a.csv", "/b.csv"});
    CHECK(schema.file.separator == "::");
    CHECK(schema.file.quote == "");
    CHECK(!schema.file.has_header);
    CHECK(schema.file.columns == std::vector<std::string>{"u", "f", "y"});
    CHECK(schema.file.name_ends_at == ":");
    CHECK(!schema.has_label);
    CHECK(schema.group.column == "u");
    CHECK(schema.label.equals == std::vector<std::string>{">50K", ">50K."});
    const auto& dense = schema.dense.at(0);
    CHECK(dense.name == "g");
    CHECK(dense.transform == DenseTransform::signed_log1p);
    CHECK(dense.subtract == 1);
    CHECK(dense.divide == 2.5);
    CHECK(dense.missing == -1);
    CHECK(dense.missing_texts == std::vector<std::string>{"", "?"});
    const auto& id = schema.ids.at(0);
    CHECK(id.name == "v");
    CHECK(id.separator == "|");
    CHECK(id.first_characters == 3);
    CHECK(id.bucket->width == 5);
    CHECK(id.bucket->zero_apart);
    CHECK(id.rows == IdRows::hashed);
    CHECK(id.num_embeddings == 1000);
    CHECK(id.seed == 9);
    CHECK(id.missing_texts == std::vector<std::string>{"-"});
    CHECK(id.unknown == UnknownIds::empty_bag);
    const auto& side = schema.side_tables.at(0);
    CHECK(side.name == "users");
    CHECK(side.file.paths == std::vector<std::string>{"data/u.csv"});
    CHECK(side.file.separator == ";");
    CHECK(side.key == "id");
    CHECK(side.column == "u");
    CHECK(side.unknown == UnknownKeys::missing);
    const auto& split = std::get<SplitByHash>(schema.split);
    CHECK(split.terms.at(0).column == "u");
    CHECK(split.terms.at(0).multiplier == 1);
    CHECK(split.terms.at(1).multiplier == 2654435761);
    CHECK(split.terms.at(1).add == 3);
    CHECK(split.shift == 16);
    CHECK(split.modulus == 4);
    CHECK(split.train == std::vector<std::int64_t>{0, 1});
    CHECK(split.validation == std::vector<std::int64_t>{1});
    CHECK(split.test == std::vector<std::int64_t>{2, 3});
  }

  TEST_CASE("several labels, a weight column and boundaries of a bucket") {
    const auto schema = parse_schema(R"toml(
      file = "a.csv"
      labels = ["clicked", {column = "seconds", name = "watched", above = 30}]
      weight = "times"
      ids = [{column = "age", bucket = {boundaries = [18, 30.5, 65]}}]
    )toml",
                                     "my.toml", "data");
    CHECK(schema.labels.size() == 2);
    CHECK(schema.labels[0].column == "clicked");
    CHECK(schema.labels[1].name == "watched");
    CHECK(schema.labels[1].above == 30);
    CHECK(schema.weight == "times");
    CHECK(schema.ids[0].bucket->boundaries == std::vector<double>{18, 30.5, 65});
  }

  TEST_CASE("the other splits and comparisons") {
    const auto split_of = [](std::string_view text) {
      return parse_schema(concat("file = 'a.csv'\nlabel = {column = 'y', at_least = 4}\ndense = ['x']\n", text), "my.toml", "").split;
    };
    const auto order =
        std::get<SplitByOrder>(split_of("split = {by='order', columns=['t', 'u'], train=80000, validation=0.1, validation_in_train=true}"));
    CHECK(order.columns == std::vector<std::string>{"t", "u"});
    CHECK(std::get<std::int64_t>(order.train) == 80000);
    CHECK(std::get<double>(order.validation) == 0.1);
    CHECK(order.validation_in_train);
    const auto fraction = std::get<SplitByFraction>(split_of("split = {by = 'fraction', train = 0.9, seed = 3}"));
    CHECK(std::get<double>(fraction.train) == 0.9);
    CHECK(fraction.seed == 3);
    const auto column = std::get<SplitByColumn>(split_of("split = {by = 'column', column = 'fold', train = ['0', '1'], test = '2'}"));
    CHECK(column.column == "fold");
    CHECK(column.train == std::vector<std::string>{"0", "1"});
    CHECK(column.test == std::vector<std::string>{"2"});
    const auto label_of = [](std::string_view text) {
      return parse_schema(concat("file = 'a.csv'\ndense = ['x']\nlabel = {column = 'y', ", text, "}"), "my.toml", "").label;
    };
    CHECK(label_of("at_least = 4").at_least == 4);
    CHECK(label_of("above = 4.5").above == 4.5);
    CHECK(label_of("at_most = 4").at_most == 4);
    CHECK(label_of("below = 4").below == 4);
  }

  TEST_CASE("D8 unknown key: its line and the key that was meant") {
    CHECK(refusal_of("file = 'a.csv'\nlabl = 'y'") == "my.toml:2: unknown key 'labl'; did you mean 'label'?");
    CHECK(refusal_below("[[ids]]\ncolum = 'u'\n") == "my.toml:5: ids: unknown key 'colum'; did you mean 'column'?");
    CHECK(refusal_below("ids = ['u',\n  {column = 'v', frist_characters = 3}]") ==
          "my.toml:5: ids: unknown key 'frist_characters'; did you mean 'first_characters'?");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\n[ids.bucket]\nsize = 3") ==
          "my.toml:7: ids.bucket: unknown key 'size'; there are [boundaries, width, zero_apart]");
    CHECK(refusal_below("[split]\nby = 'order'\ncolumns = 't'\nseed = 1") ==
          "my.toml:7: split: unknown key 'seed'; there are [by, columns, train, validation, validation_in_train]");
    CHECK(refusal_below("[split]\nby = 'odrer'") == "my.toml:5: split: 'by' cannot be 'odrer'; did you mean 'order'?");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\nrows = 'vocabulary'") ==
          "my.toml:6: ids: 'rows' cannot be 'vocabulary'; there are [whole_file, training_part, hashed, number]");
  }

  TEST_CASE("D8 wrong type: its line, what it must be and what it is") {
    CHECK(refusal_of("file = 3") == "my.toml:1: 'file' must be a table or a text, not an integer");
    CHECK(refusal_of("file = 'a.csv'\n[[label]]\ncolumn = 'y'") == "my.toml:2: 'label' must be a table or a text, not a list");
    CHECK(refusal_below("[ids]\ncolumn = 'u'") == "my.toml:4: 'ids' must be a list, not a table; write [[ids]] above it");
    CHECK(refusal_below("ids = [1]") == "my.toml:4: 'ids' must be a table or a text, not an integer");
    CHECK(refusal_below("[[ids]]\ncolumn = 3") == "my.toml:5: ids: 'column' must be a text, not an integer");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\nfirst_characters = '3'") ==
          "my.toml:6: ids: 'first_characters' must be an integer, not a text");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\nbucket = 3") == "my.toml:6: ids: 'bucket' must be a table, not an integer");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\nseed = -1") == "my.toml:6: ids: 'seed' is -1; it must not be negative");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\nmissing_texts = ['a', true]") ==
          "my.toml:6: ids: 'missing_texts' must be a list of texts, not true or false");
    CHECK(refusal_of("file = 'a.csv'\nlabel = {column = 'y', at_least = '4'}") ==
          "my.toml:2: label: 'at_least' must be a number, not a text");
    CHECK(refusal_of("[file]\npaths = 'a.csv'\nhas_header = 1") == "my.toml:3: file: 'has_header' must be true or false, not an integer");
    CHECK(refusal_below("split = {by = 'hash', terms = 'u', train = 0.5}") ==
          "my.toml:4: split: 'terms' must be a list, not a text; write [[terms]] above it");
    CHECK(refusal_below("split = {by = 'hash', terms = ['u'], train = 0.5}") ==
          "my.toml:4: split: 'train' must be an integer or a list of integers, not a number with a fraction");
  }

  TEST_CASE("D8 duplicate key, 1e400, inf, broken text: the line") {
    CHECK(refusal_of("file = 'a.csv'\nfile = 'b.csv'").starts_with("my.toml:2: "));
    CHECK(refusal_of("file = 'a.csv'\nlabel = {column = 'y',\n").starts_with("my.toml:2: "));
    CHECK(refusal_of("file = 'a.csv'\nlabel = {column = 'y', at_least = 1e400}").starts_with("my.toml:2: "));
    CHECK(refusal_of("file = 'a.csv'\nlabel = {column = 'y', at_least = inf}") == "my.toml:2: label: 'at_least' must be a finite number");
    CHECK(refusal_of("file = 'a.csv'\nlabel = {column = 'y', at_least = nan}") == "my.toml:2: label: 'at_least' must be a finite number");
  }

  TEST_CASE("D8 texts on which toml++ fails an assertion are refused") {
    for (const std::string text : {"[", "[[", "[ =", "[\n[split]", "split = \n"}) CHECK(refusal_below(text).starts_with("my.toml:"));
  }

  TEST_CASE("D8 missing file") {
    CHECK(cases::message_of([] { examples::load_schema("none/my.toml"); }) ==
          "none/my.toml: the file cannot be opened: No such file or directory");
  }

  TEST_CASE("what the schema itself refuses has the line of its entry") {
    CHECK(refusal_of("") == "my.toml: file: no path is given");
    CHECK(refusal_of("file = 'a.csv'") == "my.toml: label: no column is given; data without labels is read with has_label = false");
    CHECK(refusal_of("file = 'a.csv'\nlabel = 'y'") ==
          "my.toml: schema: neither dense nor id columns are given; a model needs at least one");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\n[[ids]]\ncolumn = 'u'") ==
          "my.toml:6: id column 'u' is given twice; give one of them another name");
    CHECK(refusal_below("[[ids]]\ncolumn = 'u'\n[[ids]]\ncolumn = 'v'\nrows = 'number'") ==
          "my.toml:6: id column 'v': num_embeddings 0 must be at least 1");
    CHECK(refusal_below("[split]\nby = 'hash'\nterms = ['u']\ntest = [8, 10]") ==
          "my.toml:4: split by hash: residue 10 does not occur with modulus 10");
    CHECK(refusal_below("[[side_tables]]\npaths = 'u.csv'\nkey = 'id'") == "my.toml:4: side table: no name is given");
  }

  TEST_CASE("a column that the data does not have, or of another kind, is named with the schema's line") {
    const cases::Folder folder;
    folder.write("a.csv", "user,age,rating,clicked\na,x1,5,1\nb,22,4,0\nc,23,1,1\n");
    const auto refusal = [&](std::string_view text) {
      const auto schema = folder.write("my.toml", text);
      auto said = cases::message_of([&] { examples::load_clicks(schema); });
      const auto front = folder.path("");
      for (auto at = said.find(front); at != said.npos; at = said.find(front)) said.erase(at, front.size());
      return said;
    };
    CHECK(refusal("file = 'a.csv'\nlabel = 'clicked'\nids = ['user']\n") == "");
    CHECK(refusal("file = 'a.csv'\n# 'klicked'\nlabel = 'klicked'\nids = ['user']\n") ==
          "my.toml:3: label 'klicked': there is no such column in a.csv; did you mean 'clicked'?");
    CHECK(refusal("file = \"a.csv\"\nlabel = \"clicked\"\nids = [\"usr\"]\n") ==
          "my.toml:3: id column 'usr': there is no such column in a.csv; did you mean 'user'?");
    CHECK(refusal("file = 'a.csv'\n\nlabel = 'age'\nids = ['user']\n") ==
          "a.csv:2: column 'age': 'x1' is not a number; the schema names it in my.toml:3");
    CHECK(refusal("file = 'a.csv'\nids = ['user']\n") ==
          "my.toml: label: no column is given; data without labels is read with has_label = false");
    CHECK(refusal("file = 'a.csv'\nids = ['user']\nhas_label = false\n") == "my.toml: has_label = false; clicks are labels");
    CHECK(refusal("file = 'a.csv'\nids = ['user']\nlabel = 'clicked'\ngroup = 'usr'\n") ==
          "my.toml:4: group 'usr': there is no such column in a.csv; did you mean 'user'?");
    CHECK(refusal("file = 'a.csv'\nids = ['user']\nlabel = 'rating'\n") ==
          "my.toml:3: label 'rating' is 5 in row 0; clicks are 0 or 1: give it a comparison, such as at_least = 4");
    CHECK(refusal("file = 'b.csv'\nids = ['user']\nlabel = 'rating'\n") == "b.csv: the file cannot be opened: No such file or directory");
  }

  TEST_CASE("movielens.toml: the hash split and the vocabularies of MovieLens-100k") {
    if (!std::filesystem::exists(cases::movielens_folder() / "ml-100k.inter")) {
      MESSAGE("skipped: there is no MovieLens-100k in " << cases::movielens_folder().string());
      return;
    }
    const TableReader reader{examples::load_schema(applications / "movielens.toml", cases::movielens_folder()),
                             {.batch_size = 256, .seed = 7}};
    CHECK(reader.table()->rows() == 100'000);
    CHECK(reader.rows(Part::train) == 79'902);
    CHECK(reader.rows(Part::test) == 20'098);
    CHECK(reader.dense_names() == std::vector<std::string>{"age", "year"});
    std::vector<std::string> names;
    std::vector<std::int64_t> rows;
    for (const auto& feature : reader.features()) {
      names.push_back(feature.name);
      rows.push_back(feature.num_embeddings);
      CHECK(feature.is_multi_hot == (feature.name == "genres"));
      CHECK(feature.unknown_ids == 0);
    }
    CHECK(names == std::vector<std::string>{"user", "item", "age", "gender", "occupation", "zip", "year", "genres"});
    CHECK(rows == std::vector<std::int64_t>{943, 1682, 61, 2, 21, 382, 73, 19});

    // What is known of the data: 55.4 % positive, 1 to 6 genres a film, mean 2.1; in the file's first line user 196 (49, M, writer,
    // 55105) gives item 242 (Kolya, 1996, a comedy) three stars.
    double positive = 0, genres = 0;
    for (const auto label : reader.table()->labels()) positive += label;
    CHECK(positive / 1e5 == doctest::Approx(0.554).epsilon(0.001));
    const auto batch = batch_of(*reader.table(), std::vector<std::int64_t>{0});
    CHECK(batch.labels[0].item<float>() == 0);
    CHECK(batch.dense[0][0].item<float>() == doctest::Approx((49.0 - 33) / 12));
    CHECK(batch.dense[0][1].item<float>() == doctest::Approx((1996.0 - 1989) / 14));
    CHECK(batch.ids["genres"].values().numel() == 1);
    for (const TableBatch& each : reader.epoch(Part::train)) genres += static_cast<double>(each.ids["genres"].values().numel());
    CHECK(genres / 79'902 > 2);
  }

  TEST_CASE("movielens.toml with the split by time: 80,000 rows train, the last 8,000 of them validate") {
    if (!std::filesystem::exists(cases::movielens_folder() / "ml-100k.inter")) {
      MESSAGE("skipped: there is no MovieLens-100k in " << cases::movielens_folder().string());
      return;
    }
    auto schema = examples::load_schema(applications / "movielens.toml", cases::movielens_folder());
    schema.split = SplitByOrder{.columns = {"timestamp", "user_id", "item_id"},
                                .train = std::int64_t{80'000},
                                .validation = std::int64_t{8'000},
                                .validation_in_train = true};
    const TableReader reader{schema, {}};
    CHECK(reader.rows(Part::train) == 80'000);
    CHECK(reader.rows(Part::validation) == 8'000);
    CHECK(reader.rows(Part::test) == 20'000);
    // 85 % of the test rows belong to users that training never saw.
    const auto& users = reader.table()->ids()[0];
    const auto user_of = [&](std::int64_t row) { return users.bag(reader.table()->row_in(users.table, row))[0]; };
    std::set<std::int64_t> trained;
    for (const auto row : reader.table()->part(Part::train)) trained.insert(user_of(row));
    double unseen = 0;
    for (const auto row : reader.table()->part(Part::test)) unseen += !trained.contains(user_of(row));
    CHECK(unseen / 20'000 == doctest::Approx(0.85).epsilon(0.01));
  }

  TEST_CASE("adult.toml: twelve features and 6,510 test rows") {
    const auto folder = cases::data_folder() / "adult";
    if (!std::filesystem::exists(folder / "adult.data")) {
      MESSAGE("skipped: there is no adult.data in " << folder.string());
      return;
    }
    const TableReader reader{examples::load_schema(applications / "adult.toml", folder), {}};
    CHECK(reader.table()->rows() == 32'561);
    CHECK(reader.rows(Part::test) == 6'510);
    CHECK(reader.features().size() == 12);
    double positive = 0;
    for (const auto label : reader.table()->labels()) positive += label;
    CHECK(positive == 7'841);  // 24.1 %
    std::vector<std::int64_t> rows;
    for (const auto& feature : reader.features()) rows.push_back(feature.num_embeddings);
    CHECK(rows == std::vector<std::int64_t>{26, 9, 16, 7, 15, 6, 5, 2, 24, 32, 20, 42});
  }
}
