// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MpiCommunicator: MPI-3 as topology/mpi.hpp uses it. Bytes of tensors, collectives that do not block, errors as exceptions, no limit
// on the size of a message, and memory that stays for as long as MPI may touch it.
//
// The only header with mpi.h; no type of MPI's shows in what others call.  Include cost: tensor.

#if !__has_include(<mpi.h>)
#error "rookery/topology/mpi.hpp: there is no mpi.h; compile with mpicxx, or with the flags that `mpicxx -show` prints"
#endif
#ifndef OMPI_SKIP_MPICXX                         // of the C++ bindings that MPI-3 has removed
#define OMPI_SKIP_MPICXX
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX
#endif

#include <mpi.h>

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>

namespace rookery::detail {

/// The most bytes that go as a plain count; more go as one element of a type of their own, for MPI-3 counts with an int. Tests lower it.
inline std::int64_t mpi_plain_bytes = std::int64_t{1} << 30;

/// MPI itself, once a process. Calls are made one at a time.
class MpiLibrary {
 public:
  static MpiLibrary& get() {
    static MpiLibrary library;
    return library;
  }
  MpiLibrary(const MpiLibrary&) = delete;
  MpiLibrary& operator=(const MpiLibrary&) = delete;
  /// Finalizes at the end of the process what it has initialised. Not when a group has not left in order: that would wait for the dead.
  ~MpiLibrary() {
    int finalized = 0;
    if (initialised_here_ && joined_ == 0 && MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Finalize();
  }

  /// Errors: CommunicationError with what MPI says.
  template <class Fn> void call(Fn&& fn) {
    const std::lock_guard lock(mutex_);
    const int code = fn();
    if (code == MPI_SUCCESS) [[likely]] return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int size = 0;
    MPI_Error_string(code, text, &size);
    std::replace(text, text + size, '\n', ' ');              // MPICH adds a stack
    fail<CommunicationError>("mpi: ", std::string_view(text, static_cast<std::size_t>(size)));
  }
  /// Groups that have not left in order.
  std::atomic<int>& joined() { return joined_; }

 private:
  MpiLibrary() {
    int before = 0, granted = MPI_THREAD_SINGLE;
    call([&] { return MPI_Initialized(&before); });
    if (before) {
      call([&] { return MPI_Query_thread(&granted); });
    } else {
      call([&] { return MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &granted); });
      call([] { return MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); });
      initialised_here_ = true;
    }
    check<ConfigError>(granted >= (before ? MPI_THREAD_MULTIPLE : MPI_THREAD_SERIALIZED), "mpi: calls from several threads are not "
                       "granted; initialise MPI by MPI_Init_thread with MPI_THREAD_MULTIPLE, or leave it to the library");
  }

  std::mutex mutex_;
  bool initialised_here_ = false;
  std::atomic<int> joined_ = 0;
};

/// Which bytes of a buffer go to, or come from, each rank, as MPI takes them.
struct MpiParts {
  std::vector<int> counts{}, begins{};           // in bytes, or elements of the types [W]
  std::vector<MPI_Datatype> types{};
  std::vector<MPI_Datatype> own{};               // of these, those to be freed

  /// The next rank's.
  void add(std::int64_t begin, std::int64_t bytes) {
    const bool plain = bytes == 0 || begin + bytes <= mpi_plain_bytes;
    counts.push_back(plain ? static_cast<int>(bytes) : 1);
    begins.push_back(plain && bytes > 0 ? static_cast<int>(begin) : 0);
    types.push_back(plain ? MPI_BYTE : own.emplace_back(large(begin, bytes)));
  }
  /// One after the other.
  void add_all(const Counts& bytes) {
    std::int64_t begin = 0;
    for (const auto one : bytes) {
      add(begin, one);
      begin += one;
    }
  }

