// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// OpenMetrics: the latest values as a text file that Prometheus' textfile collector and other OpenMetrics readers scrape.
//
//   OpenMetrics metrics{topology, "/var/lib/node_exporter/rookery.prom", {.labels = {{"job", "ranker"}}}};
//   metrics(step.count(), {{"loss", .51}});
//
// The file is replaced as a whole, by rename, so that a reader sees the old or the new one.  Format: OpenMetrics 1.0.
// Include cost: c10 device only.

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/log/log_file.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/log/utf8.hpp>

namespace rookery {

struct OpenMetricsOptions {
  std::string prefix = "rookery_";                               // of every metric's name
  std::vector<std::pair<std::string, std::string>> labels{};     // of every value, beside rank="..."
  bool every_rank = false;                                       // each rank writes the path that it gives
};

/// Keeps the latest value of every name, as gauges, with the step as `<prefix>step`; each call replaces the file. Rank 0 writes, unless
/// every rank shall. A name becomes a metric's by `_` for what a metric cannot hold; the whole name stands in the HELP line. Bytes that
/// are no UTF-8 become U+FFFD.
///
/// Errors:  ConfigError when the file cannot be made, for a label that is no label's name or is given twice, for two names that become
///          one, and for a name given twice in a step, `step` among them; Error when the file cannot be written.
class OpenMetrics {
 public:
  template <concepts::Topology Topology>
  OpenMetrics(const Topology& topology, std::string path, OpenMetricsOptions options = {})
      : prefix_(std::move(options.prefix)), labels_(concat("{rank=\"", topology.rank(), "\"")) {
    for (std::size_t i = 0; i < options.labels.size(); ++i) {
      const auto& [name, value] = options.labels[i];
      check<ConfigError>(name == metric_name(name) && name.find(':') == std::string::npos && !name.starts_with("__") && name != "rank",
                         "OpenMetrics: '", name, "' cannot name a label");
      for (std::size_t before = 0; before < i; ++before)
        check<ConfigError>(options.labels[before].first != name, "OpenMetrics: label '", name, "' is given twice");
      labels_ += concat(",", name, "=\"", escaped(value), "\"");
    }
    labels_ += '}';
    if (topology.rank() != 0 && !options.every_rank) return;
    path_ = std::move(path);
    replace();
  }

  void operator()(std::int64_t step, const LogValues& values) {
    if (path_.empty()) return;
    ++calls_;
    set("step", static_cast<double>(step), step);
    for (const auto& [name, value] : values) set(name, value, step);
    replace();
  }

  /// The name as a metric can have it: letters, digits, `_` and `:`, no digit first.
  static std::string metric_name(std::string_view name) {
    std::string metric;
    for (const char c : name) {
      const bool digit = c >= '0' && c <= '9', letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':';
      if (digit && metric.empty()) metric += '_';
      metric += digit || letter ? c : '_';
    }
    return metric.empty() ? "_" : metric;
  }

  /// The file's text.
  std::string text() const {
    std::string out;
    for (const auto& gauge : gauges_) {
      out += concat("# TYPE ", gauge.metric, " gauge\n# HELP ", gauge.metric, " ", escaped(gauge.name), "\n", gauge.metric, labels_, " ");
      if (std::isfinite(gauge.value)) detail::append(out, gauge.value);
      else out += std::isnan(gauge.value) ? "NaN" : gauge.value > 0 ? "+Inf" : "-Inf";
      out += '\n';
    }
    return out += "# EOF\n";
  }

 private:
  struct Gauge {
    std::string name, metric;
    double value;
    std::int64_t call;                                           // that set it
  };

  static std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : valid_utf8(text)) {
      if (c == '\\' || c == '"') out += '\\';
      if (c == '\n') out += "\\n";
      else out += c;
    }
    return out;
  }
  void set(std::string_view name, double value, std::int64_t step) {
    const auto metric = metric_name(prefix_ + std::string(name));
    const auto found = std::find_if(gauges_.begin(), gauges_.end(), [&](const Gauge& gauge) { return gauge.metric == metric; });
    if (found == gauges_.end()) return gauges_.push_back({std::string(name), metric, value, calls_});
    check<ConfigError>(found->name == name, "OpenMetrics: '", found->name, "' and '", name, "' are both '", metric, "'; rename one");
    check<ConfigError>(found->call != calls_, "OpenMetrics: '", name, "' is given twice at step ", step);
    found->value = value;
    found->call = calls_;
  }
  void replace() const {
    const auto part = path_ + ".part";
    try {
      LogFile("OpenMetrics", part, OpenMode::truncate).write(text());
    } catch (...) {
      std::remove(part.c_str());
      throw;
    }
    check<ConfigError>(std::rename(part.c_str(), path_.c_str()) == 0, "OpenMetrics: cannot replace '", path_, "': ", std::strerror(errno));
  }

  std::string prefix_, labels_, path_;
  std::vector<Gauge> gauges_;
  std::int64_t calls_ = 0;
};

}  // namespace rookery
