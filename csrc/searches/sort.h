// Sorts within lanes.
#pragma once

#include "lane/lanes.h"

#if !defined(__GLIBC__)
#include <stdlib.h>
#endif

namespace apex {
namespace {

// What is sorted along: a value, where it was, and its weight.
template <typename L, int count>
struct Sorted {
    typename L::F value[count];
    typename L::I place[count];
    typename L::F weight[count];
};

template <typename L, int count>
inline void exchange(Sorted<L, count> & s, int a, int b) {
    const auto less = s.value[b] < s.value[a];
    const auto equal = (s.value[b] == s.value[a]) & (s.place[b] < s.place[a]);
    const auto swap = less | equal;
    const auto value = s.value[a];
    const auto place = s.place[a];
    const auto weight = s.weight[a];
    s.value[a] = L::select(swap, s.value[b], value);
    s.place[a] = L::select(swap, s.place[b], place);
    s.weight[a] = L::select(swap, s.weight[b], weight);
    s.value[b] = L::select(swap, value, s.value[b]);
    s.place[b] = L::select(swap, place, s.place[b]);
    s.weight[b] = L::select(swap, weight, s.weight[b]);
}

#if !defined(__GLIBC__)
struct Pair {
    float value;
    int32_t place;
};

inline int compare_pairs(const void * a, const void * b) {
    const float left = static_cast<const Pair *>(a)->value;
    const float right = static_cast<const Pair *>(b)->value;
    return left < right ? -1 : left > right;
}

template <typename L, int count>
inline void sort_as_libc(Sorted<L, count> & s) {
    Pair pairs[count];
    float values[count][L::width], weights[count][L::width], given[count][L::width];
    int32_t places[count][L::width];
    std::memcpy(values, s.value, sizeof(values));
    std::memcpy(given, s.weight, sizeof(given));
    for (int lane = 0; lane < L::width; ++lane) {
        for (int i = 0; i < count; ++i) {
            pairs[i] = {values[i][lane], i};
        }
        qsort(pairs, count, sizeof(Pair), compare_pairs);
        for (int i = 0; i < count; ++i) {
            values[i][lane] = pairs[i].value;
            places[i][lane] = pairs[i].place;
            weights[i][lane] = given[pairs[i].place][lane];
        }
    }
    std::memcpy(s.value, values, sizeof(values));
    std::memcpy(s.place, places, sizeof(places));
    std::memcpy(s.weight, weights, sizeof(weights));
}
#endif

// Ascending, equal values by their place: the order of a stable sort. The reference calls qsort,
// which glibc makes stable; of other C libraries the order of equal values is their own.
// Batcher's odd-even merge sort, whose comparisons do not depend on the data.
template <typename L, int count>
inline void sort(Sorted<L, count> & s) {
#if defined(__GLIBC__)
    for (int run = 1; run < count; run *= 2) {
        for (int step = run; step > 0; step /= 2) {
            for (int begin = step % run; begin + step < count; begin += 2 * step) {
                for (int i = begin; i < begin + step && i + step < count; ++i) {
                    if (i / (2 * run) == (i + step) / (2 * run)) {
                        exchange<L, count>(s, i, i + step);
                    }
                }
            }
        }
    }
#else
    sort_as_libc<L, count>(s);
#endif
}

#if defined(__GLIBC__)
// Where value `i` goes in that order, for threads that each sort one value.
template <int count>
APEX_HOST_DEVICE inline int rank_of(const float * values, int i) {
    int rank = 0;
    for (int j = 0; j < count; ++j) {
        rank += (values[j] < values[i]) | ((values[j] == values[i]) & (j < i));
    }
    return rank;
}
#endif

}  // namespace
}  // namespace apex
