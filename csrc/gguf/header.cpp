#include "header.h"

#include <ggml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "guard/guard.h"

namespace apex::gguf {

namespace {

// A header of a 250k-token vocabulary is about 20 MB. The cap keeps a lying element count in a
// huge file from allocating more than a small multiple of this.
constexpr uint64_t kMaxHeaderBytes = 512ull << 20;

constexpr uint64_t kVersionOffset = 4;
constexpr uint64_t kTensorCountOffset = 8;
constexpr uint64_t kKeyCountOffset = 16;

struct Source {
    std::ifstream file;
    uint64_t position = 0;
    bool with_tensors = true;
};

// gguf_reader_callback_t. Without tensors, the file seems to be of version 3 and to have none.
size_t read_at(void * userdata, void * output, uint64_t offset, size_t length) {
    auto & source = *static_cast<Source *>(userdata);
    if (offset != source.position) {
        source.file.clear();
        source.file.seekg(static_cast<std::streamoff>(offset));
    }
    source.file.read(static_cast<char *>(output), static_cast<std::streamsize>(length));
    const auto count = static_cast<size_t>(source.file.gcount());
    source.position = offset + count;
    if (!source.with_tensors && count == length) {
        if (offset == kVersionOffset && length == sizeof(uint32_t)) {
            const uint32_t version = GGUF_VERSION;
            std::memcpy(output, &version, sizeof(version));
        } else if (offset == kTensorCountOffset && length == kKeyCountOffset - kTensorCountOffset) {
            std::memset(output, 0, length);
        }
    }
    return count;
}

// Upstream's messages start with the name of its function.
std::string reason(const std::string & log) {
    std::string line = log.substr(0, log.find('\n'));
    const auto colon = line.find(": ");
    if (line.rfind("gguf_", 0) == 0 && colon != std::string::npos) {
        line = line.substr(colon + 2);
    }
    return line.empty() ? "the header ends too early" : line;
}

}  // namespace

Header Header::read(const std::string & path) {
    return parse(path, true);
}

Header Header::read_metadata(const std::string & path) {
    return parse(path, false);
}

Header Header::empty() {
    return Header(gguf_init_empty(), 0);
}

Header Header::parse(const std::string & path, bool with_tensors) {
    const auto native = std::filesystem::u8path(path);
    const uint64_t file_bytes = std::filesystem::file_size(native);  // throws std::system_error
    std::vector<char> buffer(1 << 20);
    Source source;
    source.with_tensors = with_tensors;
    source.file.rdbuf()->pubsetbuf(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    source.file.open(native, std::ios::binary);
    if (!source.file) {
        throw std::system_error(errno, std::generic_category(), path);
    }
    guard::Scope scope;
    try {
        gguf_context * context =
            gguf_init_from_callback(read_at, &source, 0, std::min(file_bytes, kMaxHeaderBytes),
                                    gguf_init_params{/*no_alloc=*/true, /*ctx=*/nullptr});
        if (context == nullptr) {
            throw HeaderError(reason(scope.errors()));
        }
        return Header(context, file_bytes);
    } catch (const guard::UpstreamError & error) {
        throw HeaderError(error.what());
    } catch (const std::bad_alloc &) {
        throw HeaderError("the header's counts ask for more memory than there is");
    }
}

std::vector<TensorInfo> Header::tensors() const {
    const int64_t count = gguf_get_n_tensors(context());
    std::vector<TensorInfo> result;
    result.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        const int64_t * ne = gguf_get_tensor_ne(context(), i);
        size_t dimensions = GGML_MAX_DIMS;
        while (dimensions > 1 && ne[dimensions - 1] == 1) {
            --dimensions;
        }
        result.push_back({gguf_get_tensor_name(context(), i),
                          {ne, ne + dimensions},
                          gguf_get_tensor_type(context(), i),
                          gguf_get_tensor_offset(context(), i),
                          gguf_get_tensor_size(context(), i)});
    }
    return result;
}

void Header::add_tensor(const std::string & name, const std::vector<int64_t> & shape,
                        ggml_type type) {
    if (name.empty() || name.size() >= GGML_MAX_NAME) {
        throw std::invalid_argument("tensor name '" + name + "' is empty or too long");
    }
    if (shape.empty() || shape.size() > GGML_MAX_DIMS) {
        throw std::invalid_argument("tensor '" + name + "' must have 1 to 4 dimensions");
    }
    if (shape[0] % ggml_blck_size(type) != 0) {
        throw std::invalid_argument("the rows of tensor '" + name + "' are not a multiple of " +
                                    ggml_type_name(type) + "'s block");
    }
    if (gguf_find_tensor(context(), name.c_str()) >= 0) {
        throw std::invalid_argument("tensor '" + name + "' is there already");
    }
    ggml_tensor tensor{};
    tensor.type = type;
    std::fill(std::begin(tensor.ne), std::end(tensor.ne), int64_t{1});
    std::copy(shape.begin(), shape.end(), std::begin(tensor.ne));
    tensor.nb[0] = ggml_type_size(type);
    tensor.nb[1] = ggml_row_size(type, tensor.ne[0]);
    for (int i = 2; i < GGML_MAX_DIMS; ++i) {
        tensor.nb[i] = tensor.nb[i - 1] * static_cast<size_t>(tensor.ne[i - 1]);
    }
    std::strncpy(tensor.name, name.c_str(), sizeof(tensor.name) - 1);
    guard::Scope scope;
    gguf_add_tensor(context(), &tensor);
}

std::string Header::bytes() const {
    guard::Scope scope;
    std::string result(gguf_get_meta_size(context()), '\0');
    gguf_get_meta_data(context(), result.data());
    return result;
}

}  // namespace apex::gguf
