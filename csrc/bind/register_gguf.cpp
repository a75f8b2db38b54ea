#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <string>
#include <vector>

#include "arguments.h"
#include "engine/types.h"
#include "gguf/header.h"
#include "guard/guard.h"
#include "register.h"

namespace apex::bind {

namespace {

using ::apex::gguf::Header;
using ::apex::gguf::TensorInfo;

py::str text(const char * value) {
    return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
        value, static_cast<Py_ssize_t>(std::char_traits<char>::length(value)), "replace"));
}

template <typename T>
py::object numbers(const void * data, size_t count) {
    return py::array_t<T>(static_cast<py::ssize_t>(count), static_cast<const T *>(data));
}

py::object array_value(const gguf_context * context, int64_t key) {
    const size_t count = gguf_get_arr_n(context, key);
    const gguf_type type = gguf_get_arr_type(context, key);
    if (type == GGUF_TYPE_STRING) {
        py::list result(count);
        for (size_t i = 0; i < count; ++i) {
            result[i] = text(gguf_get_arr_str(context, key, i));
        }
        return result;
    }
    const void * data = gguf_get_arr_data(context, key);
    switch (type) {
        case GGUF_TYPE_UINT8:   return numbers<uint8_t>(data, count);
        case GGUF_TYPE_INT8:    return numbers<int8_t>(data, count);
        case GGUF_TYPE_UINT16:  return numbers<uint16_t>(data, count);
        case GGUF_TYPE_INT16:   return numbers<int16_t>(data, count);
        case GGUF_TYPE_UINT32:  return numbers<uint32_t>(data, count);
        case GGUF_TYPE_INT32:   return numbers<int32_t>(data, count);
        case GGUF_TYPE_UINT64:  return numbers<uint64_t>(data, count);
        case GGUF_TYPE_INT64:   return numbers<int64_t>(data, count);
        case GGUF_TYPE_FLOAT32: return numbers<float>(data, count);
        case GGUF_TYPE_FLOAT64: return numbers<double>(data, count);
        case GGUF_TYPE_BOOL:    return numbers<bool>(data, count);
        default:                throw py::value_error("the key holds an array of an unknown type");
    }
}

py::object key_value(const gguf_context * context, int64_t key) {
    switch (gguf_get_kv_type(context, key)) {
        case GGUF_TYPE_UINT8:   return py::int_(gguf_get_val_u8(context, key));
        case GGUF_TYPE_INT8:    return py::int_(gguf_get_val_i8(context, key));
        case GGUF_TYPE_UINT16:  return py::int_(gguf_get_val_u16(context, key));
        case GGUF_TYPE_INT16:   return py::int_(gguf_get_val_i16(context, key));
        case GGUF_TYPE_UINT32:  return py::int_(gguf_get_val_u32(context, key));
        case GGUF_TYPE_INT32:   return py::int_(gguf_get_val_i32(context, key));
        case GGUF_TYPE_UINT64:  return py::int_(gguf_get_val_u64(context, key));
        case GGUF_TYPE_INT64:   return py::int_(gguf_get_val_i64(context, key));
        case GGUF_TYPE_FLOAT32: return py::float_(gguf_get_val_f32(context, key));
        case GGUF_TYPE_FLOAT64: return py::float_(gguf_get_val_f64(context, key));
        case GGUF_TYPE_BOOL:    return py::bool_(gguf_get_val_bool(context, key));
        case GGUF_TYPE_STRING:  return text(gguf_get_val_str(context, key));
        case GGUF_TYPE_ARRAY:   return array_value(context, key);
        default:                throw py::value_error("the key holds a value of an unknown type");
    }
}

int64_t find(const Header & header, const std::string & key) {
    const int64_t id = gguf_find_key(header.context(), key.c_str());
    if (id < 0) {
        throw py::key_error(key);
    }
    return id;
}

std::vector<std::string> keys(const Header & header) {
    std::vector<std::string> result;
    for (int64_t i = 0; i < gguf_get_n_kv(header.context()); ++i) {
        result.emplace_back(gguf_get_key(header.context(), i));
    }
    return result;
}

std::string key_type(const Header & header, const std::string & key) {
    const int64_t id = find(header, key);
    const gguf_type type = gguf_get_kv_type(header.context(), id);
    if (type != GGUF_TYPE_ARRAY) {
        return gguf_type_name(type);
    }
    return "arr[" + std::string(gguf_type_name(gguf_get_arr_type(header.context(), id))) + "]";
}

size_t key_length(const Header & header, const std::string & key) {
    const int64_t id = find(header, key);
    const bool is_array = gguf_get_kv_type(header.context(), id) == GGUF_TYPE_ARRAY;
    return is_array ? gguf_get_arr_n(header.context(), id) : 1;
}

