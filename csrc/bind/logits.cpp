#include "logits.h"

#include <string>

#include "engine/parallel.h"

namespace apex::bind {

int to_threads(int threads) {
    return threads > 0 ? threads : engine::available_threads();
}

evaluate::Logits logits_of(const llama::Context & context) {
    if (context.logits() == nullptr) {
        throw py::value_error("there are no logits: decode a batch with outputs first");
    }
    return {context.logits(), context.rows(), context.model()->vocabulary_size()};
}

std::vector<int64_t> to_rows(const Indices & rows, const evaluate::Logits & logits) {
    std::vector<int64_t> result(rows.data(), rows.data() + rows.size());
    for (const int64_t row : result) {
        if (row < 0 || row >= logits.rows) {
            throw py::value_error("there is no row " + std::to_string(row) + " of logits");
        }
    }
    return result;
}

}  // namespace apex::bind
