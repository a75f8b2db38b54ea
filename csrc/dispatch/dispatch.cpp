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

Level find(const std::string & wanted, const std::string & who) {
    std::string names;
    for (const Level & level : levels()) {
        if (level.name == wanted) {
            return level;
        }
        names += (names.empty() ? "" : ", ") + level.name;
    }
    throw std::invalid_argument(who + " is '" + wanted + "', but this CPU and build have " + names);
}

Level choose() {
    const char * wanted = std::getenv("APEX_ISA");
    if (wanted == nullptr || *wanted == '\0') {
        return levels().back();
    }
    return find(wanted, "APEX_ISA");
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

const KernelTable & kernels(const std::string & isa) {
    return find(isa, "isa").table();
}

}  // namespace apex::dispatch
