// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What is fuzzed: parsers that are given any bytes. Each either takes them or refuses them with the library's error, and what it takes
// obeys a law. A target returns the law that was broken, nothing if none was.

#include <rookery/checkpoint/formats/safetensors.hpp>
#include <rookery/checkpoint/formats/torch_pickle.hpp>
#include <rookery/core/error.hpp>
#include <rookery/data/criteo_line.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/npy_header.hpp>
#include <rookery/data/synthetic_criteo.hpp>
#include <rookery/planner/plan_json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "applications/schema_toml.hpp"

namespace rookery::cases {

/// Fields of all records and the lines they start on, or how the text was refused.
struct CsvContent {
  std::vector<std::string> fields;
  std::string refusal;
  bool operator==(const CsvContent&) const = default;
};

/// Reads CSV text in pieces that grow by `step` bytes; 0: whole.
inline CsvContent csv_content(std::string_view text, const CsvFormat& format, std::size_t step) {
  CsvContent content;
  CsvReader reader("x.csv", format);
  std::size_t begin = 0, end = step == 0 ? text.size() : std::min(step, text.size());
  reader.give(text.substr(0, end), end == text.size());
  try {
    while (true) {
      while (reader.next()) {
        for (const auto field : reader.fields()) content.fields.emplace_back(field);
        content.fields.push_back(std::to_string(reader.line()));
      }
      if (reader.is_last()) return content;
      begin = end - reader.unread().size();
      end = std::min(end + step, text.size());
      reader.give(text.substr(begin, end - begin), end == text.size());
    }
  } catch (const DataError& error) {
    content.refusal = error.what();
  }
  return content;
}

/// Law: records do not depend on the pieces that the text comes in. What a refusal quotes of the text may.
inline std::string fuzz_csv(std::string_view text) {
  for (const auto& format : {CsvFormat{}, CsvFormat{"::", '\''}, CsvFormat{"\t", {}}}) {
    const auto whole = csv_content(text, format, 0);
    for (const std::size_t step : {1, 3, 16}) {
      const auto pieces = csv_content(text, format, step);
      if (pieces.fields != whole.fields || pieces.refusal.empty() != whole.refusal.empty()) return "pieces read otherwise than the whole";
    }
  }
  return "";
}

/// Law: what was read, written and read again is the same.
inline std::string fuzz_criteo(std::string_view text) {
  for (const bool has_label : {true, false})
    for (std::size_t at = 0; at <= text.size();) {
      const auto end = std::min(text.find('\n', at), text.size());
      CriteoLine line, again;
      if (parse_criteo_line(text.substr(at, end - at), line, has_label).why.empty()) {
        std::string written;
        append_criteo_line(written, line, has_label);
        written.pop_back();
        if (!parse_criteo_line(written, again, has_label).why.empty()) return "a line that was read is refused when it is written";
        if (again.label != line.label || again.integers != line.integers || again.ids != line.ids || again.missing != line.missing)
          return "a line that was written reads otherwise";
      }
      at = end + 1;
    }
  return "";
}

/// Law: the bytes of an array are its sizes times its dtype's, and its header lies in the file.
inline std::string fuzz_npy(std::string_view text) {
  try {
    const auto header = parse_npy_header(text, "x.npy");
    if (header.data_begin > text.size()) return "the header ends behind the file";
    auto bytes = header.data_bytes;
    if (bytes < 0) return "negative bytes";
    if (std::ranges::find(header.shape, 0) != header.shape.end()) return bytes == 0 ? "" : "an empty array has bytes";
    for (const auto extent : header.shape) {
      if (bytes % extent != 0) return "the bytes are no multiple of the sizes";
      bytes /= extent;
    }
    return bytes == size_of(header.type) ? "" : "the bytes are not the sizes' product";
  } catch (const DataError&) {
    return "";
  }
}

/// Law: a schema is one that can be checked again.
inline std::string fuzz_schema(std::string_view text) {
  try {
    const auto schema = examples::parse_schema(text, "x.toml", "folder");
    check_schema(schema);
  } catch (const ConfigError&) {
  }
  return "";
}

/// Law: the numbers that a tensor's shape and strides reach lie in its bytes, and these in the file.
template <class Parse> std::string fuzz_tensors(std::string_view text, Parse parse) {
  const auto file = std::as_bytes(std::span(text));
  std::vector<StoredTensor> tensors;
  try {
    tensors = parse(file);
  } catch (const DataError&) {
    return "";
  }
  for (const auto& tensor : tensors) {
    if (tensor.shape.size() != tensor.strides.size()) return "a shape and strides of other lengths";
    if (std::ranges::find(tensor.shape, 0) != tensor.shape.end()) continue;
    if (!tensor.bytes.empty() &&
        (tensor.bytes.data() < file.data() || tensor.bytes.data() + tensor.bytes.size() > file.data() + file.size()))
      return "a tensor lies outside its file";
    long double last = 0;                                        // holds products of any two int64
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (tensor.shape[i] < 0 || tensor.strides[i] < 0) return "a negative size or stride";
      last += static_cast<long double>(tensor.shape[i] - 1) * static_cast<long double>(tensor.strides[i]);
    }
    if ((last + 1) * static_cast<long double>(tensor.dtype.size) > static_cast<long double>(tensor.bytes.size())) return "a tensor reaches beyond its bytes";
  }
  return "";
}
inline std::string fuzz_torch(std::string_view text) {
  return fuzz_tensors(text, [](Bytes file) { return parse_torch_pickle(file); });
}
inline std::string fuzz_safetensors(std::string_view text) {
  return fuzz_tensors(text, [](Bytes file) { return parse_safetensors(file); });
}

