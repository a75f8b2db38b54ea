#include "squares.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "engine/parallel.h"

namespace apex::statistics {

namespace {

// Columns whose sums stay in registers while the rows go by.
constexpr int64_t kColumns = 32;
// Less work than this is not worth waking other threads.
constexpr int64_t kSmallWork = 1 << 15;

bool add_squares(const std::vector<const float *> & rows, int64_t first, int64_t count,
                 float * sums) {
    float sum[kColumns] = {};
    std::copy_n(sums + first, count, sum);
    if (count == kColumns) {
        for (const float * row : rows) {
            for (int64_t i = 0; i < kColumns; ++i) {
                sum[i] += row[first + i] * row[first + i];
            }
        }
    } else {
        for (const float * row : rows) {
            for (int64_t i = 0; i < count; ++i) {
                sum[i] += row[first + i] * row[first + i];
            }
        }
    }
    std::copy_n(sum, count, sums + first);
    return std::all_of(sum, sum + count, [](float value) { return std::isfinite(value); });
}

[[noreturn]] void throw_sizes(const std::string & name, const char * what, int64_t before,
                              int64_t now) {
    throw std::invalid_argument(name + " has " + std::to_string(now) + " " + what + ", and had " +
                                std::to_string(before) + " before");
}

}  // namespace

Entry & Squares::entry(const std::string & name, int64_t columns, size_t matrices) {
    if (columns < 1 || matrices < 1) {
        throw std::invalid_argument(name + " has no columns or no matrices");
    }
    fetch(name);
    Entry & result = entries_[name];
    const int64_t values = columns * static_cast<int64_t>(matrices);
    if (result.sums.empty()) {
        result.sums.resize(static_cast<size_t>(values));
    } else if (static_cast<int64_t>(result.sums.size()) != values) {
        throw_sizes(name, "values", static_cast<int64_t>(result.sums.size()), values);
    }
    result.columns = columns;  // an older file does not say how its values divide
    return result;
}

void Squares::add(const std::string & name, const Activations & activations) {
    if (is_left_out(name)) {
        return;
    }
    Entry & target = entry(name, activations.columns, activations.of_matrix.size());
    if (activations.is_routed) {
        add_routed(name, activations, target);
    } else {
        add_dense(name, activations, target);
    }
}

void Squares::add_sums(const std::string & name, const Activations & rows, Entry & target) {
    target.history_before = std::exchange(target.history, ++additions_);
    struct Task {
        int64_t matrix, first, count;
    };
    std::vector<Task> tasks;
    int64_t work = 0;
    for (size_t matrix = 0; matrix < rows.of_matrix.size(); ++matrix) {
        if (rows.of_matrix[matrix].empty()) {
            continue;
        }
        work += rows.columns * static_cast<int64_t>(rows.of_matrix[matrix].size());
        for (int64_t first = 0; first < rows.columns; first += kColumns) {
            tasks.push_back(
                {static_cast<int64_t>(matrix), first, std::min(kColumns, rows.columns - first)});
        }
    }
    // Neighbouring columns go to one thread, so that it reads whole lines of every row.
    const auto size = static_cast<int64_t>(tasks.size());
    const int64_t parts =
        work < kSmallWork ? 1 : std::min<int64_t>(size, 4 * engine::available_threads());
    engine::parallel_for(parts, work < kSmallWork ? 1 : threads_, [&](int64_t part) {
        for (int64_t i = part * size / parts; i < (part + 1) * size / parts; ++i) {
            const Task & task = tasks[static_cast<size_t>(i)];
            const auto & source = rows.of_matrix[static_cast<size_t>(task.matrix)];
            float * sums = target.sums.data() + task.matrix * rows.columns;
            if (!add_squares(source, task.first, task.count, sums)) {
                throw NonFinite("the activations of " + name + " are not finite");
            }
        }
    });
}

void Squares::add_routed(const std::string & name, const Activations & rows, Entry & target) {
    const size_t matrices = rows.of_matrix.size();
    if (target.counts.size() <= 1) {
        target.counts.resize(matrices, target.counts.empty() ? 0 : target.counts[0]);
    } else if (target.counts.size() != matrices) {
        throw_sizes(name, "experts", static_cast<int64_t>(target.counts.size()),
                    static_cast<int64_t>(matrices));
    }
    add_sums(name, rows, target);
    for (size_t matrix = 0; matrix < matrices; ++matrix) {
        target.counts[matrix] += static_cast<int64_t>(rows.of_matrix[matrix].size());
    }
}

void Squares::add_dense(const std::string & name, const Activations & rows, Entry & target) {
    const auto & counts = target.counts;
    const bool all_equal =
        std::all_of(counts.begin(), counts.end(), [&](int64_t c) { return c == counts[0]; });
    if (counts.empty() || all_equal) {
        target.counts.resize(1);
    }
    add_sums(name, rows, target);
    size_t total = 0;
    for (const auto & matrix : rows.of_matrix) {
        total += matrix.size();
    }
    for (int64_t & count : target.counts) {
        count += static_cast<int64_t>(total / rows.of_matrix.size());
    }
}

bool Squares::add_same(const std::string & name, const std::string & other) {
    if (is_left_out(name)) {
        return true;
    }
    const auto source = entries_.find(other);
    if (source == entries_.end() || placed_.count(name) != 0 || placed_.count(other) != 0) {
        return false;
    }
    const auto target = entries_.find(name);
    if ((target == entries_.end() ? 0 : target->second.history) != source->second.history_before) {
        return false;
    }
    const Entry copy = source->second;
    entries_[name] = copy;
    return true;
}

void Squares::merge(const std::string & name, const Entry & other) {
    fetch(name);
    Entry & target = entries_[name];
    if (target.sums.empty()) {
        target = other;
        target.history = target.history_before = ++additions_;
        return;
    }
    target.history = target.history_before = ++additions_;
    if (target.sums.size() != other.sums.size()) {
        throw_sizes(name, "values", static_cast<int64_t>(target.sums.size()),
                    static_cast<int64_t>(other.sums.size()));
    }
    if (target.counts.size() == 1 && other.counts.size() > 1) {
        target.counts.resize(other.counts.size(), target.counts[0]);
        target.columns = other.columns;
    } else if (other.counts.size() != 1 && other.counts.size() != target.counts.size()) {
        throw_sizes(name, "experts", static_cast<int64_t>(target.counts.size()),
                    static_cast<int64_t>(other.counts.size()));
    }
    for (size_t i = 0; i < target.sums.size(); ++i) {
        target.sums[i] += other.sums[i];
    }
    for (size_t i = 0; i < target.counts.size(); ++i) {
        target.counts[i] += other.counts[other.counts.size() == 1 ? 0 : i];
    }
}

cuda::Sums & Squares::begin_on_device(const std::string & name, int device,
                                      const cuda::DeviceActivations & activations) {
    const bool is_routed = activations.ids != nullptr;
    const auto placed = placed_.find(name);
    if (placed != placed_.end() && placed->second.device == device &&
        placed->second.is_routed == is_routed) {
        return *devices_.at(device);  // which checks the sizes
    }
    const auto matrices = static_cast<size_t>(activations.matrices[0] * activations.matrices[1]);
    Entry & target = entry(name, activations.columns, matrices);
    if (target.counts.size() <= 1) {
        target.counts.resize(is_routed ? matrices : 1,
                             target.counts.empty() ? 0 : target.counts[0]);
    } else if (target.counts.size() != matrices) {
        throw_sizes(name, "experts", static_cast<int64_t>(target.counts.size()),
                    static_cast<int64_t>(matrices));
    }
    auto & sums = devices_[device];
    if (sums == nullptr) {
        sums = std::make_unique<cuda::Sums>(device);
    }
    cuda::Sums::Entry initial{activations.columns, target.sums, target.counts};
    initial.counts.resize(matrices, initial.counts[0]);
    sums->begin(name, initial);
    placed_[name] = {device, is_routed};
    return *sums;
}

bool Squares::add_on_device(const std::string & name, int device,
                            const cuda::DeviceActivations & activations) {
    if (is_left_out(name)) {
        return true;
    }
    begin_on_device(name, device, activations).add(name, activations);
    return true;
}

void Squares::add_by_way_of_device(const std::string & name, int device,
                                   const cuda::DeviceActivations & activations, size_t bytes,
                                   size_t id_bytes) {
    begin_on_device(name, device, activations).add_from_host(name, activations, bytes, id_bytes);
}

// Brings a tensor's sums back from the GPU that has them.
void Squares::fetch(const std::string & name) {
    const auto placed = placed_.find(name);
    if (placed == placed_.end()) {
        return;
    }
    cuda::Sums::Entry read = devices_.at(placed->second.device)->read(name, false);
    Entry & target = entries_[name];
    target.sums = std::move(read.sums);
    if (target.counts.size() == 1) {
        read.counts.resize(1);
    }
    target.counts = std::move(read.counts);
    target.history = target.history_before = ++additions_;
    placed_.erase(placed);
    if (!std::all_of(target.sums.begin(), target.sums.end(),
                     [](float sum) { return std::isfinite(sum); })) {
        throw NonFinite("the activations of " + name + " are not finite");
    }
}

const std::map<std::string, Entry> & Squares::entries() {
    while (!placed_.empty()) {
        const std::string name = placed_.begin()->first;
        fetch(name);
    }
    return entries_;
}

std::map<std::string, std::vector<int64_t>> Squares::counts() const {
    std::map<std::string, std::vector<int64_t>> result;
    for (const auto & [name, entry] : entries_) {
        result[name] = entry.counts;
    }
    for (const auto & [name, placement] : placed_) {
        std::vector<int64_t> counts = devices_.at(placement.device)->read(name, true).counts;
        counts.resize(result[name].size());
        result[name] = std::move(counts);
    }
    return result;
}

}  // namespace apex::statistics