 private:
  /// One element that is so many bytes from there on.
  static MPI_Datatype large(std::int64_t begin, std::int64_t bytes) {
    MPI_Datatype block = MPI_DATATYPE_NULL, whole = MPI_DATATYPE_NULL;
    const auto rest = bytes % mpi_plain_bytes;
    const int lengths[]{static_cast<int>(bytes / mpi_plain_bytes), static_cast<int>(rest)};
    const MPI_Aint begins_at[]{begin, begin + bytes - rest};
    auto& library = MpiLibrary::get();
    library.call([&] { return MPI_Type_contiguous(static_cast<int>(mpi_plain_bytes), MPI_BYTE, &block); });
    const MPI_Datatype of[]{block, MPI_BYTE};
    library.call([&] { return MPI_Type_create_struct(2, lengths, begins_at, of, &whole); });
    library.call([&] { return MPI_Type_commit(&whole); });
    library.call([&] { return MPI_Type_free(&block); });
    return whole;
  }
};

/// What MPI reads and writes until it is done with it.
struct MpiWork {
  std::vector<MPI_Request> requests{};           // not done yet
  at::Tensor in{}, out{};
  MpiParts send{}, receive{};
  Counts shares{};                               // bytes that each rank is to combine for all, and has not yet sent to them
  ReduceOp op = ReduceOp::sum;                   // by which it does
  std::exception_ptr failed{};                   // why it will never be done
  std::int64_t number = 0;                       // which tells the messages of one such work from another's
  MPI_Comm made = MPI_COMM_NULL;                 // a communicator that it makes

  /// Moves on. Gives whether what was posted is done.
  bool done() {
    while (!requests.empty()) {
      int over = 0;
      MpiLibrary::get().call([&] { return MPI_Test(&requests.back(), &over, MPI_STATUS_IGNORE); });
      if (!over) return false;
      requests.pop_back();
    }
    return true;
  }
  std::size_t bytes() const { return (in.defined() ? in.nbytes() : 0) + (out.defined() ? out.nbytes() : 0); }
  MPI_Request* next_request() { return &requests.emplace_back(MPI_REQUEST_NULL); }

  /// Work that nobody waits for to its end stays until the process ends, for other ranks may still write to it; and MPI is not finalized.
  struct Release {
    void operator()(MpiWork* work) const {
      static std::mutex mutex;
      static auto& left_behind = *new std::vector<MpiWork*>;
      auto& library = MpiLibrary::get();
      std::erase(work->requests, MPI_REQUEST_NULL);          // of what MPI has refused
      if (work->requests.empty()) {
        for (auto* parts : {&work->send, &work->receive})
          for (auto& type : parts->own) library.call([&] { return MPI_Type_free(&type), MPI_SUCCESS; });
        return delete work;
      }
      ++library.joined();
      const std::lock_guard lock(mutex);
      left_behind.push_back(work);
    }
  };
  using Pointer = std::shared_ptr<MpiWork>;
  static Pointer make(at::Tensor in = {}, at::Tensor out = {}) {
    return {new MpiWork{.in = std::move(in), .out = std::move(out)}, Release{}};
  }
};

