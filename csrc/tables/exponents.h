// The exponent of MXFP4: ggml takes floor(log2f(v)), and how the C library's log2f rounds just
// below a power of two is part of the format. So the floats at which it steps up are kept in a
// table.
#pragma once

#include "lane/lanes.h"

namespace apex {

struct Exponents {
    static constexpr int kLowest = -149;  // of the smallest float
    static constexpr int kCount = 279;    // up to 2^129, which no float reaches
    float least[kCount];  // least[i]: the smallest v with floor(log2f(v)) >= kLowest + i

    // Made by this machine's log2f, on first use.
    static const Exponents & get();
};

namespace {

// floor(log2f(v)) of a positive, finite v.
APEX_HOST_DEVICE inline int exponent_of(const Exponents & table, float v) {
    int e = (Lanes<1>::bits(v) >> 23) - 127;
    if (e == -127) {  // a subnormal number counts units of 2^-149
        const auto units = static_cast<float>(Lanes<1>::bits(v));
        e = (Lanes<1>::bits(units) >> 23) - 127 + Exponents::kLowest;
    }
    return v >= table.least[e + 1 - Exponents::kLowest] ? e + 1 : e;
}

}  // namespace
}  // namespace apex
