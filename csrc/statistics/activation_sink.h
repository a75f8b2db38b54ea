// Where the activations of a running model go: what learns from them is behind one interface.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/gpu.h"

namespace apex::statistics {

// Rows of `columns` activations each, by the matrix that they were multiplied with.
struct Activations {
    int64_t columns;
    bool is_routed;  // matrices are experts with rows of their own; otherwise all have equally many
    std::vector<std::vector<const float *>> of_matrix;
};

// An activation is infinite or not a number, or a sum has overflowed.
class NonFinite : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

class ActivationSink {
  public:
    virtual ~ActivationSink() = default;

    // Takes rows in host memory that went into the matrices of a tensor.
    virtual void add(const std::string & name, const Activations & activations) = 0;

    // Takes the rows that were added to another tensor last: those of query, key and value are the
    // same. Returns false where that cannot be done without a look at them; nothing is then added.
    virtual bool add_same(const std::string & name, const std::string & other) = 0;

    // Takes rows that lie on a GPU. Returns false where they have to be brought to host memory
    // first; nothing is then added.
    virtual bool add_on_device(const std::string & name, int device,
                               const cuda::DeviceActivations & activations) = 0;
};

}  // namespace apex::statistics
