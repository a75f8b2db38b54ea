#include "exponents.h"

#include <cmath>
#include <limits>

namespace apex {

namespace {

bool reaches(float v, int exponent) {
    return std::floor(std::log2(v)) >= static_cast<float>(exponent);
}

// The smallest float with that exponent. `above` has it.
float step_up(int exponent, float above) {
    float below = std::ldexp(1.f, exponent - 1);
    while (above > 0 && std::nextafter(below, above) < above) {
        const float middle = below + (above - below) / 2;
        const bool between = middle > below && middle < above;
        const float tried = between ? middle : std::nextafter(below, above);
        (reaches(tried, exponent) ? above : below) = tried;
    }
    return above;
}

}  // namespace

const Exponents & Exponents::get() {
    static const Exponents made = [] {
        Exponents result{};
        constexpr float largest = std::numeric_limits<float>::max();
        for (int i = 0; i < kCount; ++i) {
            const int exponent = kLowest + i;
            if (exponent < 128) {
                result.least[i] = step_up(exponent, std::ldexp(1.f, exponent));
            } else {  // no power of two, but what rounds up to it
                result.least[i] = reaches(largest, exponent)
                                      ? step_up(exponent, largest)
                                      : std::numeric_limits<float>::infinity();
            }
        }
        return result;
    }();
    return made;
}

}  // namespace apex