void set(Header & header, const std::string & key, const std::string & type,
         const py::object & value) {
    guard::Scope scope;
    gguf_context * context = header.context();
    if (type == "u16") {
        gguf_set_val_u16(context, key.c_str(), value.cast<uint16_t>());
    } else if (type == "u32") {
        gguf_set_val_u32(context, key.c_str(), value.cast<uint32_t>());
    } else if (type == "i32") {
        gguf_set_val_i32(context, key.c_str(), value.cast<int32_t>());
    } else if (type == "f32") {
        gguf_set_val_f32(context, key.c_str(), value.cast<float>());
    } else if (type == "bool") {
        gguf_set_val_bool(context, key.c_str(), value.cast<bool>());
    } else if (type == "str") {
        gguf_set_val_str(context, key.c_str(), value.cast<std::string>().c_str());
    } else if (type == "arr[str]") {
        const auto texts = value.cast<std::vector<std::string>>();
        std::vector<const char *> pointers;
        for (const std::string & item : texts) {
            pointers.push_back(item.c_str());
        }
        gguf_set_arr_str(context, key.c_str(), pointers.data(), pointers.size());
    } else {
        throw py::value_error("a key can be set to u16, u32, i32, f32, bool, str or arr[str]");
    }
}

}  // namespace

void register_gguf(py::module_ & module) {
    py::class_<TensorInfo>(module, "TensorInfo", "An entry of a GGUF file's tensor table.")
        .def_readonly("name", &TensorInfo::name)
        .def_property_readonly(
            "shape",
            [](const TensorInfo & info) {
                return py::typing::Tuple<py::int_, py::ellipsis>(py::tuple(py::cast(info.shape)));
            },
            "Dimensions in ggml's order, columns first, without trailing ones.")
        .def_property_readonly(
            "type", [](const TensorInfo & info) { return engine::facts_of(info.type).name; })
        .def_readonly("offset", &TensorInfo::offset, "Bytes from the start of the data section.")
        .def_readonly("bytes", &TensorInfo::bytes)
        .def("__repr__", [](const TensorInfo & info) { return "<TensorInfo " + info.name + ">"; });

    py::class_<Header>(module, "Header",
                       "The header of a GGUF file, as upstream's gguf API reads and writes it.")
        .def_static("read", &Header::read, py::arg("path"),
                    py::call_guard<py::gil_scoped_release>(),
                    "Reads the header of a file. Raises HeaderError, OSError.")
        .def_static("read_metadata", &Header::read_metadata, py::arg("path"),
                    py::call_guard<py::gil_scoped_release>(),
                    "Reads the metadata alone, byte for byte; the tensor table is empty.")
        .def_static("empty", &Header::empty, "A header without keys and tensors.")
        .def_property_readonly(
            "version", [](const Header & header) { return gguf_get_version(header.context()); })
        .def_property_readonly(
            "alignment", [](const Header & header) { return gguf_get_alignment(header.context()); })
        .def_property_readonly(
            "data_offset",
            [](const Header & header) { return gguf_get_data_offset(header.context()); },
            "Where the data section starts in the file that was read.")
        .def_property_readonly("file_bytes", &Header::file_bytes, "Size of the file that was read.")
        .def("tensors", &Header::tensors, "The tensor table, in the file's order.")
        .def("keys", &keys, "The metadata keys, in the file's order.")
        .def(
            "__contains__",
            [](const Header & header, const std::string & key) {
                return gguf_find_key(header.context(), key.c_str()) >= 0;
            },
            py::arg("key"))
        .def(
            "get",
            [](const Header & header, const std::string & key) {
                return key_value(header.context(), find(header, key));
            },
            py::arg("key"),
            "The value: int, float, bool, str, a list of str, or a numpy array. Raises KeyError.")
        .def("key_type", &key_type, py::arg("key"),
             "The value's GGUF type, as in u32, str, arr[str]. Raises KeyError.")
        .def("key_length", &key_length, py::arg("key"),
             "The number of elements of an array, else 1. Raises KeyError.")
        .def("set", &set, py::arg("key"), py::arg("type"), py::arg("value"),
             "Sets a key to a value of type u16, u32, i32, f32, bool, str or arr[str]; it becomes "
             "the last.")
        .def(
            "remove",
            [](Header & header, const std::string & key) {
                gguf_remove_key(header.context(), key.c_str());
            },
            py::arg("key"), "Removes a key if it is there.")
        .def(
            "add_tensor",
            [](Header & header, const std::string & name, const std::vector<int64_t> & shape,
               const std::string & type) { header.add_tensor(name, shape, to_type(type)); },
            py::arg("name"), py::arg("shape"), py::arg("type"),
            "Appends a tensor whose data follows, aligned, that of the one before. Raises "
            "ValueError.")
        .def(
            "to_bytes", [](const Header & header) { return py::bytes(header.bytes()); },
            "The serialised header, padded so that the data section can follow.");
}

}  // namespace apex::bind
