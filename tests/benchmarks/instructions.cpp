// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Goes once through each hot loop inside `rookery_counted`, so that callgrind can count its instructions alone; instructions.py runs it.

#include <ATen/Parallel.h>

#include <cstdio>

#include "benchmarks/hot_loops.hpp"

extern "C" [[gnu::noinline]] void rookery_counted(const std::function<void()>& loop) {
  loop();
  asm volatile("" ::: "memory");                               // no tail call: the function is on the stack while the loop runs
}

int main() {
  at::set_num_threads(1);
  for (const auto& [name, make] : rookery::benchmarks::hot_loops()) {
    const auto loop = make();
    for (int warming = 0; warming < 3; ++warming) loop();
    rookery_counted(loop);
    std::puts(name.c_str());
  }
}
