// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "support/fake_device.hpp"

#include <c10/core/Event.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "support/test.hpp"

namespace rookery::cases {
namespace {

at::Tensor here(const at::Tensor& host) { return host.to(fake_device); }

/// The signal that ends a child process which runs `fn`, 0 where none does.
template <class Fn> int signal_of(Fn&& fn) {
  const auto child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    std::signal(SIGBUS, SIG_DFL);
    fn();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST_SUITE("support/fake_device") {
  TEST_CASE("values travel there and back, and copies to the host are counted") {
    const auto host = at::arange(12, at::kDouble).view({3, 4});
    device_to_host();
    const auto device = here(host);
    CHECK(device.device() == fake_device);
    CHECK(device_to_host() == 0);
    CHECK(at::equal(device.cpu(), host));
    CHECK(device_to_host() == 1);
    CHECK(device.sum().item<double>() == 66);
    CHECK(device_to_host() == 1);
    device_waits();
    CHECK(device.nonzero().size(0) == 11);
    CHECK(device.index({device.gt(5)}).numel() == 6);
    CHECK(device_to_host() >= 2);
    CHECK(device_waits().front() == "aten::nonzero");
    CHECK(at::equal(seen_on_device(device), host));
    CHECK(device_to_host() == 0);
  }

  TEST_CASE("a copy that does not block arrives in pinned memory when an event is waited for") {
    const auto device = here(at::full({2}, 3., at::kDouble));
    auto host = at::empty({2}, at::TensorOptions(at::kDouble).pinned_memory(true));
    CHECK(host.is_pinned());
    device_to_host();
    host.copy_(device, /*non_blocking=*/true);
    c10::Event arrived(at::kPrivateUse1);
    arrived.record(c10::impl::VirtualGuardImpl(at::kPrivateUse1).getStream(fake_device));
    device.fill_(4);
    CHECK(host.isnan().all().item<bool>());
    arrived.synchronize();
    CHECK(at::equal(host, at::full({2}, 3., at::kDouble)));
    CHECK(device_to_host() == 0);
    std::vector<at::Tensor> plain;                           // the last where nothing pinned has been
    do plain.push_back(at::empty({2}, at::kDouble));
    while (fake::pinned.has(plain.back().const_data_ptr()));
    plain.back().copy_(device, /*non_blocking=*/true);
    CHECK(device_to_host() == 1);
  }

  TEST_CASE("views share memory, and operators write in place") {
    const auto device = here(at::zeros({3, 4}, at::kFloat));
    device.select(0, 1).fill_(2);
    device.t()[3].add_(1);
    device.view({12})[0] = 7;
    device.narrow(1, 1, 2).narrow(0, 2, 1).copy_(at::full({1, 2}, 5.));
    at::add_out(const_cast<at::Tensor&>(device), device, device);
    const auto expected = at::tensor({14.f, 0.f, 0.f, 2.f, 4.f, 4.f, 4.f, 6.f, 0.f, 10.f, 10.f, 2.f}).view({3, 4});
    CHECK(at::equal(seen_on_device(device), expected));
    at::Tensor made = at::empty({0}, at::TensorOptions(fake_device));
    at::cumsum_out(made, device, 0);
    CHECK(at::equal(seen_on_device(made), expected.cumsum(0)));
    made.resize_({5}).fill_(1);
    CHECK(seen_on_device(made).sum().item<float>() == 5);
  }

  TEST_CASE("tensors of the host among tensors of the device are refused, single numbers aside") {
    const auto device = here(at::ones({3}));
    CHECK_THROWS(device.add(at::ones({3})));
    CHECK_THROWS(at::cat({device, at::ones({3})}));
    CHECK_THROWS(device.index_select(0, at::zeros({1}, at::kLong)));
    CHECK(seen_on_device(device.mul(at::scalar_tensor(3.))).sum().item<float>() == 9);
  }

  TEST_CASE("autograd gives the gradients that it gives on the host") {
    const auto run = [](at::Device where) {
      const auto x = at::linspace(-1, 1, 24, at::kDouble).view({6, 4}).to(where).requires_grad_();
      const auto w = at::linspace(-.5, 1, 20, at::kDouble).view({5, 4}).to(where).requires_grad_();
      const auto b = at::linspace(0, 1, 5, at::kDouble).to(where).requires_grad_();
      const auto index = at::tensor({0, 2, 2, 5}, at::kLong).to(where);
      auto y = at::layer_norm(at::linear(x, w, b).relu(), {5}, b).index_select(0, index);
      y = at::batch_norm(y, b, b, {}, {}, true, .1, 1e-5, false);
      y = at::stack({y, at::silu(y), at::gelu(y)}, 1);
      y = at::bmm(y, y.transpose(1, 2)).flatten(1).clamp(-10, 10).prod(1);
      const auto labels = at::tensor({0., 1., 1., 0.}, at::kDouble).to(where);
      at::binary_cross_entropy_with_logits(y, labels, {}, {}, at::Reduction::Sum).backward();
      return std::vector{x.grad(), w.grad(), b.grad()};
    };
    const auto there = run(fake_device), host = run(at::kCPU);
    for (std::size_t i = 0; i < host.size(); ++i) {
      CHECK(there[i].device() == fake_device);
      CHECK(host[i].abs().max().item<double>() > 1e-3);
      CHECK(at::allclose(seen_on_device(there[i]), host[i], 1e-12, 1e-14));
    }
  }

  TEST_CASE("host code that reads the device's memory dies there") {
    const auto device = here(at::ones({4}, at::kFloat));
    CHECK(signal_of([] {}) == 0);
    CHECK(signal_of([&] { volatile float value = device.const_data_ptr<float>()[1]; (void)value; }) == SIGSEGV);
    CHECK(signal_of([&] { device.mutable_data_ptr<float>()[1] = 2; }) == SIGSEGV);
  }
}

}  // namespace
}  // namespace rookery::cases
