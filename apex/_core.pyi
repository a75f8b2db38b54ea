"""
Native parts of apex: tensor types, GGUF headers, rows of weights, llama.cpp's rules.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions

_Buffer: typing.TypeAlias = typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]

class HeaderError(ValueError):
    pass

class BadDataError(ValueError):
    row: typing.ClassVar[int] = 0

class ModelError(RuntimeError):
    pass

class UpstreamError(RuntimeError):
    pass

class NonFiniteError(ArithmeticError):
    pass

class DeviceError(RuntimeError):
    pass

class TensorType:
    """
    What ggml knows about a tensor type.
    """
    def __repr__(self) -> str: ...
    @property
    def block_bytes(self) -> int:
        """
        Bytes of a block.
        """
    @property
    def block_weights(self) -> int:
        """
        Weights in a block.
        """
    @property
    def has_dequantizer(self) -> bool:
        """
        dequantize() can read the type.
        """
    @property
    def has_quantizer(self) -> bool:
        """
        quantize() can write the type.
        """
    @property
    def id(self) -> int:
        """
        ggml's number of the type.
        """
    @property
    def is_quantized(self) -> bool: ...
    @property
    def name(self) -> str:
        """
        Upper-case name, as in Q4_K.
        """
    @property
    def needs_importance(self) -> bool:
        """
        quantize() refuses to write the type without an importance.
        """

class FileType:
    """
    A llama.cpp file type, such as Q4_K_M.
    """
    def __repr__(self) -> str: ...
    @property
    def default_type(self) -> str:
        """
        The tensor type where none of the file type's rules says otherwise.
        """
    @property
    def id(self) -> int:
        """
        The value of general.file_type.
        """
    @property
    def name(self) -> str:
        """
        Name as llama-quantize spells it.
        """

class TensorInfo:
    """
    An entry of a GGUF file's tensor table.
    """
    def __repr__(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int:
        """
        Bytes from the start of the data section.
        """
    @property
    def shape(self) -> tuple[int, ...]:
        """
        Dimensions in ggml's order, columns first, without trailing ones.
        """
    @property
    def type(self) -> str: ...

class Header:
    """
    The header of a GGUF file, as upstream's gguf API reads and writes it.
    """
    @staticmethod
    def empty() -> Header:
        """
        A header without keys and tensors.
        """
    @staticmethod
    def read(path: str | bytes) -> Header:
        """
        Reads the header of a file. Raises HeaderError, OSError.
        """
    @staticmethod
    def read_metadata(path: str | bytes) -> Header:
        """
        Reads the metadata alone, byte for byte; the tensor table is empty.
        """
    def __contains__(self, key: str) -> bool: ...
    def add_tensor(self, name: str, shape: collections.abc.Sequence[int], type: str) -> None:
        """
        Appends a tensor whose data follows, aligned, that of the one before. Raises ValueError.
        """
    def get(self, key: str) -> typing.Any:
        """
        The value: int, float, bool, str, a list of str, or a numpy array. Raises KeyError.
        """
    def key_length(self, key: str) -> int:
        """
        The number of elements of an array, else 1. Raises KeyError.
        """
    def key_type(self, key: str) -> str:
        """
        The value's GGUF type, as in u32, str, arr[str]. Raises KeyError.
        """
    def keys(self) -> list[str]:
        """
        The metadata keys, in the file's order.
        """
    def remove(self, key: str) -> None:
        """
        Removes a key if it is there.
        """
    def set(self, key: str, type: str, value: typing.Any) -> None:
        """
        Sets a key to a value of type u16, u32, i32, f32, bool, str or arr[str]; it becomes the last.
        """
    def tensors(self) -> list[TensorInfo]:
        """
        The tensor table, in the file's order.
        """
    def to_bytes(self) -> bytes:
        """
        The serialised header, padded so that the data section can follow.
        """
    @property
    def alignment(self) -> int: ...
    @property
    def data_offset(self) -> int:
        """
        Where the data section starts in the file that was read.
        """
    @property
    def file_bytes(self) -> int:
        """
        Size of the file that was read.
        """
    @property
    def version(self) -> int: ...

class Comparison:
    """
    Sums over the differences between two tensors.
    """
    @property
    def bad_values(self) -> int:
        """
        NaN or infinite values.
        """
    @property
    def error(self) -> float:
        """
        Sum of squared differences.
        """
    @property
    def reference(self) -> float:
        """
        Sum of the reference's squares.
        """
    @property
    def weighted_error(self) -> float: ...
    @property
    def weighted_reference(self) -> float: ...
    @property
    def worst_column(self) -> int: ...
    @property
    def worst_error(self) -> float:
        """
        The largest sum of squared differences of one block of 256 weights.
        """
    @property
    def worst_row(self) -> int: ...

class Objective:
    """
    What compensated rounding makes small: the sum over rows of e H e^T.

    e is the error of a row of weights, and H what is known of the second moments of its inputs.
    """
    def __init__(
        self,
        columns: int,
        sums: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        rows: float,
        pooled: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        pooled_rows: float,
        *,
        prior_rows: float = 256.0,
        damping: float | None = None,
        level: float = 0.1,
        threads: int = 0,
    ) -> None:
        """
        H is sums + prior_rows * pooled / pooled_rows, over the mean of its diagonal.

        sums: float32, the lower triangle of the sum of x x^T over `rows` inputs, row by row.
        pooled, pooled_rows: the same of all experts of the tensor.
        damping: what is added to the diagonal, as a share of it; without it 3 * columns / rows, so
            that of few rows little more than the diagonal is left, and at least 0.1.
        level: what is added to the diagonal, as a share of its mean, so that inputs of other texts count.

        Raises ValueError for sizes that do not fit together and where nothing is known.
        """
    @property
    def columns(self) -> int: ...
    @property
    def diagonal(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Of H, float32 (columns,); a copy.
        """
    @property
    def moments(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        H, float32 (columns, columns); a copy.
        """

class TensorDecision:
    """
    What llama.cpp decides about one tensor.
    """
    @property
    def may_quantize(self) -> bool:
        """
        False where llama.cpp keeps the tensor's type.
        """
    @property
    def needs_importance(self) -> bool:
        """
        llama.cpp refuses to write this type without an importance.
        """
    @property
    def type(self) -> str:
        """
        The type that llama.cpp writes.
        """
    @property
    def wanted(self) -> str:
        """
        The type before a fallback for the row length.
        """

class ActivationSink:
    """
    What a context gives the inputs of matrix products to.
    """
    def add(
        self,
        name: str,
        activations: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        experts: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None = None,
        expert_count: int = 0,
    ) -> None:
        """
        Add float32 (rows, columns) activations; with experts, each row to one of them. Raises ValueError where sizes differ from before, NonFiniteError.
        """
    def add_same(self, name: str, other: str) -> bool:
        """
        Add the rows that were added to another tensor last; False where that is not possible.
        """

class Moments(ActivationSink):
    """
    Sums of x xᵀ over the rows x that go into each matrix, in float32, in the order of the rows.
    """
    @staticmethod
    def bytes(columns: int, matrices: int) -> int:
        """
        What a tensor that is summed takes in memory.
        """
    def __init__(self, wanted: collections.abc.Set[str] | None = None, threads: int = 0) -> None:
        """
        wanted: the tensors that are summed, all by default; of others the sizes are learned alone.
        """
    def entry(
        self, name: str
    ) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.int64]]:
        """
        Views of a tensor's sums, float32 (matrices, triangle), row i and column j <= i at i (i + 1) / 2 + j, and of its int64 counts of rows. Raises IndexError for an unknown name, NonFiniteError.
        """
    def inputs(self) -> list[tuple[str, int, int, str]]:
        """
        (name, columns, matrices, same as) of every tensor, in the order of the graph; the last is the name of the tensor that has the sums of both, or empty.
        """

class Accumulator(ActivationSink):
    """
    Sums of squared activations per column and expert, in float32, in the order of the rows.
    """
    def __init__(self, threads: int = 0, without: collections.abc.Set[str] = set()) -> None:
        """
        without: tensors that are passed over.
        """
    def add_by_way_of_device(
        self,
        device: int,
        name: str,
        activations: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        experts: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None,
        expert_count: int = 0,
    ) -> None:
        """
        add() on a GPU, which keeps the sums until they are asked for. Raises DeviceError.
        """
    def counts(self) -> dict[str, numpy.typing.NDArray[numpy.int64]]:
        """
        By tensor name: int64 counts of rows; a copy.
        """
    def entries(
        self,
    ) -> dict[str, tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.int64]]]:
        """
        By tensor name: float32 (matrices, columns) sums, int64 counts of rows; copies.
        """
    def merge(
        self,
        name: str,
        sums: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        counts: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    ) -> None:
        """
        Add what was collected elsewhere: float32 (matrices, columns) and int64 counts, one per matrix or one for all. Raises ValueError where sizes differ.
        """

class Device:
    """
    A GPU.
    """
    @property
    def clock(self) -> float:
        """
        Of them at most, in Hz.
        """
    @property
    def free_memory(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def is_supported(self) -> bool:
        """
        Whether this build has kernels for it.
        """
    @property
    def major(self) -> int:
        """
        Of its compute capability.
        """
    @property
    def memory(self) -> int:
        """
        In bytes.
        """
    @property
    def minor(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def processors(self) -> int:
        """
        Streaming multiprocessors.
        """

class Outcome:
    """
    What became of a job on a GPU; times in seconds.
    """
    @property
    def computing(self) -> float: ...
    @property
    def copying_in(self) -> float: ...
    @property
    def copying_out(self) -> float: ...
    @property
    def is_sound(self) -> bool:
        """
        Otherwise a weight is NaN, infinite or too large for a target, and all bytes are void.
        """

class Bandwidth:
    """
    Measured copies, in bytes per second.
    """
    @property
    def from_device(self) -> float: ...
    @property
    def on_device(self) -> float:
        """
        Read and written bytes together.
        """
    @property
    def to_device(self) -> float: ...

class DeviceQuantizer:
    """
    A GPU with slots for several jobs, whose copies and kernels overlap. The limits are those of the largest job: target_bytes and importance_values are sums over its targets, and targets says how many it has. For one thread at a time. Raises DeviceError.
    """
    def __init__(
        self,
        device: int,
        slots: int,
        *,
        source_bytes: int,
        target_bytes: int,
        importance_values: int = 0,
        rows: int,
        dequantized_weights: int = 0,
        targets: int = 1,
    ) -> None: ...
    def submit(
        self,
        slot: int,
        src: _Buffer,
        src_type: str,
        shape: collections.abc.Sequence[int],
        targets: collections.abc.Sequence[tuple[str, _Buffer | None, _Buffer]],
    ) -> None:
        """
        Begins with a job and returns. A target is (type, importance, out): float32 of (columns,) or (experts, columns), or None, and memory for the bytes of the rows. src and every out must stay as they are until wait(); only memory of host_memory() is copied while other work goes on. Raises DeviceError, and ValueError where there is no kernel for a target, or the job is larger than the limits.
        """
    def time_kernels(
        self,
        slot: int,
        src: _Buffer,
        src_type: str,
        shape: collections.abc.Sequence[int],
        targets: collections.abc.Sequence[tuple[str, _Buffer | None, _Buffer]],
        repeats: int,
    ) -> float:
        """
        Runs the kernels of the last job again on what lies on the GPU: the fastest, in seconds.
        """
    def wait(self, slot: int) -> Outcome:
        """
        Waits for the job in a slot; what became of it, which is sound only if all of its targets are. Raises DeviceError; every out is then void.
        """

class Model:
    """
    A model that libllama loaded.
    """
    def __init__(
        self,
        path: str | bytes,
        *,
        mtp: bool = False,
        vocabulary_only: bool = False,
        gpu_layers: int = 0,
        replaceable: bool = False,
    ) -> None:
        """
        Mapped, on the CPU but for gpu_layers, of which a negative number means all; replaceable: in memory, so that Weights can change it. Raises ModelError.
        """
    def first_difference(self, other: Model) -> int:
        """
        The first token that differs between the two vocabularies, or -1.
        """
    def piece(self, token: int) -> bytes:
        """
        The bytes that a token stands for.
        """
    def render_chat(self, messages: collections.abc.Sequence[tuple[str, str]]) -> str | None:
        """
        (role, content) messages as the model's own template writes them; None where libllama does not know its template.
        """
    def tokenize(
        self, text: bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 tokens of UTF-8 text. add_special: with the token that begins a text, where the model wants one; parse_special: names of special tokens in the text become those tokens.
        """
    @property
    def adds_bos(self) -> bool:
        """
        Whether texts begin with the beginning-of-sequence token.
        """
    @property
    def bos(self) -> int: ...
    @property
    def context_length(self) -> int:
        """
        The context that the model was trained with.
        """
    @property
    def layers(self) -> int:
        """
        Layers of the trunk.
        """
    @property
    def mtp_layers(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...

class Context:
    """
    What libllama needs to run a model: caches, buffers, threads.
    """
    def __init__(
        self,
        model: Model,
        *,
        context_length: int = 512,
        batch_size: int = 2048,
        micro_batch_size: int = 512,
        sequences: int = 1,
        threads: int = 0,
        cache_type_k: str = "F16",
        cache_type_v: str = "F16",
        unified_cache: bool = False,
        mtp: bool = False,
        collect: collections.abc.Sequence[ActivationSink] = (),
        collect_output: bool = False,
        collect_until: str = "",
    ) -> None:
        """
        context_length counts the tokens of all sequences. With `collect`, activations are added to every sink in it and logits are not computed; what follows the product with the tensor `collect_until` is then left out. Raises ModelError.
        """
    def clear(self) -> None:
        """
        Forget all sequences.
        """
    def compare(
        self,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        models: collections.abc.Sequence[Context],
        *,
        encode: bool = False,
        threads: int = 0,
    ) -> tuple[
        tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int32]],
        list[
            tuple[
                tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int32]],
                dict[str, numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]],
            ]
        ],
        numpy.typing.NDArray[numpy.uint16] | None,
    ]:
        """
        Compares contexts that have decoded the same batch with this one: what score gives for this one, what diverge gives for each of them, and, to encode, the uint16 rows of a llama-perplexity base file, else None. With them, -ln p(token) of this one is what llama-perplexity prints while it writes such a file.
        """
    def decode(
        self,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        positions: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        sequences: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        outputs: typing.Annotated[numpy.typing.ArrayLike, numpy.bool],
        shared: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None,
    ) -> None:
        """
        Run a batch. Token i belongs to shared[i] sequences from sequences[i] on; outputs[i] asks for its logits. Raises ModelError, NonFiniteError.
        """
    def decode_mtp(
        self,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        positions: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        sequences: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        outputs: typing.Annotated[numpy.typing.ArrayLike, numpy.bool],
        trunk: Context,
    ) -> int:
        """
        Run the multi-token-prediction heads over the batch that the trunk has just run. Returns how many matrix products were collected.
        """
    def diverge(
        self,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        codes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint16],
        threads: int = 0,
    ) -> tuple[
        tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int32]],
        dict[str, numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]],
    ]:
        """
        Against uint16 rows of a base file, one for each row of logits: what score gives, and the statistics of each position, a dict of float64 kl, float32 negative_log_likelihood, base_negative_log_likelihood and probability_difference, bool same_top.
        """
    def keep_hidden_states(self) -> None:
        """
        Keep what decode_mtp of another context needs.
        """
    def log_probabilities(
        self,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        threads: int = 0,
    ) -> numpy.typing.NDArray[numpy.float32]:
        """
        float32: ln p(token), summed in float as llama-perplexity's tasks do.
        """
    def logits(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        float32 (rows, vocabulary): a copy of the logits that the last batch asked for.
        """
    def probabilities(
        self,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        threads: int = 0,
    ) -> numpy.typing.NDArray[numpy.float32]:
        """
        float32: p(token).
        """
    def score(
        self,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        threads: int = 0,
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.int32]]:
        """
        Of each row of the last logits, float64 -ln p(token) and the int32 most likely token.
        """

class Weights:
    """
    The weights of a model that was loaded as replaceable, to be changed while nothing runs it.
    """
    def __init__(self, model: Model) -> None: ...
    def read(self, name: str) -> numpy.typing.NDArray[numpy.uint8]:
        """
        uint8: a copy of the bytes that a tensor has now.
        """
    def replace(self, name: str, type: str, data: _Buffer) -> None:
        """
        Make a tensor be of a type, with these bytes. The model then computes as one that was loaded from a file with them. Raises ValueError where the model has no such tensor, or the bytes are not those of its shape, or more than the file's.
        """
    def type(self, name: str) -> str:
        """
        The type that a tensor has now.
        """

class Reference:
    """
    The distributions of one model at many positions, to compare others with.
    """
    @staticmethod
    def row_bytes(vocabulary: int, top: int) -> int:
        """
        Bytes of memory for each position.
        """
    def __init__(self, vocabulary: int, top: int = 0) -> None:
        """
        top: how many tokens are kept of each position, beside what all others have together; 0 for all, which is exact.
        """
    def add(
        self,
        context: Context,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        threads: int = 0,
    ) -> None:
        """
        Append rows of the last logits of a context.
        """
    def diverge(
        self,
        first: int,
        context: Context,
        rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        threads: int = 0,
    ) -> numpy.typing.NDArray[numpy.float64]:
        """
        float64: KL divergence in nats of the kept positions, from `first` on, to rows of the last logits of a context.
        """
    @property
    def rows(self) -> int:
        """
        How many positions are kept.
        """

def active_isa() -> str:
    """
    The one that runs. Raises ValueError if APEX_ISA names one that is not available.
    """

def active_variant() -> str:
    """
    The one that runs models. Raises ValueError if APEX_CPU_VARIANT names one that is not available.
    """

def available_isas() -> list[str]:
    """
    The instruction sets of the kernels that this CPU runs, from narrow to wide.
    """

def available_threads() -> int:
    """
    The number of processors that this process may use.
    """

def available_variants() -> list[str]:
    """
    The variants of llama.cpp's CPU backend that this CPU runs, from narrow to wide; native in a build for this machine.
    """

def base_file_row(vocabulary: int) -> int:
    """
    uint16 values in a row of a llama-perplexity base file.
    """

def can_quantize_on_device(src_type: str, type: str, weighted: bool) -> bool:
    """
    Whether there is a kernel for GPUs from weights of one type to another.
    """

def check(
    src: _Buffer,
    src_type: str | None = None,
    *,
    shape: collections.abc.Sequence[int] | None = None,
    threads: int = 0,
) -> None:
    """
    Raises BadDataError if a weight is NaN or infinite or a quantized block damaged.
    """

def compare(
    quantized: _Buffer,
    quantized_type: str,
    reference: _Buffer,
    reference_type: str,
    shape: collections.abc.Sequence[int],
    importance: _Buffer | None = None,
    threads: int = 0,
) -> Comparison:
    """
    Compares two buffers of weights of the same shape, in double precision.
    """

def compensate(
    src: _Buffer,
    type: str,
    objective: Objective,
    out: _Buffer,
    *,
    src_type: str | None = None,
    shape: collections.abc.Sequence[int] | None = None,
    threads: int = 0,
) -> None:
    """
    Improves the quantized rows of one matrix under an objective, in place.

    Errors of columns whose inputs move together make up for each other; then the scales of each row are
    multiplied so that its outputs keep their size. All sums are in binary32 in an order that depends on
    nothing but the columns.

    src, type, src_type, shape, threads: as for quantize(), of one matrix.
    out: what quantize() made of it.

    Raises ValueError for arguments that do not fit together and types that cannot be compensated,
    BadDataError for weights that are NaN, infinite or too large.
    """

def cuda_is_built() -> bool:
    """
    Whether this build has kernels for GPUs.
    """

def decide_types(
    header: Header,
    path: str | bytes,
    tensors: collections.abc.Sequence[tuple[str, collections.abc.Sequence[int], str, str | None]],
    file_type: str,
    *,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    pure: bool = False,
    quantize_output_tensor: bool = True,
    copy: bool = False,
    has_importance: bool = False,
    overrides: collections.abc.Sequence[tuple[str, bool | int | float | str]] = [],
) -> list[TensorDecision]:
    """
    llama.cpp's decision about every tensor, by its own functions (src/llama-quant.cpp).

    header, path: those of the model's first file.
    tensors: (name, shape, type, forced type or None) of all tensors, in the order of the output.
    overrides: (key, value) pairs that replace metadata.
    Raises ModelError where libllama does not know the architecture or misses metadata.
    """

def dequantize(
    src: _Buffer,
    src_type: str | None = None,
    *,
    shape: collections.abc.Sequence[int] | None = None,
    out: _Buffer | None = None,
    threads: int = 0,
) -> typing.Any:
    """
    Returns the weights of one tensor as float32, of the same shape.

    src: as for quantize(); a uint8 array (..., bytes of a row) of a quantized type needs no shape.
    """

def dequantize_on_device(
    src: _Buffer, src_type: str, device: int
) -> numpy.typing.NDArray[numpy.float32]:
    """
    dequantize() on a GPU. Raises DeviceError.
    """

def devices() -> list[Device]:
    """
    The GPUs. Raises DeviceError, which says why, where there is none.
    """

def draw_hellaswag(available: int, wanted: int) -> list[int]:
    """
    The tasks that llama-perplexity draws, in its order.
    """

def draw_tasks(available: int, wanted: int) -> list[int]:
    """
    The same for Winogrande and multiple choice; 0 wants all.
    """

def file_types() -> list[FileType]:
    """
    Every file type that llama-quantize writes, from the largest to the smallest.
    """

def first_match(
    patterns: collections.abc.Sequence[str], names: collections.abc.Sequence[str]
) -> list[int]:
    """
    For each name the index of the first pattern found in it (std::regex_search), or -1. Raises ValueError for a pattern that is malformed, too long or takes too long to match. The GIL is released; signals are looked at.
    """

def gpu_backends() -> list[str]:
    """
    The GPU backends of this build; empty where it runs models on the CPU alone.
    """

def gpu_devices() -> list[tuple[str, str, int, int]]:
    """
    (name, description, free and total bytes) of each GPU that models can be run on. Raises ModelError.
    """

def host_memory(bytes: int) -> numpy.typing.NDArray[numpy.uint8]:
    """
    A uint8 array that GPUs copy from and to by themselves. Raises DeviceError.
    """

def inference_features() -> str:
    """
    The instruction sets that libllama's CPU backend uses; low digits depend on them.
    """

def max_sequences() -> int:
    """
    The most sequences that a context can have.
    """

def measure_bandwidth(device: int, bytes: int) -> Bandwidth:
    """
    How fast a GPU copies.
    """

def memory_need(
    path: str | bytes,
    *,
    context_length: int = 512,
    batch_size: int = 2048,
    micro_batch_size: int = 512,
    sequences: int = 1,
    cache_type_k: str = "F16",
    cache_type_v: str = "F16",
    unified_cache: bool = False,
    mtp: bool = False,
    load_mtp: bool = False,
    gpu_layers: int = 0,
) -> dict[str, int]:
    """
    Bytes that a model and a context would take, without making them: of the host's memory model, cache, compute and logits; on GPUs device_model and device, the caches and buffers. mtp: the context runs the multi-token-prediction layers; load_mtp: they are loaded. Raises ModelError.
    """

def output_order(names: collections.abc.Sequence[str]) -> list[int]:
    """
    The order in which llama.cpp writes tensors of these names into a single file.
    """

def quantize(
    src: _Buffer,
    type: str,
    importance: _Buffer | None = None,
    *,
    src_type: str | None = None,
    shape: collections.abc.Sequence[int] | None = None,
    out: _Buffer | None = None,
    threads: int = 0,
) -> typing.Any:
    """
    Quantizes the weights of one tensor, with the bytes of ggml_quantize_chunk.

    src: a C-contiguous buffer (numpy array, mmap, memoryview) of shape (columns,), (rows, columns) or
        (experts, rows, columns); float32 or float16, or of the type that src_type names.
    type: the tensor type to write, as in "Q4_K".
    importance: float32, one value per column, or per expert and column; finite and not negative.
    shape: the weights' shape where src is plain bytes.
    out: a writable buffer for the result; without it a uint8 array (..., bytes of a row) is made.
    threads: 0 for all that are available. The GIL is released.

    Raises ValueError for arguments that do not fit together, BadDataError for weights that are NaN or
    infinite or too large for the type.
    """

def tensor_types() -> list[TensorType]:
    """
    Every tensor type of this ggml, in the order of its numbers.
    """

def unshrink(
    src: _Buffer,
    type: str,
    importance: _Buffer,
    out: _Buffer,
    *,
    src_type: str | None = None,
    shape: collections.abc.Sequence[int] | None = None,
    threads: int = 0,
) -> None:
    """
    Multiplies the scales of quantized rows, in place, so that their outputs keep their size.

    A row's factor is the sum of h w w over that of h w v: w the weights, v those that its levels stand
    for, h their importance; 1 where that is not between 1/2 and 2. Levels stay. The sums are in double
    precision, in the order of the columns; the number of threads changes nothing.

    src, type, importance, src_type, shape, threads: as for quantize().
    out: what quantize() made of them.

    Raises ValueError for arguments that do not fit together and for types without scales in binary16,
    BadDataError for weights that are NaN or infinite.
    """

__version__: str
ggml_version: str
llama_version: str
