// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sockets: what the link between processes needs of TCP, over IPv4 and IPv6.  Include cost: none.

#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>

namespace rookery::detail {

/// A file descriptor that is closed once.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// Milliseconds until `deadline`, 0 when it has passed, as poll wants them: at most a minute.
inline int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60000));
}

/// Listens on a port of the system's choice, on every address of the machine. Errors: CommunicationError.
inline std::pair<Descriptor, int> listen_somewhere() {
  for (const int family : {AF_INET6, AF_INET}) {             // the first takes IPv4 too, where the machine has IPv6
    Descriptor listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in6 address{};                                  // all zero: any address, any port; of IPv4 it is the beginning
    address.sin6_family = static_cast<sa_family_t>(family);
    socklen_t size = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    const int no = 0;
    if (family == AF_INET6 && listener) ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (listener && ::bind(listener.get(), any, size) == 0 && ::listen(listener.get(), 1024) == 0 &&
        ::getsockname(listener.get(), any, &size) == 0)
      return {std::move(listener), ntohs(address.sin6_port)};
  }
  fail<CommunicationError>("liveness: no port to listen on: ", std::strerror(errno));
}

/// Connects to one address before `deadline`; gives why it could not, or 0.
inline int connect_before(const Descriptor& link, const addrinfo& to, Clock::time_point deadline) {
  if (!link) return errno;
  if (::connect(link.get(), to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  pollfd connecting{link.get(), POLLOUT, 0};
  while (::poll(&connecting, 1, milliseconds_until(deadline)) <= 0)
    if (Clock::now() >= deadline) return ETIMEDOUT;
  int reason = 0;
  socklen_t size = sizeof reason;
  return ::getsockopt(link.get(), SOL_SOCKET, SO_ERROR, &reason, &size) == 0 ? reason : errno;
}

/// Connects to any address of a host before `deadline`; gives the link, or why there is none.
inline std::pair<Descriptor, std::string> try_to_connect(const std::string& host, int port, Clock::time_point deadline) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_socktype = SOCK_STREAM;
  const int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  if (failed != 0) return {Descriptor(), concat("host '", host, "': ", ::gai_strerror(failed))};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, &::freeaddrinfo);
  int reason = 0;
  for (const auto* address = found; address; address = address->ai_next) {
    Descriptor link(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    reason = connect_before(link, *address, deadline);
    if (reason == 0) return {std::move(link), ""};
  }
  return {Descriptor(), concat(host, ":", port, ": ", std::strerror(reason))};
}

/// Connects to any address of a host. Errors: CommunicationError.
inline Descriptor connect_to(const std::string& host, int port, std::chrono::milliseconds timeout) {
  auto [link, why] = try_to_connect(host, port, Clock::now() + timeout);
  check<CommunicationError>(static_cast<bool>(link), "liveness: ", why);
  return std::move(link);
}

/// Waits until somebody listens. Errors: CommunicationError.
inline void wait_for_listener(const std::string& host, int port, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  for (;;) {
    const auto [link, why] = try_to_connect(host, port, deadline);
    if (link) return;
    check<CommunicationError>(Clock::now() < deadline, "after ", timeout.count(), " ms nobody listens there (", why, ")");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// Sends small messages at once, and breaks when the other machine has been silent for two minutes: one without power sends no end.
inline void watch(const Descriptor& link) {
  const auto set = [&](int level, int option, int value) { ::setsockopt(link.get(), level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 9);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 120000);
}

/// Sends all of it; gives why it could not, or 0. ETIMEDOUT: the peer has not been reading for a second. A link over which a part was sent
/// is good for nothing any more.
inline int send_all(const Descriptor& link, std::string_view bytes) {
  const auto deadline = Clock::now() + std::chrono::seconds(1);
  while (!bytes.empty()) {
    const auto sent = ::send(link.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      pollfd full{link.get(), POLLOUT, 0};
      if (::poll(&full, 1, milliseconds_until(deadline)) == 0 && Clock::now() >= deadline) return ETIMEDOUT;
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

/// Files that this process has open.
inline std::int64_t open_files() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), &::closedir);
  std::int64_t count = -3;                                   // the folder itself, . and ..
  while (folder && ::readdir(folder.get())) ++count;
  return std::max<std::int64_t>(count, 0);
}

/// Raises this process's limit of open files towards its hard limit, for `wanted` more, and refuses to go on with fewer than `needed`.
/// Errors: CommunicationError that says for what, how many, and the limits.
inline void make_room_for_files(std::int64_t needed, std::int64_t wanted, std::string_view what) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const auto open = static_cast<rlim_t>(open_files());
  const auto enough = std::min(limit.rlim_max, open + static_cast<rlim_t>(wanted));
  const rlimit raised{enough, limit.rlim_max};
  if (limit.rlim_cur < enough && ::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  check<CommunicationError>(open + static_cast<rlim_t>(needed) <= limit.rlim_cur, what, " needs ", needed, " more open files, but of ",
                            limit.rlim_cur, " that this process may have (ulimit -n; hard limit ", limit.rlim_max, ") ", open, " are open");
}

}  // namespace rookery::detail
