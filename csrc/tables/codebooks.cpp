#include "codebooks.h"

#include <array>
#include <cstddef>
#include <vector>

#include "upstream.h"

namespace apex {

namespace {

struct Lattice {
    int coordinates;
    int bits;    // per coordinate, in a code
    int levels;  // per coordinate

    int points() const {
        int result = 1;
        for (int i = 0; i < coordinates; ++i) {
            result *= levels;
        }
        return result;
    }

    uint16_t code_of(int number) const {
        uint32_t code = 0;
        for (int i = 0; i < coordinates; ++i) {
            code |= static_cast<uint32_t>(number % levels) << (bits * i);
            number /= levels;
        }
        return static_cast<uint16_t>(code);
    }

    int level(uint16_t code, int i) const { return code >> (bits * i) & ((1 << bits) - 1); }

    int distance(uint16_t a, uint16_t b) const {
        int sum = 0;
        for (int i = 0; i < coordinates; ++i) {
            const int difference = level(a, i) - level(b, i);
            sum += difference * difference;
        }
        return sum;
    }
};

constexpr Lattice kEight{8, 2, 3};
constexpr Lattice kFour{4, 3, 8};

class Builder {
  public:
    // `codes` are the grid points in the order of their indices. Lists hold all points at the
    // `shells` smallest distances, by distance and then by index.
    Builder(const Lattice & lattice, const std::vector<uint16_t> & codes, int shells)
        : points_(static_cast<size_t>(lattice.points())), index_(1u << 16) {
        std::vector<bool> on_grid(1u << 16);
        for (size_t i = 0; i < codes.size(); ++i) {
            index_[codes[i]] = static_cast<uint16_t>(i);
            on_grid[codes[i]] = true;
        }
        std::array<std::vector<uint16_t>, 256> by_distance;  // the greatest is 4 * 7^2
        for (int number = 0; number < lattice.points(); ++number) {
            const uint16_t code = lattice.code_of(number);
            if (on_grid[code]) {
                points_[static_cast<size_t>(number)] = code;
                continue;
            }
            for (auto & shell : by_distance) {
                shell.clear();
            }
            for (const uint16_t point : codes) {
                by_distance[static_cast<size_t>(lattice.distance(code, point))].push_back(point);
            }
            points_[static_cast<size_t>(number)] = append(by_distance, shells);
        }
        grid_ = {points_.data(), neighbours_.data(), index_.data(),
                 static_cast<uint32_t>(points_.size()), static_cast<uint32_t>(neighbours_.size())};
    }

    const Grid & grid() const { return grid_; }

  private:
    uint32_t append(const std::array<std::vector<uint16_t>, 256> & by_distance, int shells) {
        const size_t begin = neighbours_.size();
        for (const auto & shell : by_distance) {
            if (!shell.empty() && shells-- > 0) {
                neighbours_.insert(neighbours_.end(), shell.begin(), shell.end());
            }
        }
        const size_t eights = (neighbours_.size() - begin + 7) / 8;
        const uint16_t nearest = neighbours_[begin];
        while (neighbours_.size() % Grid::kListUnit != 0) {
            neighbours_.push_back(nearest);
        }
        return Grid::kOffGrid | static_cast<uint32_t>(eights) << Grid::kLengthShift |
               static_cast<uint32_t>(begin / Grid::kListUnit);
    }

    std::vector<uint32_t> points_;
    std::vector<uint16_t> neighbours_;
    std::vector<uint16_t> index_;
    Grid grid_;
};

// Codes from upstream's tables, which hold the values that the levels stand for. `level_of` gives
// the level of one byte.
template <typename Row, size_t count, typename LevelOf>
std::vector<uint16_t> codes_of(const Row (&table)[count], const Lattice & lattice,
                               LevelOf level_of) {
    std::vector<uint16_t> codes;
    for (const Row row : table) {
        uint32_t code = 0;
        for (int i = 0; i < lattice.coordinates; ++i) {
            const auto byte = static_cast<uint8_t>(row >> (8 * i));
            code |= static_cast<uint32_t>(level_of(byte)) << (lattice.bits * i);
        }
        codes.push_back(static_cast<uint16_t>(code));
    }
    return codes;
}

int level_iq1(uint8_t byte) {
    return static_cast<int8_t>(byte) + 1;
}  // -1, 0, 1
int level_iq2(uint8_t byte) {
    return byte / 16;
}  // 8, 25, 43
int level_iq3_xxs(uint8_t byte) {
    return byte / 8;
}  // 4, 12, … 52, 62
int level_iq3_s(uint8_t byte) {
    return byte / 2;
}  // 1, 3, … 15

}  // namespace

const Grid & grid_iq1() {
    static const Builder built(kEight, codes_of(iq1s_grid, kEight, level_iq1), 3);
    return built.grid();
}

const Grid & grid_iq2_xxs() {
    static const Builder built(kEight, codes_of(iq2xxs_grid, kEight, level_iq2), 2);
    return built.grid();
}

const Grid & grid_iq2_xs() {
    static const Builder built(kEight, codes_of(iq2xs_grid, kEight, level_iq2), 2);
    return built.grid();
}

const Grid & grid_iq2_s() {
    static const Builder built(kEight, codes_of(iq2s_grid, kEight, level_iq2), 1);
    return built.grid();
}

const Grid & grid_iq3_xxs() {
    static const Builder built(kFour, codes_of(iq3xxs_grid, kFour, level_iq3_xxs), 2);
    return built.grid();
}

const Grid & grid_iq3_s() {
    static const Builder built(kFour, codes_of(iq3s_grid, kFour, level_iq3_s), 3);
    return built.grid();
}

}  // namespace apex
