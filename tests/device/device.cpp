// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One process on a device: what it trains is what the host trains. It is linked with libtorch_cpu and libc10 alone, as programs are.
//
//   device cuda | cpu | fake [STEPS]      fake: the stand-in of tests/support/fake_device.hpp, in a program built with FAKE_DEVICE

#include <rookery/topology/cuda.hpp>
#include <rookery/topology/gpu_facts.hpp>
#include <rookery/topology/local.hpp>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "device/checks.hpp"
#include "device/dlrm.hpp"
#ifdef FAKE_DEVICE                           // a process has one kind of accelerator
#include "support/fake_device.hpp"
#endif

namespace {

using namespace rookery;
using namespace rookery::device;

c10::Device device_of(const std::string& name) {
#ifdef FAKE_DEVICE
  if (name == "fake") return cases::fake_device;
#endif
  return device_named(name);
}

/// Lets the host wait for the device.
void wait_for(const at::Tensor& last) { on_host(last.reshape({-1}).narrow(0, 0, 1)); }

struct GpuMemory {
  std::size_t free = 0, total = 0;
};
GpuMemory gpu_memory() {
  GpuMemory memory;
  const int code = rookery::detail::cuda_driver().call("cuMemGetInfo_v2", &memory.free, &memory.total);
  check<Error>(code == 0, "cuMemGetInfo gives ", code);
  return memory;
}

/// What cannot be had is one sentence.
std::string errors_without(bool has_gpu) {
  std::string why;
  try {
    device_named(has_gpu ? "cuda:99" : "cuda");
  } catch (const ConfigError& error) {
    why = error.what();
  }
  const std::string expected = has_gpu ? "device 'cuda:99': this machine has " : "device 'cuda:0': ";
  return why.find(expected) == 0 && why.find('\n') == why.npos ? "" : concat("it said '", why, "'");
}

/// Seconds of a step of a wider model, after some that warm up.
template <class Rule> double seconds_of_step(Local& topology, const Run& run, Rule rule) {
  auto model = place(topology, run);
  Optimizer step(model, rule);
  std::vector<Clicks> batches;
  for (std::int64_t i = 0; i < 4; ++i) batches.push_back(draw_batch(run, i));
  const auto pass = [&](std::int64_t i) {
    auto [loss, output] = model(batches[static_cast<std::size_t>(i % 4)]);
    loss.backward();
    step();
    return loss;
  };
  for (std::int64_t i = 0; i < 3; ++i) wait_for(pass(i));
  const Stopwatch clock;
  at::Tensor last;
  for (std::int64_t i = 0; i < run.steps; ++i) last = pass(i);
  wait_for(last);
  return clock.seconds() / static_cast<double>(run.steps);
}

int run(const std::string& name, std::int64_t steps) {
  const bool is_cuda = name.substr(0, 4) == "cuda";
  std::optional<Local> topology;                               // the first check makes it
  Checks checks;
  const auto place_for = [&]() -> Local& {
    if (!topology) topology.emplace(device_of(name));
    return *topology;
  };

  checks.add(concat("'", name, "' computes, for a program that is linked with LibTorch's host part alone"), [&](Figures& figures) {
    const Stopwatch clock;
    const auto device = place_for().device();
    const auto ones = ops::ones({64, 64}, at::TensorOptions().device(device));                // [64, 64]
    const double sum = on_host(ones.matmul(ones).sum()).item<double>();
    figures.emplace_back("seconds until the first result", clock.seconds());
    if (is_cuda) figures.emplace_back("GPUs", rookery::detail::count_gpus("the count"));
    return sum == 64. * 64 * 64 ? "" : concat("a product of ones is ", sum);
  });
  checks.add(concat("beside '", name, "' a device that is not there is one sentence"), [&](Figures&) { return errors_without(is_cuda); });

  for (const auto dtype : {at::kDouble, at::kFloat})
    for (const auto& [tables, dense] : {std::pair{"rowwise_adagrad", "adam"}, {"adam", "adagrad"}, {"adagrad", "sgd"}, {"sgd", "sgd"}}) {
      Run trained{.dtype = dtype, .tables = tables, .dense = dense, .steps = steps};
      const auto title = concat(steps, " steps of ", describe(trained), ": '", name, "' gives what the host gives");
      checks.add(title, [&, trained](Figures& figures) {
        Local host;
        const auto expected = train(host, trained), found = train(place_for(), trained);
        figures.emplace_back("largest difference", largest_difference(expected, found));
        return compare(trained, expected, found);
      });
    }
  checks.add(concat("what '", name, "' says of itself, for plans"), [&](Figures& figures) -> std::string {
    if (!is_cuda) throw NotRun{"it asks the driver of a GPU"};
    const auto facts = gpu_facts(0);
    figures = {{"GB", static_cast<double>(facts.memory) / 1e9}, {"GB free", static_cast<double>(facts.free_memory) / 1e9},
               {"GB/s", facts.bandwidth / 1e9}, {"NVLinks", facts.nvlinks}, {"GB/s of NVLink", facts.nvlink_bandwidth / 1e9}};
    return facts.memory > 0 && facts.bandwidth > 0 ? "" : "the driver does not tell memory or bandwidth";
  });
  checks.add(concat("two runs on '", name, "' differ by nothing"), [&](Figures& figures) {
    const Run trained{.steps = std::min<std::int64_t>(steps, 10)};
    const double gap = largest_difference(train(place_for(), trained), train(place_for(), trained));
    figures.emplace_back("largest difference", gap);
    return gap == 0 ? "" : concat("they differ by ", gap);
  });
  checks.add(concat("waits of the host for '", name, "' in a step"), [&](Figures& figures) -> std::string {
#ifdef FAKE_DEVICE
    if (name == "fake") {
      const Run run{};
      auto model = place(place_for(), run);
      Optimizer step(model, Adam{}, {.clip_norm = 1});
      constexpr int steps_counted = 10;
      cases::device_to_host();
      for (std::int64_t i = 0; i < steps_counted; ++i) {
        auto [loss, output] = model(draw_batch(run, i));
        loss.backward();
        step();
      }
      const double waits = static_cast<double>(cases::device_to_host()) / steps_counted;
      figures.emplace_back("waits in a step", waits);
      return waits <= 1 ? "" : concat("the host waits ", waits, " times");
    }
#endif
    throw NotRun{"the stand-in counts them, and for a GPU the program ranks does"};
  });
  checks.add(concat("tables take the memory of '", name, "' once"), [&](Figures& figures) -> std::string {
    if (!is_cuda) throw NotRun{"it asks the driver of a GPU"};
    const Run big{.features = 4, .rows = 4'000'000, .dim = 128, .steps = 0};
    const double bytes = 4. * 4'000'000 * (128 * 4 + 4);       // weights, and one number of state a row
    place_for();
    const auto before = gpu_memory();
    auto model = place(*topology, big);
    wait_for(model.tables().front().shards.front().local->storage.weight());
    const double taken = static_cast<double>(before.free) - static_cast<double>(gpu_memory().free);
    figures = {{"GB of tables and state", bytes / 1e9}, {"GB taken", taken / 1e9}, {"GB in all", static_cast<double>(before.total) / 1e9}};
    return taken < 1.1 * bytes + 5e8 ? "" : concat(taken, " bytes for ", bytes);
  });
  checks.add(concat("time of a step on '", name, "'"), [&](Figures& figures) {
    Run wide{.features = 26, .rows = 100'000, .dim = 64, .batch = 4096, .steps = is_cuda ? 20 : 2, .clip_norm = 0};
    if (!is_cuda) wide.features = 4, wide.batch = 256;
    Local host;
    const double there = seconds_of_step(place_for(), wide, Adam{});
    figures.emplace_back("ms on the device", there * 1e3);
    figures.emplace_back("samples per second on the device", static_cast<double>(wide.batch) / there);
    wide.steps = 2;
    figures.emplace_back("ms on the host", seconds_of_step(host, wide, Adam{}) * 1e3);
    return std::string();
  });
  return checks.run();
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return std::fputs("device: cuda, cpu or fake, and the number of steps\n", stderr), 2;
  return run(arguments[1], count > 2 ? std::atoll(arguments[2]) : 50);
}
