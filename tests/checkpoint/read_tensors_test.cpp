// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/checkpoint/read_tensors.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/checkpoint/formats/safetensors.hpp>
#include <rookery/checkpoint/formats/stored_tensor.hpp>
#include <rookery/checkpoint/formats/torch_pickle.hpp>
#include <rookery/checkpoint/formats/zip.hpp>

#include "checkpoint/python_files.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

std::string little(std::uint64_t value, int size) {
  std::string bytes;
  for (int i = 0; i < size; ++i) bytes += static_cast<char>(i < 8 ? value >> (8 * i) & 0xFF : 0);
  return bytes;
}
std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
Bytes bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string safetensors(std::string_view header, std::size_t numbers) {
  return little(header.size(), 8) + std::string(header) + std::string(numbers, '\0');
}

struct Record {
  std::string name, data;
  std::uint64_t offset = ~std::uint64_t{0};                                         // where the directory says it is, if not where it is
};
/// An archive as torch.save writes it.
std::string zip(const std::vector<Record>& records) {
  std::string archive, directory;
  for (const auto& [name, data, offset] : records) {
    const auto at = offset == ~std::uint64_t{0} ? archive.size() : offset;
    const auto sizes = little(0, 4) + little(data.size(), 4) + little(data.size(), 4) + little(name.size(), 2) + little(0, 2);
    archive += "PK\3\4" + little(0, 10) + sizes + name + data;
    directory += "PK\1\2" + little(0, 12) + sizes + little(0, 10) + little(at, 4) + name;
  }
  const auto begin = archive.size();
  return archive + directory + "PK\5\6" + little(0, 4) + little(records.size(), 2) + little(records.size(), 2) +
         little(directory.size(), 4) + little(begin, 4) + little(0, 2);
}

