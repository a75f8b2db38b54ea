// The memories that a kernel sees, each with a check of every access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ptx {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Which bytes of the process are the device's memory.
class GlobalMemory {
  public:
    void add(const void * begin, size_t bytes, bool may_change);
    void remove(const void * begin);
    void check(uint64_t address, size_t bytes, bool changes) const;

  private:
    struct Region {
        uint64_t end;
        bool may_change;
    };
    std::map<uint64_t, Region> regions_;  // by their begin
};

// Some of it, to the byte, aligned as cudaMalloc does it.
class Buffer {
  public:
    enum class Use { constant, variable };

    // Holds a copy of `data`, or without it what no kernel would write.
    Buffer(GlobalMemory & memory, const void * data, size_t bytes, Use use);
    ~Buffer();
    Buffer(const Buffer &) = delete;
    Buffer & operator=(const Buffer &) = delete;

    template <typename T>
    T * as() const {
        return static_cast<T *>(data_);
    }
    size_t size() const { return bytes_; }

  private:
    GlobalMemory & memory_;
    void * data_;
    size_t bytes_;
};

// Of one thread: what it was given, or its own.
class PrivateMemory {
  public:
    explicit PrivateMemory(std::vector<unsigned char> bytes) : bytes_(std::move(bytes)) {}
    unsigned char * at(uint64_t address, size_t bytes);

  private:
    std::vector<unsigned char> bytes_;
};

// Two threads touch a byte of shared memory between two barriers, one of them writing: which comes
// first is open, unless both updates are atomic. Global memory is not watched for this: all that
// threads write there alike are flags.
struct Hazards {
    int64_t count = 0;
    std::string first;
};

class SharedMemory {
  public:
    SharedMemory(size_t bytes, Hazards & hazards);

    const unsigned char * read(uint64_t address, size_t bytes, uint32_t thread);
    unsigned char * write(uint64_t address, size_t bytes, uint32_t thread);
    unsigned char * update(uint64_t address, size_t bytes, uint32_t thread);  // atomically
    void forget_touches();                                                    // at a barrier

  private:
    static constexpr int32_t kNobody = -1;
    static constexpr int32_t kSeveral = -2;
    struct Touch {
        int32_t reader = kNobody;
        int32_t writer = kNobody;
        int32_t updater = kNobody;
    };

    using Toucher = int32_t Touch::*;

    unsigned char * touch(uint64_t address, size_t bytes, uint32_t thread, Toucher as,
                          std::initializer_list<Toucher> hindered_by);
    void check_range(uint64_t address, size_t bytes) const;
    void note_hazard(uint64_t address, uint32_t thread);

    std::vector<unsigned char> bytes_;
    std::vector<Touch> touches_;  // since the last barrier
    Hazards & hazards_;
};

}  // namespace ptx
