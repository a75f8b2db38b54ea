#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

#include "isa/isa.h"

namespace apex::dispatch {

namespace {

struct Level {
    std::string name;
    const KernelTable & (*table)();
};

std::vector<Level> levels() {
    std::vector<Level> result{{"scalar", isa::scalar}};
#if defined(__x86_64__) && defined(__GNUC__)
    result.push_back({"baseline", isa::baseline});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
        result.push_back({"avx2", isa::avx2});
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            result.push_back({"avx512", isa::avx512});
        }
    }
#elif defined(__aarch64__) && defined(__GNUC__)
    result.push_back({"neon", isa::neon});
#endif
    return result;
}

Level choose() {
    const std::vector<Level> found = levels();
    const char * wanted = std::getenv("APEX_ISA");
    if (wanted == nullptr || *wanted == '\0') {
        return found.back();
    }
    std::string names;
    for (const Level & level : found) {
        if (level.name == wanted) {
            return level;
        }
        names += (names.empty() ? "" : ", ") + level.name;
    }
    throw std::invalid_argument("APEX_ISA is '" + std::string(wanted) +
                                "', but this CPU and build have " + names);
}

}  // namespace

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Level & level : levels()) {
        names.push_back(level.name);
    }
    return names;
}

const KernelTable & kernels() {
    static const KernelTable & table = choose().table();  // tried again after an exception
    return table;
}

}  // namespace apex::dispatch