std::string global(std::string_view module, std::string_view name) { return concat("c", module, "\n", name, "\n"); }
std::string text(std::string_view value) { return "X" + little(value.size(), 4) + std::string(value); }
std::string integer(std::int64_t value) { return "\x8a\x08" + little(static_cast<std::uint64_t>(value), 8); }
std::string tuple(const std::vector<std::int64_t>& values) {
  std::string all = "(";
  for (const auto value : values) all += integer(value);
  return all + "t";
}
std::string storage(std::int64_t count, std::string_view type = "FloatStorage", std::string_view key = "0") {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(count) + "tQ";
}
std::string tensor(const std::string& of, std::int64_t offset, const std::vector<std::int64_t>& shape,
                   const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + of + integer(offset) + tuple(shape) + tuple(strides) + "\x89}tR";
}
std::string weight(const std::string& value) { return "\x80\x02}(" + text("weight") + value + "u."; }
/// A file of torch.save with this pickle and one storage of six float numbers.
std::string saved(const std::string& pickle) {
  return zip({{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", std::string(24, '\0')}});
}

std::string torch_error(const std::string& file) {
  return cases::message_of([&] { parse_torch_pickle(bytes(file)); });
}
std::string pickle_error(const std::string& pickle) { return torch_error(saved(pickle)); }
std::string safetensors_error(const std::string& file) {
  return cases::message_of([&] { parse_safetensors(bytes(file)); });
}
/// Reads as a user would; what is accepted has its numbers inside the file. Errors other than DataError escape.
void survive(std::string_view file) {
  try {
    double sum = 0;
    for (const auto& tensor : detail::parse_tensors(bytes(file)))
      if (!tensor.bytes.empty() && checked_count(tensor.name, tensor.shape) > 0)
        sum += std::to_integer<int>(tensor.bytes.front()) + std::to_integer<int>(tensor.bytes.back());
    CHECK(sum >= 0);
  } catch (const DataError& error) {
    CHECK(error.what()[0] != '\0');
  }
}
/// Every prefix of the file, and the file with bytes changed at random.
void shake(const std::string& file, int rounds) {
  for (std::size_t length = 0; length < file.size(); length += file.size() > 4000 ? 7 : 1)
    survive(std::string_view(file).substr(0, length));
  std::mt19937 draw(1);
  for (int round = 0; round < rounds; ++round) {
    auto changed = file;
    for (int n = 0; n < 1 + round % 4; ++n) changed[draw() % changed.size()] = static_cast<char>(round % 3 == 0 ? 0xFF : draw());
    survive(changed);
  }
}

}  // namespace

TEST_SUITE("checkpoint/read_tensors") {
  TEST_CASE("tensors come back as Python wrote them, views and all") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    std::map<std::string, at::Tensor> tensors;
    for (const auto& [name, tensor] : read_tensors(cases::python_files().path("views.pt"))) tensors[name] = tensor;
    const auto base = at::arange(24, at::kFloat);                                   // [24]
    CHECK(tensors.at("t").equal(base.view({4, 6}).t()));
    CHECK(tensors.at("row").equal(base.narrow(0, 6, 6)));
    CHECK(tensors.at("step").equal(base.slice(0, 1, 24, 5)));
    CHECK(tensors.at("one").item<float>() == 2.5F);
    CHECK(tensors.at("none").sizes() == at::IntArrayRef{0, 3});
    CHECK(tensors.at("same").equal(base));
    CHECK(tensors.at("wide").sum().item<double>() == 1e6);
    CHECK(tensors.at("long").equal(at::arange(-2, 3)));
    CHECK(tensors.at("bool").equal(at::tensor({1, 0}).to(at::kBool)));
    tensors.at("same").zero_();                                                     // in memory only
    CHECK(read_tensors(cases::python_files().path("views.pt"))[0].tensor.equal(base.view({4, 6}).t()));
  }
  TEST_CASE("files of Python that are no plain tensors are refused, and nothing in them runs") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const auto& python = cases::python_files();
    const auto refusal = [&](const std::string& name) {
      const auto message = cases::message_of([&] { read_tensors(python.path(name)); });
      const auto begin = concat("read_tensors: '", python.path(name), "': ");
      CHECK(message.starts_with(begin));
      return message.substr(std::min(begin.size(), message.size()));
    };
    const std::string rest = ", which no weights need; it was not executed. Save a state_dict of plain tensors";
    CHECK(refusal("system.pt") == "the pickle refers to posix.system" + rest);
    CHECK(refusal("eval.pt") == "the pickle refers to __builtin__.eval" + rest);
    CHECK(refusal("module.pt") == "the pickle refers to __main__.Dense" + rest);
    CHECK(refusal("sparse.pt") == "the pickle refers to torch._utils._rebuild_sparse_tensor" + rest);
    CHECK(refusal("protocol4.pt") == "the pickle has protocol 4; torch.save writes 2 unless it is asked for another");
    CHECK(refusal("legacy.pt") == "it is of a torch.save before version 1.6; load it there and save it again");
    CHECK(refusal("script.pt").find("as torch.jit.save does") != std::string::npos);
    CHECK(!std::filesystem::exists(python.path("owned")));
  }
  TEST_CASE("archives that are made wrong are refused in a sentence") {
    const auto good = weight(tensor(storage(6), 0, {2, 3}, {3, 1}));
    const auto parsed = saved(good);
    REQUIRE(torch_error(parsed).empty());
    CHECK(parse_torch_pickle(bytes(parsed)).at(0).shape == std::vector<std::int64_t>{2, 3});
    CHECK(torch_error("PK") == "the ZIP archive has 2 bytes, too few for one");
    const std::string no_end = "the ZIP archive has no end record: it is cut off, or something was appended";
    CHECK(torch_error(parsed.substr(0, parsed.size() - 1)) == no_end);
    CHECK(torch_error(parsed + "x") == no_end);
    CHECK(torch_error(zip({{"m/data", ""}})) == "the archive has no data.pkl; torch.save writes one");
    CHECK(torch_error(zip({{"m/data.pkl", good}, {"m/byteorder", "big"}})) == "the archive is not little-endian");
    CHECK(torch_error(zip({{"m/data.pkl", good}})) == "the archive has no record 'm/data/0', which its pickle refers to");
    CHECK(torch_error(zip({{"a", "x"}, {"a", "x"}})) == "the ZIP archive has two records 'a'");
    CHECK(torch_error(zip({{"a", "x"}, {"b", "x", 0}})) == "two records of the ZIP archive overlap at byte 0");
    CHECK(torch_error(zip({{"a", "x", 1}})) == "'a' does not begin where the ZIP archive's directory says");
    CHECK(torch_error(zip({{"a", "x", 4'000'000'000}})) ==
          "the ZIP archive's 'a' would lie at byte 4000000000 with 30 bytes; the file has 101");
    auto packed = zip({{"a", "x"}});
    packed[packed.find("PK\1\2") + 10] = 8;
    CHECK(torch_error(packed) ==
          "'a' is packed or encrypted in the ZIP archive, as torch.jit.save does; torch.save of a state_dict does not");
    auto long_record = zip({{"a", "x"}});
    for (const int field : {20, 24}) long_record[long_record.find("PK\1\2") + static_cast<std::size_t>(field) + 3] = 0x7F;
    CHECK(torch_error(long_record) == "the ZIP archive's 'a' would lie at byte 31 with 2130706433 bytes; the file has 101");
  }
  TEST_CASE("pickles that are made wrong are refused in a sentence") {
    CHECK(pickle_error(weight(tensor(storage(7), 0, {7}, {1}))) == "'m/data/0' has 24 bytes, too few for 7 numbers of 4");
    CHECK(pickle_error(weight(tensor(storage(std::int64_t{1} << 61), 0, {1}, {1}))).find("is too large") != std::string::npos);
    CHECK(pickle_error(weight(tensor(storage(-1), 0, {1}, {1}))) == "'m/data/0' has shape [-1]");
    for (const auto& [offset, shape, strides] : std::vector<std::tuple<std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>>{
             {1, {2, 3}, {3, 1}},
             {6, {1}, {1}},
             {0, {2, 3}, {4, 1}},
             {0, {3}, {-1}},
             {0, {3, 3}, {std::int64_t{1} << 62, std::int64_t{1} << 62}},
             {0, {3}, {std::int64_t{1} << 62}}}) {
      const auto message = pickle_error(weight(tensor(storage(6), offset, shape, strides)));
      CHECK(message.find("reaches beyond its storage of 6 numbers") != std::string::npos);
    }
    for (const auto& wrong : {tensor(storage(6), 7, {0}, {1}), tensor(storage(6), -1, {1}, {1}), tensor(storage(6), 0, {2, 3}, {1})})
      CHECK(pickle_error(weight(wrong)).find(" and offset ") != std::string::npos);
    const std::int64_t large = std::int64_t{1} << 40;
    CHECK(pickle_error(weight(tensor(storage(6), 0, {large, large}, {0, 0}))).find("is too large") != std::string::npos);
    CHECK(pickle_error(weight(tensor(storage(6), 0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1))))
              .find("has 65 dimensions") != std::string::npos);
    CHECK(pickle_error(weight(tensor(storage(6, "OrderedDict"), 0, {1}, {1}))).find("torch.OrderedDict") != std::string::npos);
    CHECK(pickle_error(weight(global("posix", "system") + text("touch owned") + "\x85R")).find("posix.system") != std::string::npos);
    CHECK(pickle_error(weight(global("torch", "FloatStorage") + ")R")) ==
          "the pickle gives FloatStorage 0 arguments, which it does not take");
    CHECK(pickle_error("\x80\x02}") == "the pickle is cut off: 1 bytes are to follow at byte 3, 0 do");
    CHECK(pickle_error("\x80\x02\x8c") == "the pickle has an instruction that no weights need, number 140 at byte 2");
    CHECK(pickle_error("\x80\x02.") == "the pickle takes a value at byte 3 where there is none");
    CHECK(pickle_error("\x80\x02u.") == "the pickle ends a list at byte 3 that it did not begin");
    CHECK(pickle_error("\x80\x02h\x05.") == "the pickle refers at byte 4 to a value that it did not keep");
    CHECK(pickle_error("\x80\x02}(Nu.").find("a name without a value") != std::string::npos);
    CHECK(pickle_error("\x80\x02}(NNu.").find("a key under '' that is no name") != std::string::npos);
    CHECK(pickle_error("\x80\x02}q\x01(" + text("a") + "h\x01u.") ==
          "the pickle has one list or dictionary in several places, again at 'a'");      // it holds itself
    const auto nested = [](int depth, std::string_view name) {
      std::string pickle = "\x80\x02";
      for (int i = 0; i < depth; ++i) pickle += "}" + text(name);
      return pickle + tensor(storage(6), 0, {1}, {1}) + std::string(static_cast<std::size_t>(depth), 's') + ".";
    };
    CHECK(pickle_error(nested(64, "a")).empty());
    const auto names = [](int count) {
      std::string path = "a";
      for (int i = 1; i < count; ++i) path += ".a";
      return path;
    };
    CHECK(pickle_error(nested(65, "a")) == "the pickle nests more than 64 lists and dictionaries, at '" + names(64).substr(0, 64) + "'");
    CHECK(pickle_error(nested(100'000, "a")).starts_with("the pickle nests more than 64 lists and dictionaries, at 'a.a."));
    CHECK(pickle_error(nested(100'000, "")) == "the pickle nests more than 64 lists and dictionaries, at ''");
    CHECK(pickle_error(nested(2, std::string(600, 'n'))) ==
          "the pickle has a name of more than 1024 bytes under '" + std::string(64, 'n') + "'");
    CHECK(pickle_error("\x80\x02}" + text(std::string(2000, 'n')) + "Ns.").empty());     // a long name of no tensor
    CHECK(torch_error(zip({{"m/data.pkl", std::string((16U << 20U) + 1, 'N')}})) ==
          "'m/data.pkl' has 16777217 bytes; at most 16777216 are read");
    const auto none = [](std::size_t count) { return "\x80\x02](" + std::string(count, 'N') + "e."; };
    CHECK(pickle_error(none(999'999)).empty());
    CHECK(pickle_error(none(4'000'000)) == "the pickle has more than 1000000 values at byte 1000004");
    const auto recalled = [](int count) {                                           // one tensor, named again and again
      std::string pickle = "\x80\x02](" + tensor(storage(6), 0, {1}, {1}) + "q\x01";
      for (int i = 1; i < count; ++i) pickle += "h\x01";
      return pickle + "e.";
    };
    CHECK(pickle_error(recalled(100'000)).empty());
    CHECK(pickle_error(recalled(2'000'000)) == "the pickle has more than 100000 tensors, again at '100000'");
    std::string wide = weight("](" + std::string(20, ')') + "e");                   // a list of nothing is nothing
    CHECK(pickle_error(wide).empty());
  }
  TEST_CASE("safetensors that are made wrong are refused in a sentence") {
    const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
    REQUIRE(safetensors_error(safetensors("{" + a + "}  ", 8)).empty());
    const std::string first = R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)";
    REQUIRE(safetensors_error(safetensors(first + a + "}", 8)).empty());
    CHECK(safetensors_error("{}") == "the safetensors file is cut off: 8 bytes are to follow at byte 0, 2 do");
    CHECK(safetensors_error(little(~std::uint64_t{0}, 8) + "{}") ==
          "the safetensors header would have 18446744073709551615 bytes; the format allows 100000000");
    CHECK(safetensors_error(little(1000, 8) + "{}") == "the safetensors file is cut off: 1000 bytes are to follow at byte 8, 2 do");
    CHECK(safetensors_error(safetensors("{" + a, 8)).starts_with("the safetensors header is no JSON: "));
    CHECK(safetensors_error(safetensors("[]", 0)) == "the safetensors header is no JSON object");
    CHECK(safetensors_error(safetensors("{" + a + "," + a + "}", 8)) == "the safetensors header has 'a' twice");
    CHECK(safetensors_error(safetensors("{" + std::string(R"("b":)") + std::string(1000, '[') + "}", 0)) ==
          "the safetensors header nests deeper than the format does");
    const auto entry = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
      return safetensors(concat(R"({"a":{"dtype":)", dtype, R"(,"shape":)", shape, R"(,"data_offsets":)", offsets, "}}"), 8);
    };
    CHECK(safetensors_error(entry("\"F31\"", "[2]", "[0,8]")) == "'a' has dtype \"F31\" in the safetensors header");
    CHECK(safetensors_error(entry("7", "[2]", "[0,8]")) == "'a' has dtype 7 in the safetensors header");
    CHECK(safetensors_error(entry("\"F32\"", "2", "[0,8]")) == "'a' has no list 'shape' in the safetensors header");
    for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[9223372036854775808]", "[1e30]"})
      CHECK(safetensors_error(entry("\"F32\"", shape, "[0,8]")) == "'a' has 'shape' of what are no sizes in the safetensors header");
    const auto huge = safetensors_error(entry("\"F32\"", "[4611686018427387903,4611686018427387903]", "[0,8]"));
    CHECK(huge.find("is too large") != std::string::npos);
    CHECK(safetensors_error(entry("\"F32\"", "[3]", "[0,8]")) ==
          "'a' of shape [3] takes 12 bytes as F32; the safetensors header gives it 8");
    CHECK(safetensors_error(entry("\"F32\"", "[3]", "[0,12]")) == "'a' would be bytes [0, 12] of the 8 behind the safetensors header");
    CHECK(safetensors_error(entry("\"F32\"", "[2]", "[8,0]")) == "'a' would be bytes [8, 0] of the 8 behind the safetensors header");
    CHECK(safetensors_error(entry("\"F32\"", "[1]", "[4,8]")) ==
          "'a' begins at byte 4 behind the safetensors header, and what is before it ends at 0");
    CHECK(safetensors_error(entry("\"F32\"", "[1]", "[0,4]")) == "the safetensors file has 8 bytes of numbers; its header names 4");
    const std::string b = R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]})";
    CHECK(safetensors_error(safetensors("{" + a + "," + b + "}", 12)) ==
          "'b' begins at byte 4 behind the safetensors header, and what is before it ends at 8");
  }
  TEST_CASE("numbers that are not aligned are read all the same") {
    const cases::Folder folder;
    const auto path = folder.write("odd.safetensors", safetensors(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                                                  R"("d":{"dtype":"F64","shape":[2],"data_offsets":[1,17]}})", 17));
    CHECK(read_tensors(path).at(1).tensor.equal(at::tensor({0., 0.})));
  }
  TEST_CASE("cut off anywhere or changed anywhere, a file is refused or read, never followed out of it") {
    shake(saved(weight(tensor(storage(6), 0, {2, 3}, {3, 1}))), 20'000);
    shake(safetensors(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", 24), 20'000);
    if (!cases::has_python()) return;
    for (const char* name : {"dense.pt", "dense.safetensors", "run.pt", "views.pt"}) shake(read(cases::python_files().path(name)), 3'000);
  }
  TEST_CASE("what is no such file is refused in a sentence") {
    const cases::Folder folder;
    const auto refusal = [](const std::string& path) { return cases::message_of([&] { read_tensors(path); }); };
    CHECK(refusal("/nowhere/model.pt") == "read_tensors: cannot open '/nowhere/model.pt': No such file or directory");
    CHECK(refusal(folder.path("")) == concat("read_tensors: '", folder.path(""), "' is no file"));
    for (const char* text : {"", "x", "weights,1,2,3 and so on"}) {
      const auto path = folder.write("file", text);
      CHECK(refusal(path) == concat("read_tensors: '", path, "': it is neither of torch.save nor of safetensors"));
    }
  }
}

}  // namespace rookery
