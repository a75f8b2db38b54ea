#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "arguments.h"
#include "register.h"
#include "statistics/moments.h"
#include "statistics/squares.h"

namespace apex::bind {

namespace {

using statistics::ActivationSink;
using statistics::Entry;
using statistics::Moments;
using statistics::MomentsEntry;
using statistics::Squares;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// (rows, columns) activations, each row for the matrix (expert) that `experts` names, if any.
void add(ActivationSink & sink, const std::string & name, const Floats & activations,
         const std::optional<Ints> & experts, int64_t expert_count) {
    if (activations.ndim() != 2 || activations.shape(1) < 1) {
        throw py::value_error("activations must have two dimensions: rows, columns");
    }
    if (experts && (experts->ndim() != 1 || experts->shape(0) != activations.shape(0))) {
        throw py::value_error("there must be one expert for each row of activations");
    }
    if (experts.has_value() != (expert_count > 0)) {
        throw py::value_error("experts and expert_count go together");
    }
    statistics::Activations rows{activations.shape(1), experts.has_value(), {}};
    rows.of_matrix.resize(experts ? static_cast<size_t>(expert_count) : 1);
    for (py::ssize_t i = 0; i < activations.shape(0); ++i) {
        const int64_t expert = experts ? experts->at(i) : 0;
        if (expert < 0 || expert >= static_cast<int64_t>(rows.of_matrix.size())) {
            throw py::value_error("there is no expert " + std::to_string(expert));
        }
        rows.of_matrix[static_cast<size_t>(expert)].push_back(activations.data(i, 0));
    }
    py::gil_scoped_release release;
    sink.add(name, rows);
}

// The same by way of a GPU.
void add_by_way_of_device(Squares & squares, int device, const std::string & name,
                          const Floats & activations, const std::optional<Ids> & experts,
                          int64_t expert_count) {
    if (activations.ndim() != 2 || activations.size() < 1 ||
        (experts && (experts->ndim() != 1 || experts->shape(0) != activations.shape(0)))) {
        throw py::value_error("activations are (rows, columns), experts one for each row");
    }
    cuda::DeviceActivations rows{};
    rows.data = activations.data();
    rows.columns = activations.shape(1);
    rows.matrices[0] = experts ? expert_count : 1;
    rows.matrices[1] = rows.extents[0] = rows.extents[1] = rows.extents[2] = 1;
    const int along = experts ? 1 : 0;  // tokens are the second dimension, see DeviceActivations
    rows.extents[along] = activations.shape(0);
    rows.strides[along] = activations.strides(0);
    if (experts) {
        rows.ids = experts->data();
        rows.used = 1;
        rows.tokens = activations.shape(0);
        rows.id_strides[1] = sizeof(int32_t);
    }
    const auto bytes = static_cast<size_t>(activations.nbytes());
    const auto id_bytes = experts ? static_cast<size_t>(experts->nbytes()) : 0;
    py::gil_scoped_release release;
    squares.add_by_way_of_device(name, device, rows, bytes, id_bytes);
}

void merge(Squares & squares, const std::string & name, const Floats & sums, const Ints & counts) {
    if (sums.ndim() != 2 || sums.size() < 1 || counts.ndim() != 1 || counts.size() < 1) {
        throw py::value_error("sums have two dimensions: matrices, columns; counts one");
    }
    Entry entry;
    entry.columns = sums.shape(1);
    entry.sums.assign(sums.data(), sums.data() + sums.size());
    entry.counts.assign(counts.data(), counts.data() + counts.size());
    squares.merge(name, entry);
}

using Counts = py::array_t<int64_t>;
using Sums = py::array_t<float>;

py::typing::Dict<py::str, Counts> counts(const Squares & squares) {
    py::typing::Dict<py::str, Counts> result;
    for (const auto & [name, counts] : squares.counts()) {
        result[py::str(name)] =
            py::array_t<int64_t>(static_cast<py::ssize_t>(counts.size()), counts.data());
    }
    return result;
}

py::typing::Dict<py::str, py::typing::Tuple<Sums, Counts>> entries(Squares & squares) {
    py::typing::Dict<py::str, py::typing::Tuple<Sums, Counts>> result;
    for (const auto & [name, entry] : squares.entries()) {
        const py::array_t<float> sums({entry.matrices(), entry.columns}, entry.sums.data());
        const py::array_t<int64_t> counts(static_cast<py::ssize_t>(entry.counts.size()),
                                          entry.counts.data());
        result[py::str(name)] = py::make_tuple(sums, counts);
    }
    return result;
}

// In the order in which they were seen: name, columns, matrices, the name that it is the same as.
using Input = py::typing::Tuple<py::str, py::int_, py::int_, py::str>;

py::typing::List<Input> inputs(const Moments & moments) {
    py::typing::List<Input> result;
    for (const std::string & name : moments.names()) {
        const MomentsEntry & known = moments.known(name);
        result.append(py::make_tuple(name, known.columns, known.matrices, known.same_as));
    }
    return result;
}

// Views of what the moments keep.
py::typing::Tuple<Sums, Counts> sums_of(const py::object & self, const std::string & name) {
    auto & moments = self.cast<Moments &>();
    const MomentsEntry * entry = nullptr;
    {
        const py::gil_scoped_release release;
        entry = &moments.entry(name);
    }
    const int64_t matrices = entry->sums.empty() ? 0 : entry->matrices;
    const py::array_t<float> sums({matrices, entry->triangle()}, entry->sums.data(), self);
    const py::array_t<int64_t> rows(entry->matrices, entry->rows.data(), self);
    sums.attr("setflags")(py::arg("write") = false);
    rows.attr("setflags")(py::arg("write") = false);
    return py::make_tuple(sums, rows);
}

}  // namespace

void register_statistics(py::module_ & module) {
    py::class_<ActivationSink, std::shared_ptr<ActivationSink>>(
        module, "ActivationSink", "What a context gives the inputs of matrix products to.")
        .def("add", &add, py::arg("name"), py::arg("activations"), py::arg("experts") = py::none(),
             py::arg("expert_count") = 0,
             "Add float32 (rows, columns) activations; with experts, each row to one of them. "
             "Raises ValueError where sizes differ from before, NonFiniteError.")
        .def("add_same", &ActivationSink::add_same, py::arg("name"), py::arg("other"),
             "Add the rows that were added to another tensor last; False where that is not "
             "possible.");
    py::class_<Moments, ActivationSink, std::shared_ptr<Moments>>(
        module, "Moments",
        "Sums of x xᵀ over the rows x that go into each matrix, in float32, in the order of the "
        "rows.")
        .def(py::init<std::optional<std::set<std::string>>, int>(), py::arg("wanted") = py::none(),
             py::arg("threads") = 0,
             "wanted: the tensors that are summed, all by default; of others the sizes are learned "
             "alone.")
        .def_static("bytes", &Moments::bytes, py::arg("columns"), py::arg("matrices"),
                    "What a tensor that is summed takes in memory.")
        .def("inputs", &inputs,
             "(name, columns, matrices, same as) of every tensor, in the order of the graph; the "
             "last is the name of the tensor that has the sums of both, or empty.")
        .def("entry", &sums_of, py::arg("name"),
             "Views of a tensor's sums, float32 (matrices, triangle), row i and column j <= i at "
             "i (i + 1) / 2 + j, and of its int64 counts of rows. Raises IndexError for an unknown "
             "name, NonFiniteError.");
    py::class_<Squares, ActivationSink, std::shared_ptr<Squares>>(
        module, "Accumulator",
        "Sums of squared activations per column and expert, in float32, in the order of the rows.")
        .def(py::init<int, std::set<std::string>>(), py::arg("threads") = 0,
             py::arg("without") = std::set<std::string>{}, "without: tensors that are passed over.")
        .def("add_by_way_of_device", &add_by_way_of_device, py::arg("device"), py::arg("name"),
             py::arg("activations"), py::arg("experts") = py::none(), py::arg("expert_count") = 0,
             "add() on a GPU, which keeps the sums until they are asked for. Raises DeviceError.")
        .def("merge", &merge, py::arg("name"), py::arg("sums"), py::arg("counts"),
             "Add what was collected elsewhere: float32 (matrices, columns) and int64 counts, one "
             "per matrix or one for all. Raises ValueError where sizes differ.")
        .def("counts", &counts, "By tensor name: int64 counts of rows; a copy.")
        .def("entries", &entries,
             "By tensor name: float32 (matrices, columns) sums, int64 counts of rows; copies.");
}

}  // namespace apex::bind
