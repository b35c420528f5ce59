// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/tensor_board.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include <rookery/core/crc32c.hpp>
#include <rookery/log/histogram.hpp>
#include <rookery/log/log_file.hpp>
#include <rookery/log/tensor_histogram.hpp>
#include <rookery/log/tf_record.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "data/files.hpp"
#include "support/peak_memory.hpp"
#include "support/python.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

std::vector<nlohmann::json> read_back(const std::string& path) {
  std::istringstream lines(cases::run_python("log/read_events.py", {path}));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

}  // namespace

TEST_SUITE("log/tensor_board") {
  TEST_CASE("checksums are those of the standard") {
    CHECK(crc32c("") == 0);
    CHECK(crc32c("123456789") == 0xE3069283U);
    CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);                           // RFC 3720, B.4
    CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);
    CHECK(masked_crc32c("123456789") == ((0xE3069283U >> 15 | 0xE3069283U << 17) + 0xA282EAD8U));
  }
  TEST_CASE("a record is length, checksum, data, checksum") {
    const auto record = tf_record("abc");
    REQUIRE(record.size() == 8 + 4 + 3 + 4);
    CHECK(record.substr(0, 8) == std::string("\x03\0\0\0\0\0\0\0", 8));
    CHECK(record.substr(12, 3) == "abc");
  }
  TEST_CASE("a message is written as the encoding says") {
    CHECK(ProtobufMessage().integer(1, 150).bytes() == "\x08\x96\x01");             // protobuf.dev/programming-guides/encoding
    CHECK(ProtobufMessage().text(2, "testing").bytes() == "\x12\x07testing");
    CHECK(ProtobufMessage().message(3, ProtobufMessage().integer(1, 150)).bytes() == "\x1a\x03\x08\x96\x01");
    CHECK(ProtobufMessage().integer(1, -2).bytes() == "\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    CHECK(ProtobufMessage().number(2, 1.F).bytes() == std::string("\x15\0\0\x80\x3f", 5));
  }
  TEST_CASE("a histogram counts every number once, between its bounds") {
    Histogram histogram = histogram_of(std::vector<double>{-1, 0, 0, 1e-13, 1, 1.05, 1e300, -1e300});
    histogram.add(std::nan(""));
    histogram.add(HUGE_VAL);
    CHECK(histogram.count() == 8);
    CHECK(histogram.non_finite() == 2);
    CHECK(histogram.min() == -1e300);
    CHECK(histogram.max() == 1e300);
    const auto buckets = histogram.buckets();
    double total = 0, before = -HUGE_VAL;
    REQUIRE(buckets.limits.size() == buckets.counts.size());
    for (std::size_t i = 0; i < buckets.limits.size(); ++i) {
      CHECK(buckets.limits[i] > before);
      before = buckets.limits[i];
      total += buckets.counts[i];
    }
    CHECK(total == 8);
    const auto of = [&](double value) {
      return buckets.counts[static_cast<std::size_t>(std::ranges::upper_bound(buckets.limits, value) - buckets.limits.begin())];
    };
    CHECK(of(0) == 3);                                                             // 0, 0, 1e-13
    CHECK(of(-1) == 1);
    CHECK(of(2) == 0);
    CHECK(Histogram{}.buckets().limits.empty());
  }
  TEST_CASE("a histogram of a tensor is that of its numbers, whatever its layout") {
    const auto numbers = at::arange(300'000, at::kDouble).sub(1000).div(77);        // [300000]
    const auto expected = histogram_of(std::span(numbers.const_data_ptr<double>(), 300'000));
    for (const auto& tensor : {numbers, numbers.view({3, 100'000}), numbers.view({100'000, 3}), numbers.view({500, 600}).t(),
                               numbers.view({1, 300'000}), numbers.view({300'000, 1}).t()}) {
      const auto histogram = tensor_histogram(tensor);
      CHECK(histogram.count() == 300'000);
      CHECK(histogram.min() == expected.min());
      CHECK(histogram.max() == expected.max());
      CHECK(histogram.sum() == doctest::Approx(expected.sum()));
      CHECK(histogram.buckets().counts == expected.buckets().counts);
    }
    CHECK(tensor_histogram(at::zeros({0, 3})).count() == 0);
    CHECK(tensor_histogram(at::zeros({3, 0})).count() == 0);
    CHECK(tensor_histogram(at::zeros({}, at::kLong)).count() == 1);
  }
  TEST_CASE("a histogram of one long row takes no memory to speak of") {
    const auto row = at::zeros({1, 1}).expand({1, 20'000'000});                     // [1, 20000000] of one number
    const cases::PeakMemory memory;
    CHECK(tensor_histogram(row).count() == 20'000'000);
    if (memory.is_known()) CHECK(memory.growth() < 16 << 20);                       // as float64 it is 160 MB
  }
  TEST_CASE("TensorBoard's own reader gives back tags, steps, values and histograms") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const cases::Folder folder;
    const double begin = static_cast<double>(std::time(nullptr));
    TensorBoard events{Local{}, folder.path("runs/17")};
    events(0, {{"loss", .5}});
    events(std::int64_t{1} << 40, {{"loss", -1.5}, {"model/norm/over.layers.0.weight", 1. / 3}, {"Käse \"x\"", 2}});
    events(3, {{"nan", std::nan("")}, {"large", 1e300}});
    events(4, {});
    Histogram histogram = histogram_of(std::vector<double>{-3, 0, .5, .5, 7});
    events.histogram(5, "weights", histogram);
    events.histogram(5, "none", Histogram{});
    events(6, {{"a\xFF", 1}});
    events.histogram(7, "b\xC3", histogram);
    const auto lines = read_back(events.path());                                   // while it is open
    REQUIRE(lines.size() == 10);
    CHECK(lines[8]["tag"] == "a\xEF\xBF\xBD");
    CHECK(lines[9]["tag"] == "b\xEF\xBF\xBD");
    CHECK(lines[0]["version"] == "brain.Event:2");
    CHECK(lines[0]["time"] >= begin - 1);
    CHECK(lines[1]["tag"] == "loss");
    CHECK(lines[1]["step"] == 0);
    CHECK(lines[1]["scalar"] == .5);
    CHECK(lines[1]["plugin"] == "scalars");
    CHECK(lines[2]["step"] == std::int64_t{1} << 40);
    CHECK(lines[2]["scalar"] == -1.5);
    CHECK(lines[3]["tag"] == "model/norm/over.layers.0.weight");
    CHECK(lines[3]["scalar"].get<double>() == static_cast<double>(1.F / 3));
    CHECK(lines[4]["tag"] == "Käse \"x\"");
    CHECK(lines[5]["scalar"] == "nan");
    CHECK(lines[6]["scalar"] == "inf");
    CHECK(lines[7]["plugin"] == "histograms");
    CHECK(lines[7]["min"] == -3);
    CHECK(lines[7]["max"] == 7);
    CHECK(lines[7]["num"] == 5);
    CHECK(lines[7]["sum"] == 5);
    CHECK(lines[7]["sum_squares"] == 58.5);
    CHECK(lines[7]["limits"].get<std::vector<double>>() == histogram.buckets().limits);
    CHECK(lines[7]["counts"].get<std::vector<double>>() == histogram.buckets().counts);
  }
  TEST_CASE("names that are no UTF-8 are mended in the file") {
    const cases::Folder folder;
    TensorBoard events{Local{}, folder.path("names")};
    events(1, {{"scalar\xFF", 1}});
    events.histogram(1, "spread\xC3", histogram_of(std::vector<double>{1}));
    std::ostringstream text;
    text << std::ifstream(events.path(), std::ios::binary).rdbuf();
    CHECK(text.str().find("scalar\xEF\xBF\xBD") != std::string::npos);
    CHECK(text.str().find("spread\xEF\xBF\xBD") != std::string::npos);
  }
  TEST_CASE("a file that was cut off reads up to its last whole record") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const cases::Folder folder;
    TensorBoard events{Local{}, folder.path("cut")};
    for (int step = 1; step <= 3; ++step) events(step, {{"loss", step}});
    std::filesystem::resize_file(events.path(), std::filesystem::file_size(events.path()) - 5);
    const auto lines = read_back(events.path());
    REQUIRE(lines.size() == 3);
    CHECK(lines[2]["scalar"] == 2);
  }
  TEST_CASE("only rank 0 writes, and runs in one folder have files of their own") {
    const cases::Folder folder;
    Threads::run(3, [&](Threads topology) {
      TensorBoard events{topology, topology.rank() == 0 ? folder.path("") : "/dev/null/at/all"};
      events(1, {{"rank", topology.rank()}});
      events.histogram(1, "rank", histogram_of(std::vector<int>{topology.rank()}));
      CHECK(events.path().empty() == (topology.rank() != 0));
    });
    const TensorBoard again{Local{}, folder.path("")};
    const auto files = std::filesystem::directory_iterator(folder.path(""));
    CHECK(std::distance(begin(files), end(files)) == 2);
  }
  TEST_CASE("mistakes are one sentence") {
    CHECK_THROWS_WITH_AS(TensorBoard(Local{}, "/dev/null/runs"), "TensorBoard: cannot make the folder '/dev/null/runs': Not a directory",
                         ConfigError);
    if (!std::filesystem::exists("/dev/full")) return;
    const LogFile full("TensorBoard", "/dev/full", OpenMode::truncate);
    CHECK_THROWS_WITH_AS(full.write(tf_record("x")), "TensorBoard: cannot write '/dev/full': No space left on device", Error);
  }
}

}  // namespace rookery
