// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TensorBoard: scalars and histograms as an event file that `tensorboard --logdir <folder>` shows while it grows.
//
//   TensorBoard events{topology, "runs/17"};
//   events(step.count(), {{"loss", .51}});
//   events.histogram(step.count(), "over.layers.0.weight", tensor_histogram(weight));
//
// Answers to torch.utils.tensorboard.SummaryWriter; needs neither TensorFlow nor protobuf.  Include cost: c10 device only.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/log/histogram.hpp>
#include <rookery/log/log_file.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/log/tf_record.hpp>
#include <rookery/log/utf8.hpp>

namespace rookery {

/// Writes a new event file into the folder, which is made where there is none. Rank 0 writes; the other ranks do nothing. A killed run
/// leaves a file that can be read up to its last whole record. Bytes of a name that are no UTF-8 become U+FFFD.
///
/// Dtypes:  scalars are float32 in the format; NaN and infinities stay what they are.
/// Errors:  ConfigError when folder or file cannot be made; Error when it cannot be written.
class TensorBoard {
 public:
  template <concepts::Topology Topology> TensorBoard(const Topology& topology, const std::string& folder) {
    if (topology.rank() != 0) return;
    std::error_code problem;
    std::filesystem::create_directories(folder, problem);
    check<ConfigError>(!problem, "TensorBoard: cannot make the folder '", folder, "': ", problem.message());
    static std::atomic<int> opened{0};                           // files of one process in one second differ by it
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') host[0] = '-';
    file_ = LogFile("TensorBoard",
                    concat(folder, "/events.out.tfevents.", static_cast<std::int64_t>(wall_time()), ".", std::string_view(host), ".",
                           getpid(), ".", opened++),
                    OpenMode::truncate);
    write(event().text(3, "brain.Event:2"));
  }

  /// One event with all values as scalars.
  void operator()(std::int64_t step, const LogValues& values) {
    if (!file_ || values.empty()) return;
    ProtobufMessage summary;
    for (const auto& [name, value] : values)
      summary.message(1, ProtobufMessage().text(1, valid_utf8(name)).number(2, static_cast<float>(value)));
    write(event().integer(2, step).message(5, summary));
  }

  /// One histogram; nothing of it where it holds no number.
  void histogram(std::int64_t step, std::string_view name, const Histogram& values) {
    if (!file_ || values.count() == 0) return;
    const auto buckets = values.buckets();
    ProtobufMessage proto;
    proto.number(1, values.min()).number(2, values.max()).number(3, static_cast<double>(values.count()));
    proto.number(4, values.sum()).number(5, values.sum_squares());
    proto.numbers(6, buckets.limits).numbers(7, buckets.counts);
    write(event().integer(2, step).message(5, ProtobufMessage().message(1, ProtobufMessage().text(1, valid_utf8(name)).message(5, proto))));
  }

  /// The file that is written; empty on ranks that write none.
  const std::string& path() const { return file_.path(); }

 private:
  static double wall_time() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }
  static ProtobufMessage event() { return ProtobufMessage().number(1, wall_time()); }
  void write(const ProtobufMessage& event) const { file_.write(tf_record(event.bytes())); }

  LogFile file_;
};

}  // namespace rookery
