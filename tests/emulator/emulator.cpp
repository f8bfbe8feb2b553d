#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "context.h"

namespace emulator {
namespace {

// --- fibers

enum class State { kNotStarted, kReady, kAtBarrier, kAtWarpOperation, kExited };

struct Copy {
  void* to;
  const void* from;
  size_t bytes, present;
};

// A CUDA thread. Fibers are kept and serve block after block.
struct Fiber {
  Context context;
  uint3 index;
  int rank;  // in the block: x fastest, then y, z
  State state;

  // What it waits for, or last waited for.
  const char* operation;
  std::source_location where;
  bool predicate;
  unsigned mask;
  uint64_t brought;
  WarpValues received;

  std::vector<Copy> copies;  // under way
};

struct Abandoned {};  // thrown in a waiting fiber to unwind it, once its block has failed

// The launch under way.
struct Launch {
  const char* operator_name;
  const std::function<void()>* thread_body;
  std::span<Fiber> block;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes;
  std::exception_ptr error;
  size_t at_barrier;
  int barrier_count;
};

std::mutex one_launch;  // guards all that follows, and the built-in variables
Launch running;
Fiber* current;
Context scheduler;

void suspend() {
  switch_context(current->context, scheduler);
  if (running.error) throw Abandoned();
}

void demand_no_copies(const Fiber& fiber);

void fiber_main() {
  entered_from(scheduler);
  for (;;) {
    try {
      (*running.thread_body)();
      demand_no_copies(*current);
    } catch (const Abandoned&) {
    } catch (...) {
      running.error = std::current_exception();
    }
    current->state = State::kExited;
    switch_context(current->context, scheduler);
  }
}

void start(Fiber& fiber) {
  constexpr size_t kStackBytes = 128 * 1024, kGuardBytes = 64 * 1024;
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  fiber.context.stack_bottom = static_cast<char*>(memory) + kGuardBytes;
  fiber.context.stack_bytes = kStackBytes;
  enter_on_first_swap(fiber.context, fiber_main);
}

void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  switch_context(scheduler, fiber.context);
}

// Never freed: between blocks each fiber rests in its endless loop.
std::span<Fiber> fibers(size_t count) {
  static auto& all = *new std::vector<Fiber>(kMaxThreads);
  const std::span<Fiber> block = std::span(all).first(count);
  for (Fiber& fiber : block) {
    if (fiber.context.stack_bottom == nullptr) start(fiber);
  }
  return block;
}

// --- errors

std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string whereabouts(const Fiber& fiber) {
  if (fiber.state == State::kExited) return "exited";
  if (fiber.state != State::kAtBarrier && fiber.state != State::kAtWarpOperation) return "running";
  std::string place = std::string("at ") + fiber.operation;
  if (fiber.state == State::kAtWarpOperation) {
    char mask[16];
    std::snprintf(mask, sizeof(mask), " of 0x%08x", fiber.mask);
    place += mask;
  }
  return place + " in " + fiber.where.file_name() + ":" + std::to_string(fiber.where.line());
}

std::runtime_error error(const std::string& what) {
  return std::runtime_error(std::string(running.operator_name) + ": block " + text(blockIdx) +
                            ": " + what);
}

void demand_no_copies(const Fiber& fiber) {
  if (fiber.copies.empty()) return;
  throw error("thread " + text(fiber.index) + " ends with " + std::to_string(fiber.copies.size()) +
              " copies that it has not waited for");
}

// Says where the threads are, those at one place together.
std::runtime_error divergence(const std::string& what, std::span<const Fiber> threads) {
  std::map<std::string, std::vector<const Fiber*>> places;
  for (const Fiber& fiber : threads) places[whereabouts(fiber)].push_back(&fiber);
  std::string message = "divergent " + what;
  const char* separator = ": ";
  for (const auto& [place, there] : places) {
    message += separator + std::to_string(there.size()) + " of " + std::to_string(threads.size()) +
               " threads " + place + ", the first of them thread " + text(there.front()->index);
    separator = "; ";
  }
  return error(message);
}

bool same_call(const Fiber& a, const Fiber& b) {
  return a.where.line() == b.where.line() && a.where.column() == b.where.column() &&
         std::strcmp(a.where.file_name(), b.where.file_name()) == 0;
}

std::span<Fiber> warp_of(const Fiber& fiber) {
  const size_t first = fiber.rank / warpSize * warpSize;
  return running.block.subspan(first, std::min<size_t>(warpSize, running.block.size() - first));
}

// --- a block

void check_limits(const char* operator_name, dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu ||
      grid.y > 65535 || grid.z > 65535 || shared_bytes > kMaxSharedBytes) {
    throw std::runtime_error(std::string(operator_name) + ": a GPU refuses this launch: grid " +
                             text({grid.x, grid.y, grid.z}) + ", block " +
                             text({block.x, block.y, block.z}) + ", " +
                             std::to_string(shared_bytes) + " bytes of shared memory (at most " +
                             std::to_string(kMaxSharedBytes) + ")");
  }
}

