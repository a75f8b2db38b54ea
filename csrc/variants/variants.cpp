#include "variants.h"

#include <ggml-cpu.h>

#include <cstdlib>
#include <stdexcept>

// vendor/llama.cpp/variants.cmake lists them, with the registers that each needs, and gives their
// functions these names.
#define VARIANT(name, registers)                                           \
    extern "C" int name##_ggml_backend_score();                            \
    extern "C" ggml_backend_reg_t name##_ggml_backend_cpu_reg();           \
    extern "C" decltype(ggml_threadpool_new) name##_ggml_threadpool_new;   \
    extern "C" decltype(ggml_threadpool_free) name##_ggml_threadpool_free; \
    extern "C" decltype(ggml_threadpool_pause) name##_ggml_threadpool_pause;
#include <variants.inc>
#undef VARIANT

// Upstream's score asks the CPU alone; the system must save the registers too.
#if defined(__x86_64__)
#define IS_SAVED(registers) (__builtin_cpu_supports(#registers) != 0)
#else
#define IS_SAVED(registers) true
#endif

namespace apex::variants {

namespace {

struct Variant {
    const char * name;
    bool (*is_available)();
    decltype(ggml_backend_cpu_reg) * reg;
    decltype(ggml_threadpool_new) * threadpool_new;
    decltype(ggml_threadpool_free) * threadpool_free;
    decltype(ggml_threadpool_pause) * threadpool_pause;
};

const Variant ALL[] = {
#define VARIANT(name, registers)                                            \
    {#name,                                                                 \
     [] { return name##_ggml_backend_score() > 0 && IS_SAVED(registers); }, \
     name##_ggml_backend_cpu_reg,                                           \
     name##_ggml_threadpool_new,                                            \
     name##_ggml_threadpool_free,                                           \
     name##_ggml_threadpool_pause},
#include <variants.inc>
#undef VARIANT
};

std::vector<const Variant *> runnable() {
    std::vector<const Variant *> result;
    for (const Variant & variant : ALL) {
        if (variant.is_available()) {
            result.push_back(&variant);
        }
    }
    return result;
}

const Variant & choose() {
    const std::vector<const Variant *> variants = runnable();
    const char * wanted = std::getenv("APEX_CPU_VARIANT");
    if (variants.empty()) {
        throw std::invalid_argument("this CPU runs none of the variants of this build");
    }
    if (wanted == nullptr || *wanted == '\0') {
        return *variants.back();
    }
    std::string names;
    for (const Variant * variant : variants) {
        if (variant->name == std::string(wanted)) {
            return *variant;
        }
        names += (names.empty() ? "" : ", ") + std::string(variant->name);
    }
    throw std::invalid_argument("APEX_CPU_VARIANT is '" + std::string(wanted) +
                                "', but this CPU and build have " + names);
}

const Variant & chosen() {
    static const Variant & variant = choose();
    return variant;
}

}  // namespace

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Variant * variant : runnable()) {
        names.emplace_back(variant->name);
    }
    return names;
}

std::string active() {
    return chosen().name;
}

}  // namespace apex::variants

// What the rest of upstream and of csrc calls by these names.
using apex::variants::chosen;

ggml_backend_reg_t ggml_backend_cpu_reg() {
    return chosen().reg();
}

ggml_threadpool * ggml_threadpool_new(ggml_threadpool_params * params) {
    return chosen().threadpool_new(params);
}

void ggml_threadpool_free(ggml_threadpool * pool) {
    chosen().threadpool_free(pool);
}

void ggml_threadpool_pause(ggml_threadpool * pool) {
    chosen().threadpool_pause(pool);
}
