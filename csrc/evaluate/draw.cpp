#include "draw.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace apex::evaluate {

namespace {

std::vector<int64_t> indices(int64_t count) {
    std::vector<int64_t> result(static_cast<size_t>(count));
    std::iota(result.begin(), result.end(), int64_t{0});
    return result;
}

}  // namespace

std::vector<int64_t> draw_hellaswag(int64_t available, int64_t wanted) {
    std::mt19937 random(1);
    std::vector<int64_t> left = indices(available);
    std::vector<int64_t> result;
    for (int64_t i = 0; i < std::min(available, wanted); ++i) {
        std::uniform_int_distribution<size_t> any(0, left.size() - 1);
        const auto chosen = left.begin() + static_cast<std::ptrdiff_t>(any(random));
        result.push_back(*chosen);
        left.erase(chosen);
    }
    return result;
}

std::vector<int64_t> draw_tasks(int64_t available, int64_t wanted) {
    if (wanted <= 0 || wanted >= available) {
        return indices(available);
    }
    std::mt19937 random(1);
    // In float, as in llama-perplexity.
    const float scale = 1.f / (1.f + static_cast<float>(std::mt19937::max()));
    std::vector<int64_t> left = indices(available);
    std::vector<int64_t> result;
    for (int64_t i = 0; i < wanted; ++i) {
        const float place = scale * static_cast<float>(random()) * static_cast<float>(left.size());
        // Rounding up to the end would read past it there.
        const size_t chosen = std::min(static_cast<size_t>(place), left.size() - 1);
        result.push_back(left[chosen]);
        left[chosen] = left.back();
        left.pop_back();
    }
    return result;
}

}  // namespace apex::evaluate