/// A communicator of our own over all processes. Sizes and counts are in bytes; tensors are contiguous.
///
/// Errors:  CommunicationError with what MPI says. Nothing waits for another rank but `free`, to which all have come.
class MpiCommunicator {
 public:
  int world_rank() const { return asked(MPI_Comm_rank, MPI_COMM_WORLD); }
  int world_size() const { return asked(MPI_Comm_size, MPI_COMM_WORLD); }
  MpiWork::Pointer start() {
    auto work = MpiWork::make();
    library_.call([&] { return MPI_Comm_idup(MPI_COMM_WORLD, &work->made, work->next_request()); });
    return work;
  }
  void started(const MpiWork& work) {
    communicator_ = work.made;
    library_.call([&] { return MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN); });
    ++library_.joined();
  }
  std::string host() const {
    char name[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int size = 0;
    library_.call([&] { return MPI_Get_processor_name(name, &size); });
    return name;
  }
  /// Lets MPI do what it has to do.
  void move_on() {
    int found = 0;
    library_.call([&] { return MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, communicator_, &found, MPI_STATUS_IGNORE); });
  }
  /// Ends it in order. Every rank calls it after a barrier, and nothing else after it.
  void free() {
    if (communicator_ == MPI_COMM_NULL) return;
    library_.call([&] { return MPI_Comm_free(&communicator_); });
    --library_.joined();
  }

  /// Rank r gets the bytes [r] of `in`, and gives those of `out`. By types of their own for each rank, and so without a limit.
  MpiWork::Pointer exchange(at::Tensor in, const Counts& sent, at::Tensor out, const Counts& received) {
    auto work = MpiWork::make(std::move(in), std::move(out));
    work->send.add_all(sent);
    work->receive.add_all(received);
    post_exchange(*work);
    return work;
  }
  /// Every rank gets all of every rank's `in`.
  MpiWork::Pointer gather(at::Tensor in, at::Tensor out, const Counts& received) {
    auto work = MpiWork::make(std::move(in), std::move(out));
    auto& into = work->receive;
    into.add_all(received);
    const auto bytes = static_cast<std::int64_t>(work->in.nbytes());
    if (static_cast<std::int64_t>(work->out.nbytes()) <= mpi_plain_bytes) {                  // as all ranks know
      library_.call([&] {
        return MPI_Iallgatherv(work->in.const_data_ptr(), static_cast<int>(bytes), MPI_BYTE, work->out.mutable_data_ptr(),
                               into.counts.data(), into.begins.data(), MPI_BYTE, communicator_, work->next_request());
      });
    } else {
      for (std::size_t rank = 0; rank < received.size(); ++rank) work->send.add(0, bytes);
      post_exchange(*work);
    }
    return work;
  }
  /// Every rank gets the `tensor` of rank `root` in its own.
  MpiWork::Pointer broadcast(at::Tensor tensor, int root) {
    auto work = MpiWork::make({}, std::move(tensor));
    auto& whole = work->receive;
    whole.add(0, static_cast<std::int64_t>(work->out.nbytes()));
    library_.call([&] {
      return MPI_Ibcast(work->out.mutable_data_ptr(), whole.counts[0], whole.types[0], root, communicator_, work->next_request());
    });
    return work;
  }
  MpiWork::Pointer barrier() {
    auto work = MpiWork::make();
    library_.call([&] { return MPI_Ibarrier(communicator_, work->next_request()); });
    return work;
  }
  /// Rank `self` has its share in `out`, and gets those of the others. By messages from rank to rank, which need no order among ranks.
  void spread(MpiWork& work, const Counts& shares, int self) {
    const int tag = static_cast<int>(work.number % 32768);   // what every MPI has at least
    auto* bytes = static_cast<char*>(work.out.mutable_data_ptr());
    auto* const own = bytes + std::accumulate(shares.begin(), shares.begin() + self, std::int64_t{0});
    const auto in_pieces = [&](char* begin, std::int64_t size, auto post) {
      for (std::int64_t at = 0; at < size; at += mpi_plain_bytes)
        library_.call([&] { return post(begin + at, static_cast<int>(std::min(mpi_plain_bytes, size - at)), work.next_request()); });
    };
    for (int rank = 0; rank < static_cast<int>(shares.size()); ++rank) {
      const auto size = shares[static_cast<std::size_t>(rank)];
      if (rank != self) {
        in_pieces(bytes, size, [&](char* at, int piece, MPI_Request* request) {
          return MPI_Irecv(at, piece, MPI_BYTE, rank, tag, communicator_, request);
        });
        in_pieces(own, shares[static_cast<std::size_t>(self)], [&](char* at, int piece, MPI_Request* request) {
          return MPI_Isend(at, piece, MPI_BYTE, rank, tag, communicator_, request);
        });
      }
      bytes += size;
    }
  }

 private:
  template <class Question> int asked(Question question, MPI_Comm communicator) const {
    int answer = 0;
    library_.call([&] { return question(communicator, &answer); });
    return answer;
  }
  void post_exchange(MpiWork& work) {
    const auto &send = work.send, &receive = work.receive;
    library_.call([&] {
      return MPI_Ialltoallw(work.in.const_data_ptr(), send.counts.data(), send.begins.data(), send.types.data(),
                            work.out.mutable_data_ptr(), receive.counts.data(), receive.begins.data(), receive.types.data(), communicator_,
                            work.next_request());
    });
  }

  MpiLibrary& library_ = MpiLibrary::get();
  MPI_Comm communicator_ = MPI_COMM_NULL;
};

}  // namespace rookery::detail
