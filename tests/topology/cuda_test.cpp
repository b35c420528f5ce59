// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/cuda.hpp>

#include <rookery/topology/gpu_facts.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/with_topology.hpp>

#include <string>

#include "support/test.hpp"

namespace rookery {
namespace {

bool has_gpu() {
  try {
    return detail::count_gpus("test") > 0;
  } catch (const ConfigError&) {
    return false;
  }
}

}  // namespace

TEST_SUITE("topology/cuda") {
  TEST_CASE("a library that is looked for when the program runs: its functions, its folder, why it is not there") {
    const detail::RunTimeLibrary libc("libc.so.6"), none("libnone.so.7");
    REQUIRE(libc);
    CHECK(libc.call("abs", -3) == 3);
    CHECK(libc.call("no_function_of_libc", -3) == -1);
    CHECK(libc.folder().back() == '/');
    CHECK_FALSE(none);
    CHECK(none.why().find("libnone.so.7: ") == 0);
    CHECK(none.call("abs", -3) == -1);
    CHECK_THROWS_AS(none.folder(), Error);
  }
  TEST_CASE("libtorch_cuda is looked for in the folder of the LibTorch that is loaded, and a LibTorch without one cannot use GPUs") {
    const detail::RunTimeLibrary c10("libc10.so", RTLD_NOW | RTLD_NOLOAD);
    REQUIRE(c10);
    CHECK(c10.folder().find("/lib/") != std::string::npos);
    if (has_gpu()) return;
    try {
      detail::load_libtorch_cuda("device 'cuda:0'");           // the wheel's, which may lack libraries of CUDA, or none
    } catch (const ConfigError& error) {
      CHECK(std::string(error.what()).find("device 'cuda:0': this LibTorch cannot use GPUs (") == 0);
    }
  }
  TEST_CASE("names of devices") {
    CHECK(device_named("cpu").is_cpu());
    CHECK(ready_device(c10::Device(c10::DeviceType::Meta)).is_meta());
    for (const auto* name : {"", "gpu", "cudax", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:123", "cpu:0", "CUDA"})
      CHECK_THROWS_WITH_AS(device_named(name), concat("device '", name, "': it must be cpu, cuda, or cuda and a number, such as"
                           " cuda:1").c_str(), ConfigError);
  }
  TEST_CASE("of a GPU that is not there nothing is known") {
    const auto facts = gpu_facts(99);
    CHECK((facts.memory < 0 && facts.free_memory < 0 && facts.bandwidth < 0 && facts.nvlinks < 0 && facts.nvlink_bandwidth < 0));
  }
  TEST_CASE("a machine without a driver says so in one sentence") {
    if (has_gpu() || detail::cuda_driver()) return;
    const auto why = [](int index) {
      return concat("device 'cuda:", index, "': this machine has no driver for NVIDIA's GPUs (libcuda.so.1: cannot open shared object"
                    " file: No such file or directory)");
    };
    CHECK_THROWS_WITH_AS(cuda_device(), why(0).c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(device_named("cuda:3"), why(3).c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(Local(c10::Device(c10::DeviceType::CUDA)), why(0).c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(with_topology<Local>({.device = "cuda"}, [](auto) { return 0; }), why(0).c_str(), ConfigError);
  }
}

}  // namespace rookery
