// The floating-point mode that every byte is defined in: round to nearest, denormals kept.
//
// Loading a library that was linked with -Ofast or -ffast-math turns on flush-to-zero in the whole
// thread, and threads inherit it. Every worker therefore sets the mode and restores it.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

#include <cstdint>

namespace apex::engine {

class FpEnvironment {
  public:
#if defined(__x86_64__) || defined(_M_X64)
    FpEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FpEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    FpEnvironment() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
    }
    ~FpEnvironment() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
    FpEnvironment() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~FpEnvironment() { std::fesetenv(&saved_); }
#endif
    FpEnvironment(const FpEnvironment &) = delete;
    FpEnvironment & operator=(const FpEnvironment &) = delete;

  private:
#if defined(__x86_64__) || defined(_M_X64)
    uint32_t saved_;
#elif defined(__aarch64__)
    uint64_t saved_;
#else
    std::fenv_t saved_;
#endif
};

}  // namespace apex::engine