uint3 unravel(uint64_t rank, dim3 size) {
  return {static_cast<unsigned>(rank % size.x), static_cast<unsigned>(rank / size.x % size.y),
          static_cast<unsigned>(rank / size.x / size.y)};
}

// Puts 0, 1, ... in the schedule's order.
void arrange(std::vector<uint64_t>& order, std::mt19937_64& random) {
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (schedule.order == Order::kDescending) std::ranges::reverse(order);
  if (schedule.order == Order::kShuffled) std::ranges::shuffle(order, random);
}

// Resumes whoever can go on until all have exited. Where nobody can, those who wait have missed
// each other.
void run_threads(std::mt19937_64& random) {
  std::vector<uint64_t> order(running.block.size());
  for (bool progress = true; progress;) {
    progress = false;
    arrange(order, random);
    for (const uint64_t rank : order) {
      Fiber& fiber = running.block[rank];
      if (fiber.state != State::kNotStarted && fiber.state != State::kReady) continue;
      fiber.state = State::kReady;
      resume(fiber);
      if (running.error) return;
      progress = true;
    }
  }
  const auto anyone = [](State state) {
    return std::ranges::find(running.block, state, &Fiber::state);
  };
  if (const auto waiting = anyone(State::kAtWarpOperation); waiting != running.block.end()) {
    running.error = std::make_exception_ptr(divergence("warp operation", warp_of(*waiting)));
  } else if (anyone(State::kAtBarrier) != running.block.end()) {
    running.error = std::make_exception_ptr(divergence("barrier", running.block));
  }
}

void run_block(dim3 block, size_t shared_bytes, std::mt19937_64& random) {
  running.at_barrier = 0;
  running.shared.reset(shared_bytes > 0 ? new unsigned char[shared_bytes] : nullptr);
  running.shared_bytes = shared_bytes;
  std::fill_n(running.shared.get(), shared_bytes, schedule.poison);
  counting::begin_block({running.shared.get(), shared_bytes});
  for (size_t rank = 0; rank < running.block.size(); ++rank) {
    Fiber& fiber = running.block[rank];
    fiber.index = unravel(rank, block);
    fiber.rank = static_cast<int>(rank);
    fiber.state = State::kNotStarted;
    fiber.copies.clear();
  }
  run_threads(random);
  counting::end_block();
  if (!running.error) return;
  for (Fiber& fiber : running.block) {
    if (fiber.state != State::kNotStarted && fiber.state != State::kExited) resume(fiber);
  }
  std::rethrow_exception(std::exchange(running.error, nullptr));
}

}  // namespace

