// Sums of squared activations on the device.
#include <algorithm>
#include <map>
#include <optional>

#include "cuda/arguments.h"
#include "cuda/runtime.h"

namespace apex::cuda {

namespace {

struct OnDevice {
    int64_t columns;
    size_t values;  // columns of all matrices
    size_t matrices;
    DeviceMemory sums;
    DeviceMemory counts;
};

}  // namespace

struct Sums::Implementation {
    explicit Implementation(int index) : device(index) {
        use_device(device);
        stream.emplace();
    }
    ~Implementation() { cudaSetDevice(device); }

    int device;
    std::optional<Stream> stream;
    std::map<std::string, OnDevice> entries;
};

Sums::Sums(int device) : implementation_(std::make_unique<Implementation>(device)) {}

Sums::~Sums() = default;

void Sums::begin(const std::string & name, const Entry & entry) {
    Implementation & own = *implementation_;
    use_device(own.device);
    const size_t values = entry.sums.size();
    const size_t matrices = entry.counts.size();
    OnDevice made{entry.columns, values, matrices, DeviceMemory(values * sizeof(float)),
                  DeviceMemory(matrices * sizeof(int64_t))};
    own.stream->copy_in(made.sums.as<void>(), entry.sums.data(), values * sizeof(float));
    own.stream->copy_in(made.counts.as<void>(), entry.counts.data(), matrices * sizeof(int64_t));
    own.stream->wait();
    own.entries.insert_or_assign(name, std::move(made));
}

void Sums::add(const std::string & name, const DeviceActivations & given) {
    Implementation & own = *implementation_;
    use_device(own.device);
    const auto found = own.entries.find(name);
    const auto matrices = static_cast<size_t>(given.matrices[0] * given.matrices[1]);
    if (found == own.entries.end() || found->second.columns != given.columns ||
        found->second.matrices != matrices) {
        throw std::invalid_argument(name + " has other sizes than before");
    }
    SquaresArguments arguments{};
    arguments.activations = static_cast<const char *>(given.data);
    arguments.ids = static_cast<const char *>(given.ids);
    std::copy_n(given.extents, 3, arguments.extents);
    std::copy_n(given.strides, 3, arguments.strides);
    std::copy_n(given.id_strides, 2, arguments.id_strides);
    std::copy_n(given.matrices, 2, arguments.matrices);
    arguments.used = given.used;
    arguments.tokens = given.tokens;
    arguments.columns = given.columns;
    arguments.sums = found->second.sums.as<float>();
    arguments.counts = found->second.counts.as<unsigned long long>();
    const auto tiles = static_cast<size_t>((given.columns + kThreads - 1) / kThreads);
    own.stream->launch(squares_kernel(), static_cast<uint32_t>(tiles * matrices), kThreads, 0,
                       arguments);
    own.stream->wait();  // the caller's data may change now
}

void Sums::add_from_host(const std::string & name, const DeviceActivations & given, size_t bytes,
                         size_t id_bytes) {
    Implementation & own = *implementation_;
    use_device(own.device);
    const DeviceMemory data(bytes);
    const DeviceMemory ids(id_bytes);
    own.stream->copy_in(data.as<void>(), given.data, bytes);
    DeviceActivations there = given;
    there.data = data.as<void>();
    if (given.ids != nullptr) {
        own.stream->copy_in(ids.as<void>(), given.ids, id_bytes);
        there.ids = ids.as<void>();
    }
    add(name, there);
}

Sums::Entry Sums::read(const std::string & name, bool counts_alone) const {
    const Implementation & own = *implementation_;
    use_device(own.device);
    const OnDevice & entry = own.entries.at(name);
    Entry read{entry.columns, {}, std::vector<int64_t>(entry.matrices)};
    if (!counts_alone) {
        read.sums.resize(entry.values);
        own.stream->copy_out(read.sums.data(), entry.sums.as<void>(), entry.values * sizeof(float));
    }
    own.stream->copy_out(read.counts.data(), entry.counts.as<void>(),
                         entry.matrices * sizeof(int64_t));
    own.stream->wait();
    return read;
}

}  // namespace apex::cuda
