// The header of a GGUF file: metadata keys and tensor table, read and written by upstream's gguf
// API.
#pragma once

#include <gguf.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace apex::gguf {

// The file is not a GGUF file, or its header is malformed; the message says where.
class HeaderError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct TensorInfo {
    std::string name;
    std::vector<int64_t> shape;  // ggml's order, columns first, no trailing ones
    ggml_type type;
    uint64_t offset;  // from the start of the data section
    uint64_t bytes;
};

class Header {
  public:
    // Reads the header of a file. Throws HeaderError, or std::system_error if it cannot be read.
    static Header read(const std::string & path);

    // Reads the metadata alone, byte for byte, with an empty tensor table: the start of an output.
    static Header read_metadata(const std::string & path);

    static Header empty();

    gguf_context * context() const { return context_.get(); }

    uint64_t file_bytes() const { return file_bytes_; }

    std::vector<TensorInfo> tensors() const;

    // Appends a tensor; its data follows that of the tensor before it, aligned.
    // Throws std::invalid_argument on a name that is taken or too long, or a row that the type's
    // blocks do not divide.
    void add_tensor(const std::string & name, const std::vector<int64_t> & shape, ggml_type type);

    // The serialised header, padded so that the data section can follow.
    std::string bytes() const;

  private:
    struct Free {
        void operator()(gguf_context * context) const { gguf_free(context); }
    };

    Header(gguf_context * context, uint64_t file_bytes)
        : context_(context), file_bytes_(file_bytes) {}

    static Header parse(const std::string & path, bool with_tensors);

    std::unique_ptr<gguf_context, Free> context_;
    uint64_t file_bytes_;
};

}  // namespace apex::gguf
