#include "tables/points.h"

#include <algorithm>
#include <set>
#include <vector>

#include "tables/upstream.h"

namespace apex {

namespace {

// Keeps the arrays that a Points points to.
class Book {
  public:
    // `value_of` gives the value of a byte of upstream's table.
    template <typename Row, size_t count, typename ValueOf>
    Book(const Row (&table)[count], ValueOf value_of) {
        std::set<float> values;
        for (const Row row : table) {
            for (size_t i = 0; i < sizeof(Row); ++i) {
                weights_.push_back(value_of(static_cast<uint8_t>(row >> (8 * i))));
                values.insert(weights_.back());
            }
        }
        const std::vector<float> ordered(values.begin(), values.end());
        constexpr size_t half = sizeof(Row) / 2;
        for (size_t first = 0; first < weights_.size(); first += half) {
            size_t number = 0;
            for (size_t i = half; i-- > 0;) {
                const auto at = std::find(ordered.begin(), ordered.end(), weights_[first + i]);
                number = number * ordered.size() + static_cast<size_t>(at - ordered.begin());
            }
            halves_.push_back(static_cast<uint8_t>(number));
        }
        points_ = {static_cast<int>(count),
                   static_cast<int>(ordered.size()),
                   halves_.data(),
                   weights_.data(),
                   {}};
        std::copy(ordered.begin(), ordered.end(), points_.value);
    }

    const Points & points() const { return points_; }

  private:
    std::vector<uint8_t> halves_;
    std::vector<float> weights_;
    Points points_;
};

float magnitude(uint8_t byte) {
    return byte;
}

float level(uint8_t byte) {
    return static_cast<int8_t>(byte);
}

}  // namespace

const Points & points_iq1() {
    static const Book book(iq1s_grid, level);
    return book.points();
}

const Points & points_iq2_xxs() {
    static const Book book(iq2xxs_grid, magnitude);
    return book.points();
}

const Points & points_iq2_xs() {
    static const Book book(iq2xs_grid, magnitude);
    return book.points();
}

const Points & points_iq2_s() {
    static const Book book(iq2s_grid, magnitude);
    return book.points();
}

const Points & points_iq3_xxs() {
    static const Book book(iq3xxs_grid, magnitude);
    return book.points();
}

const Points & points_iq3_s() {
    static const Book book(iq3s_grid, magnitude);
    return book.points();
}

}  // namespace apex