/// Law: a plan that was read, written and read again is the same, and so is what is written then.
inline std::string fuzz_plan(std::string_view text) {
  Plan plan;
  try {
    plan = plan_from_json(text, "x.json");
  } catch (const DataError&) {
    return "";
  } catch (const PlanError&) {
    return "";
  } catch (const ConfigError&) {
    return "";
  }
  const auto written = plan_to_json(plan);
  const auto again = plan_from_json(written);
  if (again.tables != plan.tables || again.world_size != plan.world_size || again.hash() != plan.hash()) return "a plan reads otherwise than it was written";
  return plan_to_json(again) == written && again.report() == plan.report() ? "" : "a plan is written otherwise the second time";
}

struct FuzzTarget {
  std::string_view name;
  std::string (*run)(std::string_view);
};
inline constexpr std::array fuzz_targets{FuzzTarget{"csv", fuzz_csv}, FuzzTarget{"criteo", fuzz_criteo}, FuzzTarget{"npy", fuzz_npy},
                                         FuzzTarget{"schema", fuzz_schema}, FuzzTarget{"torch", fuzz_torch},
                                         FuzzTarget{"safetensors", fuzz_safetensors}, FuzzTarget{"plan", fuzz_plan}};

/// Inputs made of a corpus: a text, changed in a few places. A function of the corpus and the seed.
class Mutations {
 public:
  Mutations(const std::filesystem::path& folder, std::uint64_t seed) : engine_(seed) {
    std::vector<std::filesystem::path> paths(std::filesystem::directory_iterator(folder), {});
    std::ranges::sort(paths);
    for (const auto& path : paths) {
      std::ifstream file(path, std::ios::binary);
      corpus_.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    check<Error>(!corpus_.empty(), folder.string(), ": no corpus");
  }

  const std::vector<std::string>& corpus() const { return corpus_; }

  std::string next() {
    auto text = corpus_[below(corpus_.size())];
    for (auto changes = 1 + below(6); changes > 0; --changes) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : engine_() % n; }

  void change(std::string& text) {
    static constexpr char telling[] = "\"'\t\r\n,:;|[]{}()=#.-+0189aAfFxX \\\x7f\x80\xff\xef\xbb\xbf";  // and NUL at its end
    const auto at = below(text.size() + 1), size = std::min(below(12), text.size() - at);
    switch (below(8)) {
      case 0: text.insert(at, 1, telling[below(sizeof telling)]); break;
      case 1: text.insert(at, 1, static_cast<char>(engine_())); break;
      case 2: text.erase(at, size); break;
      case 3: text.insert(below(text.size() + 1), text.substr(at, size)); break;
      case 4: text.resize(at); break;
      case 5: if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(8)); break;
      case 6: if (at < text.size()) text[at] = telling[below(sizeof telling)]; break;
      default: {
        const auto& other = corpus_[below(corpus_.size())];
        const auto from = below(other.size() + 1);
        text.insert(at, other.substr(from, below(40)));
      }
    }
  }

  std::mt19937_64 engine_;
  std::vector<std::string> corpus_;
};

}  // namespace rookery::cases
