// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// GpuFacts: what a GPU says of itself, for planning: memory, its bandwidth, NVLink or not.
//
// Asked of the driver and of NVML, which comes with it, when the program runs; what neither tells is not known, and no error.
// Include cost: c10 device only.

#include <cstddef>
#include <cstdint>

#include <rookery/topology/cuda.hpp>

namespace rookery {

/// Bytes, and bytes per second; what is below 0 is not known.
struct GpuFacts {
  std::int64_t memory = -1, free_memory = -1;
  double bandwidth = -1;                         // of its memory: clock times width, which reading comes near
  int nvlinks = -1;                              // that are up
  double nvlink_bandwidth = -1;                  // of all of them, one way; 0 without any
};

namespace detail {

/// A field that NVML is asked for, as it lays it out.
struct NvmlField {
  unsigned id = 0, scope = 0;
  long long time = 0, latency = 0;
  int type = 0, status = -1;                     // type 1: the lower half is the value
  std::uint64_t value = 0;
};

/// What NVML knows of the GPU at an address of the PCI bus.
inline void ask_nvml(const char* bus_id, GpuFacts& facts) {
  static const RunTimeLibrary nvml("libnvidia-ml.so.1");
  void* device = nullptr;
  if (nvml.call("nvmlInit_v2") != 0 || nvml.call("nvmlDeviceGetHandleByPciBusId_v2", bus_id, &device) != 0) return;
  struct {
    unsigned long long total = 0, free = 0, used = 0;
  } memory;
  if (nvml.call("nvmlDeviceGetMemoryInfo", device, static_cast<void*>(&memory)) == 0)
    facts.free_memory = static_cast<std::int64_t>(memory.free);
  constexpr unsigned most_links = 18;
  for (unsigned link = 0; link < most_links; ++link) {
    unsigned is_up = 0;
    const int code = nvml.call("nvmlDeviceGetNvLinkState", device, link, &is_up);
    constexpr int not_supported = 3, invalid_argument = 2;         // a GPU without NVLink, and one with fewer links
    if (code == 0 || code == not_supported) facts.nvlinks = (facts.nvlinks < 0 ? 0 : facts.nvlinks) + (code == 0 && is_up ? 1 : 0);
    else if (code != invalid_argument) return;
  }
  NvmlField speed{.id = 90};                                 // of one link, in 10^6 bytes per second
  if (facts.nvlinks > 0 && nvml.call("nvmlDeviceGetFieldValues", device, 1, &speed) == 0 && speed.status == 0)
    facts.nvlink_bandwidth = 1e6 * facts.nvlinks * static_cast<double>(speed.type == 1 ? speed.value & 0xffffffff : speed.value);
  else if (facts.nvlinks == 0) facts.nvlink_bandwidth = 0;
}

}  // namespace detail

/// What the GPU with this number among those that the process may use says of itself.
inline GpuFacts gpu_facts(int index) {
  GpuFacts facts;
  const auto& driver = detail::cuda_driver();
  int device = 0, kilohertz = 0, bits = 0;
  if (driver.call("cuInit", 0U) != 0 || driver.call("cuDeviceGet", &device, index) != 0) return facts;
  std::size_t bytes = 0;
  if (driver.call("cuDeviceTotalMem_v2", &bytes, device) == 0) facts.memory = static_cast<std::int64_t>(bytes);
  constexpr int memory_clock_rate = 36, memory_bus_width = 37;
  if (driver.call("cuDeviceGetAttribute", &kilohertz, memory_clock_rate, device) == 0 &&
      driver.call("cuDeviceGetAttribute", &bits, memory_bus_width, device) == 0 && kilohertz > 0 && bits > 0)
    facts.bandwidth = 2. * 1000 * kilohertz * bits / 8;      // two transfers a cycle
  char bus_id[32]{};
  if (driver.call("cuDeviceGetPCIBusId", &bus_id[0], static_cast<int>(sizeof bus_id), device) == 0) detail::ask_nvml(bus_id, facts);
  return facts;
}

}  // namespace rookery
