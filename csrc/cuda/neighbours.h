// Brings groups of weights to the points of a codebook, as many at a time as shared memory holds.
//
// Most groups are off the grid, and the list of neighbours to look through has one to three hundred
// points. So the lists are cut into sections, which the threads share evenly; then the nearest of a
// list is the nearest of its sections' nearest, in the order of the list.
#pragma once

#include "cuda/weights.h"
#include "searches/snap.h"

namespace apex {
namespace {

// Room for `groups` groups at a time, a power of two.
template <typename Book, typename Tables, int groups_>
struct Neighbours {
    static constexpr int groups = groups_;
    // Points in a section, and sections of the longest list: short sections waste less, long ones
    // take less room.
    static constexpr int section = Tables::longest > 256 ? 16 : 8;
    static constexpr int sections = (Tables::longest + section - 1) / section;
    static constexpr int terms = Book::coordinates << Book::bits;

    // Where the terms lie, so that threads side by side meet few banks twice: where lists are long,
    // they mostly have the same group, but different levels; where lists are short, different
    // groups.
    static constexpr bool together = Tables::longest > 128;
    static constexpr int group_step = together ? terms + (1 << Book::bits) : 1;
    static constexpr int term_step = together ? 1 : groups;

    float term[terms * groups + (together ? groups << Book::bits : 0)];
    uint32_t entry[groups];            // of Grid::points
    uint16_t first[groups];            // of the group's sections
    uint16_t work[groups * sections];  // group and number of a section; then its nearest point
    float distance[groups * sections];
    int32_t count;  // of sections

    static_assert(groups * sections < 1 << 16);
};

// Terms of the distances (searches/nearest.h) of one group. A level times `step` and the group's
// place are different bits of an index, so that finding a term takes a shift and one logical
// operation.
template <int step>
struct SharedTerms {
    float * values;
    int group;

    __device__ float & operator[](int number) const { return values[number * step + group]; }

    template <int bits>
    __device__ float at(int i, uint32_t code) const {
        constexpr uint32_t mask = ((1u << bits) - 1) * step;
        const uint32_t level = (code * step) >> (bits * i) & mask;
        return values[(i << bits) * step + static_cast<int>(level | static_cast<uint32_t>(group))];
    }
};

// Whether one of the eight codes from `first` on, aligned to 16 bytes, is nearer than `least`; then
// `least` and `best` are its distance and position.
template <int coordinates, int bits, typename Terms>
__device__ inline void nearest_of_eight(Terms terms, const uint16_t * codes, int first,
                                        float * least, int * best) {
    const Sixteen pairs = *reinterpret_cast<const Sixteen *>(codes + first);
    APEX_UNROLL
    for (int k = 0; k < 8; ++k) {
        const uint32_t code = pairs.words[k / 2] >> (16 * (k % 2));  // its upper half is not read
        float distance = 0;
        APEX_UNROLL
        for (int i = 0; i < coordinates; ++i) {
            distance += terms.template at<bits>(i, code);
        }
        if (distance < *least) {
            *least = distance;
            *best = first + k;
        }
    }
}

// For every item below `count` that is wanted: look_for(item, level) gives the point and its
// levels, put(item, code, on_grid, is_far) takes the code of the grid point; is_far says that all
// distances overflow.
template <typename Book, typename Room, typename Wanted, typename LookFor, typename Put>
__device__ void snap_all(const ThreadBlock & threads, const Grid & grid, Room & room, int count,
                         Wanted wanted, LookFor look_for, Put put) {
    const auto terms_of = [&](int i) {
        return SharedTerms<Room::term_step>{room.term, i * Room::group_step};
    };
    const auto sections_in = [](uint32_t entry) {
        const int eights = Grid::eights(entry);
        return (entry & Grid::kOffGrid) == 0 ? 0 : (8 * eights + Room::section - 1) / Room::section;
    };
    threads.each(1, [&](int) { room.count = 0; });
    for (int begin = 0; begin < count; begin += Room::groups) {
        const int some = count - begin < Room::groups ? count - begin : Room::groups;
        threads.each(some, [&](int i) {
            if (!wanted(begin + i)) {
                return;
            }
            float level[Book::coordinates];
            const Point point = look_for(begin + i, level);
            const uint32_t entry = grid.points[Book::number(level)];
            const int sections = sections_in(entry);
            room.entry[i] = entry;
            if (sections > 0) {
                distance_terms<Book::coordinates, Book::bits, Book::levels>(point, terms_of(i));
                const int first = threads.add(&room.count, sections);
                room.first[i] = static_cast<uint16_t>(first);
                for (int k = 0; k < sections; ++k) {
                    room.work[first + k] = static_cast<uint16_t>(k * Room::groups + i);
                }
            }
        });
        threads.each(room.count, [&](int p) {
            const int i = room.work[p] % Room::groups;
            const int first = room.work[p] / Room::groups * Room::section;
            const uint16_t * codes = grid.neighbours + Grid::list(room.entry[i]) + first;
            float least = kFarthest;
            int best = 0;
            for (int k = 0; k < Room::section; k += 8) {
                nearest_of_eight<Book::coordinates, Book::bits>(terms_of(i), codes, k, &least,
                                                                &best);
            }
            room.work[p] = codes[best];
            room.distance[p] = least;
        });
        threads.each(some, [&](int i) {
            if (i == 0) {
                room.count = 0;
            }
            if (!wanted(begin + i)) {
                return;
            }
            const uint32_t entry = room.entry[i];
            const int sections = sections_in(entry);
            uint32_t code = entry;
            float least = kFarthest;
            for (int k = 0; k < sections; ++k) {
                const int p = room.first[i] + k;
                if (room.distance[p] < least) {
                    least = room.distance[p];
                    code = room.work[p];
                }
            }
            const bool is_far = sections > 0 && !(least < kFarthest);
            put(begin + i, static_cast<int32_t>(is_far ? 0 : code), sections == 0, is_far);
        });
    }
}

}  // namespace
}  // namespace apex
