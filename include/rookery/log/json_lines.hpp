// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// JsonLines: a file with one JSON object a line, that other programs can follow while it grows.
//
//   JsonLines log{topology, "metrics.jsonl"};
//   log(step.count(), norms(model));                           // {"step":100,"model/norm/over.layers.0.weight":1.25}
//
// Answers to torchx's and TensorBoard's writers, with no format of our own.  Include cost: c10 device only.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <unordered_map>
#include <string>
#include <string_view>
#include <utility>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/log/log_file.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/log/utf8.hpp>

namespace rookery {

/// Appends text as a JSON string, quotes included; bytes that are no UTF-8 become U+FFFD.
inline void append_json(std::string& out, std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  out += '"';
  for (const char c : valid_utf8(text)) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (code < 0x20) ((out += "\\u00") += digits[code / 16U]) += digits[code % 16U];
    else out += c;
  }
  out += '"';
}

/// Appends a number in its shortest exact form; null for NaN and infinities, which JSON does not have.
inline void append_json(std::string& out, double value) {
  if (std::isfinite(value)) detail::append(out, value);
  else out += "null";
}

struct JsonLinesOptions {
  OpenMode mode = OpenMode::append;
};

/// Writes a line for each call on rank 0, flushed; does nothing on other ranks. A last line that an earlier run left unfinished is
/// ended first, so that it spoils no other.
///
/// Errors:  ConfigError when the file cannot be opened; Error when it cannot be written; ConfigError for a name given twice.
class JsonLines {
 public:
  template <concepts::Topology Topology> JsonLines(const Topology& topology, std::string path, JsonLinesOptions options = {}) {
    if (topology.rank() != 0) return;
    file_ = LogFile("JsonLines", std::move(path), options.mode);
    if (options.mode == OpenMode::truncate) return;
    const int last = file_.last_byte();
    if (last != EOF && last != '\n') file_.write("\n");
  }

  /// {"step":..} and the values, in order.
  void operator()(std::int64_t step, const LogValues& values) {
    if (!file_) return;
    std::string line = concat("{\"step\":", step);
    std::unordered_map<std::string_view, std::size_t> names{{"step", 0}};
    for (const auto& [name, value] : values) {
      check<ConfigError>(names.emplace(name, names.size()).second, "JsonLines: '", name, "' is given twice at step ", step);
      line += ',';
      append_json(line, name);
      line += ':';
      append_json(line, value);
    }
    file_.write(line += "}\n");
  }

 private:
  LogFile file_;
};

}  // namespace rookery
