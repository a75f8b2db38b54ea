#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

#include "fp_environment.h"

namespace apex::engine {

namespace {

// One call of parallel_for.
struct Loop {
    const std::function<void(int64_t)> * body = nullptr;
    int64_t count = 0;
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
    int64_t error_index = std::numeric_limits<int64_t>::max();

    void work() {
        FpEnvironment exact;
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
            try {
                (*body)(i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex);
                if (i < error_index) {
                    error_index = i;
                    error = std::current_exception();
                }
                next.store(count);  // no new items; those under way finish
            }
        }
    }
};

class Pool {
  public:
    // Runs the loop on `helpers` pool threads and on the caller's.
    void run(Loop & loop, int helpers) {
        std::lock_guard<std::mutex> turn(turn_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(threads_.size()) < helpers) {
                threads_.emplace_back([this] { serve(); });
            }
            loop_ = &loop;
            seats_ = helpers;
            running_ = 0;
        }
        wake_.notify_all();
        loop.work();
        std::unique_lock<std::mutex> lock(mutex_);
        seats_ = 0;  // whoever has not begun by now is not needed
        done_.wait(lock, [this] { return running_ == 0; });
        loop_ = nullptr;
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
        }
        wake_.notify_all();
        for (auto & thread : threads_) {
            thread.join();
        }
    }

  private:
    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            wake_.wait(lock, [this] { return stop_ || seats_ > 0; });
            if (stop_) {
                return;
            }
            --seats_;
            ++running_;
            Loop * loop = loop_;
            lock.unlock();
            loop->work();
            lock.lock();
            if (--running_ == 0) {
                done_.notify_all();
            }
        }
    }

    std::mutex turn_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::vector<std::thread> threads_;
    Loop * loop_ = nullptr;
    int seats_ = 0;
    int running_ = 0;
    bool stop_ = false;
};

// The pool outlives the interpreter, whose threads may still be inside it at exit. A forked child
// has none of its parent's threads and gets a pool of its own.
Pool & pool() {
    static std::mutex mutex;
    static Pool * instance = nullptr;
    static auto owner = getpid();
    std::lock_guard<std::mutex> lock(mutex);
    if (instance == nullptr || owner != getpid()) {
        instance = new Pool;
        owner = getpid();
    }
    return *instance;
}

}  // namespace

int available_threads() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return std::max(1, CPU_COUNT(&set));
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)> & body) {
    const int64_t wanted = threads > 0 ? threads : available_threads();
    const int helpers = static_cast<int>(std::min(wanted, count)) - 1;
    Loop loop;
    loop.body = &body;
    loop.count = count;
    if (helpers > 0) {
        pool().run(loop, helpers);
    } else {
        loop.work();
    }
    if (loop.error) {
        std::rethrow_exception(loop.error);
    }
}

}  // namespace apex::engine
