#include "core/parallel_for.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace wsol::cpu {
namespace {

// One parallel_for: workers and the caller take ranges from `next` until none is left.
struct Job {
  const std::function<void(int64_t, int64_t)>& body;
  int64_t count;
  int64_t chunk;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex{};
  std::exception_ptr error{};

  void work() {
    for (;;) {
      const int64_t begin = next.fetch_add(chunk);
      if (begin >= count) return;
      try {
        body(begin, std::min(begin + chunk, count));
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

// Waits for a moment without sleeping: steps of an operator follow each other within microseconds,
// and waking a thread takes longer. Whoever calls it has to sleep afterwards.
template <typename Condition>
void spin(const Condition& is_met) {
  for (int i = 0; i < 2000 && !is_met(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

class Pool {
 public:
  // Runs the job on `helpers` pool threads beside the caller, who returns when all of it is done.
  void run(Job& job, int helpers) {
    {
      const std::lock_guard lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) threads_.emplace_back([this] { loop(); });
      job_ = &job;
      wanted_ = helpers;
      active_ = 0;
    }
    wake_.notify_all();
    job.work();
    {
      const std::lock_guard lock(mutex_);
      wanted_ = 0;  // whoever has not woken yet has nothing left to do
    }
    spin([this] { return active_ == 0; });
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    job_ = nullptr;
  }

  std::mutex busy;  // held for a whole run: one job at a time

 private:
  void loop() {
    for (;;) {
      spin([this] { return wanted_ > 0; });
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_;
      ++active_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  std::atomic<int> wanted_ = 0, active_ = 0;  // changed under the mutex
};

// Never destroyed: its threads may outlive static destruction at exit.
Pool* pool = new Pool;
bool is_forked_child = false;

// A forked child (a data-loading worker) has none of the parent's threads. A team of OpenMP's would
// wait for them without end; our pool gets a successor.
[[maybe_unused]] const int handler = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  is_forked_child = true;
});

// GNU OpenMP's way to run a function on a team of threads, the caller's among them.
using RunOnTeam = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// That of torch, which is loaded before any kernel is called: nothing is linked. Null where there
// is none.
RunOnTeam torchs_team() {
#if defined(__linux__)
  static const RunOnTeam team = [] {
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch ? reinterpret_cast<RunOnTeam>(dlsym(torch, "GOMP_parallel")) : nullptr;
  }();
  if (!is_forked_child) return team;
#endif
  return nullptr;
}

thread_local bool inside_parallel_for = false;

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t ranges = (count + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int workers = static_cast<int>(std::min<int64_t>(threads, ranges));
  if (workers <= 1 || inside_parallel_for) return body(0, count);

  // A few ranges a worker even out ranges of unequal cost.
  const int64_t chunk = std::max<int64_t>(grain, (count + 4 * workers - 1) / (4 * workers));
  const std::function<void(int64_t, int64_t)> guarded = [&](int64_t begin, int64_t end) {
    inside_parallel_for = true;
    try {
      body(begin, end);
    } catch (...) {
      inside_parallel_for = false;
      throw;
    }
    inside_parallel_for = false;
  };
  Job job{guarded, count, std::max<int64_t>(chunk, 1)};
  if (const RunOnTeam run_on_team = torchs_team()) {
    // As many as torch asks for: a team of another size would end threads and start them again.
    run_on_team([](void* it) { static_cast<Job*>(it)->work(); }, &job, threads, 0);
  } else {
    std::unique_lock only_job(pool->busy, std::try_to_lock);
    if (!only_job) return body(0, count);  // another thread has the pool: do not wait for it
    pool->run(job, workers - 1);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace wsol::cpu
