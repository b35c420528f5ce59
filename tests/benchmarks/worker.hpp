// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The one protocol of the programs that tests/benchmarks/peers.py runs in turn, ours and the peers': a line `command name=value ..` in, a
// line of JSON out. Between its turns a program waits for a line.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery::benchmarks {

/// One line: its first word and the values that it names.
struct Command {
  std::string word;
  std::map<std::string, std::string> values;

  static Command parse(const std::string& line) {
    Command command;
    std::istringstream words(line);
    words >> command.word;
    for (std::string word; words >> word;) {
      const auto equals = word.find('=');
      check<ConfigError>(equals != std::string::npos && equals > 0, "'", word, "' is no name=value");
      command.values[word.substr(0, equals)] = word.substr(equals + 1);
    }
    return command;
  }
  const std::string& text(const std::string& name) const {
    const auto found = values.find(name);
    check<ConfigError>(found != values.end(), "'", word, "' lacks ", name, "=");
    return found->second;
  }
  std::string text(const std::string& name, const std::string& otherwise) const { return values.contains(name) ? text(name) : otherwise; }
  std::int64_t number(const std::string& name) const { return std::atoll(text(name).c_str()); }
  double real(const std::string& name) const { return std::atof(text(name).c_str()); }
  /// Numbers between commas.
  std::vector<std::int64_t> numbers(const std::string& name) const {
    std::vector<std::int64_t> found;
    std::istringstream parts(text(name));
    for (std::string part; std::getline(parts, part, ',');) found.push_back(std::atoll(part.c_str()));
    return found;
  }
};

/// Ids of several batches as tests/benchmarks/draw_ids.py writes them: of each batch offsets [T * B + 1], then ids [N].
struct Requests {
  std::vector<std::vector<std::int64_t>> offsets, ids;

  static Requests read(const std::string& file, std::int64_t bags, std::int64_t ids_of_batch) {
    std::ifstream in(file, std::ios::binary);
    Requests all;
    const auto next = [&](std::int64_t count) {
      std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
      in.read(reinterpret_cast<char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof numbers[0]));
      return numbers;
    };
    for (auto offsets = next(bags + 1); in; offsets = next(bags + 1)) {
      all.offsets.push_back(std::move(offsets));
      all.ids.push_back(next(ids_of_batch));
      check<DataError>(in && all.offsets.back().back() == ids_of_batch, "'", file, "' is not of batches of ", bags, " bags and ",
                       ids_of_batch, " ids");
    }
    check<DataError>(!all.ids.empty(), "'", file, "' holds no batch");
    return all;
  }
  std::size_t count() const { return ids.size(); }

  /// Every batch, with features f0, f1 and so on.
  std::vector<KeyedJaggedTensor> batches(std::int64_t features, at::ScalarType dtype) const {
    std::vector<std::string> keys;
    for (std::int64_t f = 0; f < features; ++f) keys.push_back(concat("f", f));
    std::vector<KeyedJaggedTensor> found;
    for (std::size_t i = 0; i < count(); ++i)
      found.push_back(KeyedJaggedTensor::from_offsets(keys, tensor(ids[i]).to(dtype), tensor(offsets[i])));
    return found;
  }
  static at::Tensor tensor(const std::vector<std::int64_t>& numbers) {
    auto made = ops::empty({static_cast<std::int64_t>(numbers.size())}, at::kLong);          // [numbers]
    std::copy(numbers.begin(), numbers.end(), made.mutable_data_ptr<std::int64_t>());
    return made;
  }
};

/// Calls `fn(i)`, i counting up, for `seconds=` of the command, at least `least=` times, after a tenth of that to warm up; or `count=`
/// times after a tenth of that, as ranks need it, which call together. Gives the 25th percentile and the median in microseconds, as JSON.
template <class Fn> std::string timed(const Command& run, Fn&& fn) {
  const bool counted = run.values.contains("count");
  const auto count = counted ? run.number("count") : run.number("least");
  const double seconds = counted ? 0 : run.real("seconds");
  std::vector<double> microseconds;
  std::size_t i = 0;
  const Stopwatch warming;
  do fn(i++);
  while (counted ? static_cast<std::int64_t>(i) <= count / 10 : warming.seconds() < seconds / 10);
  const Stopwatch whole;
  while (whole.seconds() < seconds || static_cast<std::int64_t>(microseconds.size()) < count) {
    const Stopwatch one;
    fn(i++);
    microseconds.push_back(one.seconds() * 1e6);
  }
  std::sort(microseconds.begin(), microseconds.end());
  const auto count_of = microseconds.size();
  return concat(R"({"p25": )", microseconds[count_of / 4], R"(, "median": )", microseconds[count_of / 2], R"(, "count": )", count_of, "}");
}

inline void answer(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

/// Gives each `run` to `fn(command)`, which answers, until `close`; false when input ends.
template <class Fn> bool serve(Fn&& fn) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto command = Command::parse(line);
    if (command.word == "close") return true;
    check<ConfigError>(command.word == "run", "'", command.word, "' is neither run nor close");
    fn(command);
  }
  return false;
}

}  // namespace rookery::benchmarks
