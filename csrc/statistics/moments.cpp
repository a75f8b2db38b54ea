#include "moments.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "dispatch/dispatch.h"
#include "engine/parallel.h"

namespace apex::statistics {

namespace {

// So many rows of a matrix are summed together: two panels of them and a square of sums stay in
// the first cache, and reading and writing the triangle costs little beside the products.
constexpr int64_t kWaiting = 64;

int64_t panels_of(int64_t columns) {
    return (columns + kPanel - 1) / kPanel;
}

// Where a matrix's waiting rows begin: panel by panel, row by row, kPanel columns.
int64_t waiting_values(int64_t columns) {
    return panels_of(columns) * kWaiting * kPanel;
}

void append(const float * row, int64_t columns, int64_t at, float * waiting) {
    for (int64_t first = 0; first < columns; first += kPanel) {
        float * panel = waiting + first * kWaiting + at * kPanel;
        std::copy_n(row + first, std::min<int64_t>(kPanel, columns - first), panel);
    }
}

// Calls copy(sums of the triangle, values of the square, how many) for every row that a square of
// sums has in a packed triangle.
template <typename Copy>
void for_rows(int64_t columns, int64_t down, int64_t across, float * triangle, float * square,
              const Copy & copy) {
    const int64_t last = std::min<int64_t>(columns, (down + 1) * kPanel);
    for (int64_t i = down * kPanel; i < last; ++i) {
        const int64_t first = across * kPanel;
        copy(triangle + i * (i + 1) / 2 + first, square + (i - down * kPanel) * kPanel,
             std::min<int64_t>(kPanel, i + 1 - first));
    }
}

// Adds the products of a panel with itself and with all panels before it.
bool add_panel(const float * waiting, int64_t rows, int64_t columns, int64_t down,
               float * triangle) {
    const KernelTable & kernels = dispatch::kernels();
    bool finite = true;
    for (int64_t across = 0; across <= down; ++across) {
        float square[kPanel * kPanel] = {};
        for_rows(columns, down, across, triangle, square,
                 [](float * sums, float * values, int64_t n) { std::copy_n(sums, n, values); });
        kernels.add_products(waiting + down * kWaiting * kPanel,
                             waiting + across * kWaiting * kPanel, rows, square);
        for_rows(columns, down, across, triangle, square,
                 [&](float * sums, float * values, int64_t n) {
                     std::copy_n(values, n, sums);
                     finite = finite && kernels.all_finite(sums, n);
                 });
    }
    return finite;
}

}  // namespace

// The entry of a tensor with these sizes, made when it is first seen.
MomentsEntry & Moments::sized(const std::string & name, int64_t columns, int64_t matrices) {
    if (columns < 1 || matrices < 1) {
        throw std::invalid_argument(name + " has no columns or no matrices");
    }
    MomentsEntry & entry = entries_[name];
    if (entry.columns == 0) {
        names_.push_back(name);
        entry.columns = columns;
        entry.matrices = matrices;
        entry.rows.resize(static_cast<size_t>(matrices));
    }
    if (entry.columns != columns || entry.matrices != matrices) {
        throw std::invalid_argument(name + " has inputs of another size than before");
    }
    return entry;
}

int64_t Moments::bytes(int64_t columns, int64_t matrices) {
    const int64_t values = columns * (columns + 1) / 2 + waiting_values(columns);
    return matrices * values * static_cast<int64_t>(sizeof(float));
}

void Moments::allocate(MomentsEntry & entry) {
    const auto matrices = static_cast<size_t>(entry.matrices);
    entry.sums.resize(matrices * static_cast<size_t>(entry.triangle()));
    entry.waiting.resize(matrices * static_cast<size_t>(waiting_values(entry.columns)));
    entry.waits.resize(matrices);
}

// The entry of a tensor with these sizes, before rows of its own are added.
MomentsEntry & Moments::begin(const std::string & name, int64_t columns, int64_t matrices) {
    MomentsEntry & entry = sized(name, columns, matrices);
    if (!entry.same_as.empty()) {
        throw std::runtime_error(name + " had the same inputs as " + entry.same_as +
                                 " and now has others");
    }
    entry.history_before = std::exchange(entry.history, ++additions_);
    return entry;
}

void Moments::add(const std::string & name, const Activations & activations) {
    MomentsEntry & target =
        begin(name, activations.columns, static_cast<int64_t>(activations.of_matrix.size()));
    if (is_wanted(name)) {
        if (target.sums.empty()) {
            allocate(target);
        }
        take(name, target, activations);
    }
}

// Each matrix's rows are packed and, as soon as enough of them wait, summed.
void Moments::take(const std::string & name, MomentsEntry & target,
                   const Activations & activations) {
    const auto matrices = static_cast<size_t>(target.matrices);
    std::vector<size_t> taken(matrices);
    for (bool is_full = true; is_full;) {
        is_full = false;
        for (size_t matrix = 0; matrix < matrices; ++matrix) {
            const auto & rows = activations.of_matrix[matrix];
            float * waiting = target.waiting.data() +
                              static_cast<int64_t>(matrix) * waiting_values(target.columns);
            int64_t & waits = target.waits[matrix];
            for (; taken[matrix] < rows.size() && waits < kWaiting; ++taken[matrix], ++waits) {
                append(rows[taken[matrix]], target.columns, waits, waiting);
            }
            is_full = is_full || taken[matrix] < rows.size();
        }
        if (is_full) {
            sum_waiting(name, target, kWaiting);
        }
    }
    for (size_t matrix = 0; matrix < matrices; ++matrix) {
        target.rows[matrix] += static_cast<int64_t>(activations.of_matrix[matrix].size());
    }
}

// Of the matrices for which at least so many rows wait.
void Moments::sum_waiting(const std::string & name, MomentsEntry & entry, int64_t least) {
    struct Task {
        int64_t matrix, panel;
    };
    std::vector<Task> tasks;
    for (int64_t panel = panels_of(entry.columns) - 1; panel >= 0; --panel) {  // the longest first
        for (int64_t matrix = 0; matrix < static_cast<int64_t>(entry.waits.size()); ++matrix) {
            if (entry.waits[static_cast<size_t>(matrix)] >= least) {
                tasks.push_back({matrix, panel});
            }
        }
    }
    engine::parallel_for(static_cast<int64_t>(tasks.size()), threads_, [&](int64_t i) {
        const auto [matrix, panel] = tasks[static_cast<size_t>(i)];
        const float * waiting = entry.waiting.data() + matrix * waiting_values(entry.columns);
        if (!add_panel(waiting, entry.waits[static_cast<size_t>(matrix)], entry.columns, panel,
                       entry.sums.data() + matrix * entry.triangle())) {
            throw NonFinite("the activations of " + name + " are not finite");
        }
    });
    std::replace_if(
        entry.waits.begin(), entry.waits.end(), [&](int64_t waits) { return waits >= least; }, 0);
}

bool Moments::add_same(const std::string & name, const std::string & other) {
    const auto found = entries_.find(other);
    if (found == entries_.end()) {
        return false;
    }
    const std::string root = found->second.same_as.empty() ? other : found->second.same_as;
    const MomentsEntry & source = entries_[root];
    const auto before = entries_.find(name);
    const uint64_t history = before == entries_.end() ? 0 : before->second.history;
    if (history != source.history_before) {
        return false;
    }
    MomentsEntry & target = sized(name, source.columns, source.matrices);
    target.same_as = root;
    target.history_before = source.history_before;
    target.history = source.history;
    return true;
}

bool Moments::add_on_device(const std::string & name, int /*device*/,
                            const cuda::DeviceActivations & activations) {
    if (is_wanted(name)) {
        return false;
    }
    begin(name, activations.columns, activations.matrices[0] * activations.matrices[1]);
    return true;
}

const MomentsEntry & Moments::entry(const std::string & name) {
    MomentsEntry & result = entries_.at(name);
    sum_waiting(name, result, 1);
    return result;
}

}  // namespace apex::statistics