void launch(const char* operator_name, const void* kernel, dim3 grid, dim3 block,
            size_t shared_bytes, const std::function<void()>& thread_body) {
  check_limits(operator_name, grid, block, shared_bytes);
  const std::lock_guard lock(one_launch);
  running.operator_name = operator_name;
  running.thread_body = &thread_body;
  running.block = fibers(size_t{block.x} * block.y * block.z);
  counting::begin_launch(operator_name, kernel);
  gridDim = grid;
  blockDim = block;
  std::mt19937_64 random(schedule.seed);
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  arrange(order, random);
  for (const uint64_t rank : order) {
    blockIdx = unravel(rank, grid);
    run_block(block, shared_bytes, random);
  }
}

unsigned char* dynamic_shared() { return running.shared.get(); }

void demand_shared(const char* operation, const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(running.shared.get());
  const auto first = reinterpret_cast<uintptr_t>(address);
  if (first % bytes != 0 || first < begin || first + bytes > begin + running.shared_bytes) {
    throw error(std::string(operation) + " of thread " + text(current->index) +
                " names what is not " + std::to_string(bytes) +
                " bytes of shared memory on a boundary of as many");
  }
}

int rank() { return current->rank; }

void cp_async(void* to, const void* from, size_t bytes, size_t present) {
  demand_shared("cp.async", to, bytes);
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    throw error("cp.async of thread " + text(current->index) + " reads off a boundary of " +
                std::to_string(bytes) + " bytes");
  }
  if (present > 0) record(Access::kRead, from, present, __builtin_return_address(0));
  record(Access::kWrite, to, bytes, __builtin_return_address(0));
  std::memset(to, schedule.poison, bytes);
  current->copies.push_back({to, from, bytes, present});
}

void cp_async_wait_all() {
  for (const Copy& copy : current->copies) {
    std::memcpy(copy.to, copy.from, copy.present);
    std::memset(static_cast<char*>(copy.to) + copy.present, 0, copy.bytes - copy.present);
  }
  current->copies.clear();
}

int lane() { return current->rank % warpSize; }

int barrier(const char* operation, bool predicate, const std::source_location& where) {
  Fiber& self = *current;
  self.operation = operation;
  self.where = where;
  self.predicate = predicate;
  self.state = State::kAtBarrier;
  if (++running.at_barrier < running.block.size()) {
    suspend();
    return running.barrier_count;  // the next barrier cannot complete before all have read this
  }
  int count = 0;
  for (const Fiber& fiber : running.block) {
    if (!same_call(fiber, self)) throw divergence("barrier", running.block);
    count += fiber.predicate;
  }
  for (Fiber& fiber : running.block) fiber.state = State::kReady;
  counting::pass_barrier();
  running.at_barrier = 0;
  return running.barrier_count = count;
}

const WarpValues& exchange(const char* operation, unsigned mask, uint64_t value,
                           const std::source_location& where) {
  Fiber& self = *current;
  counting::pass_warp_operation();
  self.operation = operation;
  self.where = where;
  self.mask = mask;
  self.brought = value;
  self.state = State::kAtWarpOperation;
  const std::span<Fiber> warp = warp_of(self);
  const size_t highest = std::bit_width(mask);
  if ((mask >> lane() & 1) == 0 || highest > warp.size()) {
    throw error("divergent warp operation: the mask of thread " + text(self.index) + ", " +
                whereabouts(self) + ", leaves out its own lane or names one that does not exist");
  }
  const auto named = [&](size_t i) { return (mask >> i & 1) != 0; };
  for (size_t i = 0; i < highest; ++i) {
    if (named(i) && warp[i].state != State::kAtWarpOperation) {
      suspend();
      return self.received;
    }
  }
  WarpValues values;
  values.fill(schedule.poison * 0x0101010101010101u);
  for (size_t i = 0; i < highest; ++i) {
    if (!named(i)) continue;
    if (warp[i].mask != mask || !same_call(warp[i], self)) {
      throw divergence("warp operation", warp);
    }
    values[i] = warp[i].brought;
  }
  for (size_t i = 0; i < highest; ++i) {
    if (!named(i)) continue;
    warp[i].received = values;
    warp[i].state = State::kReady;
  }
  return self.received;
}

}  // namespace emulator
