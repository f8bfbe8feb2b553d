"""How long calls take on a GPU at the least: an ESTIMATE from what their launches move and compute, measured on none.

A launch takes the longest of: its bytes at the GPU's bandwidth, its operations at their peak, 3 microseconds. Launches
run one after the other, so a call takes their sum. What the model leaves out makes a GPU slower than this: latency,
occupancy, caches that miss, the host. Quicker is only what stays in a cache from one launch to the next.

Bytes are compulsory: of each launch every input and output once, as though caches answered all else. `Launches`
collects them while a call runs, on tensors of any device: those of this package's kernels by the formulas below, which
`tests/emulator/test_counts.py` holds to what the emulator counts; and those of plain PyTorch, where an operator that
makes something counts as one launch, the fewest it may be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from wsol_ext.ops._backend import constants
from wsol_ext.ops.diffusion import _ladder
from wsol_ext.ops.superpixels import slic_grid

LAUNCH_SECONDS = (
    3e-6  # from the start of one short launch to that of the next: an assumption, of no data sheet
)


@dataclass(frozen=True)
class Gpu:
    """What its maker publishes of a card.

    Attributes:
        bandwidth: of its memory, in bytes a second.
        peaks: operations a second, a multiply-add being two: `float64`, `float32` and `int32` outside of tensor cores,
            `tensor` on them for products of half types, with sums in float32, none of them known to be zero.
        multiprocessors: how many share those peaks.
        clock: in Hz, at which these are.
    """

    name: str
    source: str
    bandwidth: float
    peaks: dict[str, float]
    multiprocessors: int
    clock: float

    def rate(self, unit: str) -> float:
        """Of a unit of `Launch.work` a second: `bytes`, `shared`, or one of `peaks`."""
        if unit == "bytes":
            return self.bandwidth
        if unit == "shared":  # a multiprocessor serves one wavefront of 128 bytes a cycle
            return self.multiprocessors * self.clock
        return self.peaks[unit]


GPUS = (
    Gpu(
        "H100 SXM",
        "NVIDIA H100 Tensor Core GPU data sheet and architecture white paper",
        3.35e12,
        {"float64": 33.5e12, "float32": 66.9e12, "int32": 33.5e12, "tensor": 989.4e12},
        132,
        1.98e9,
    ),
    Gpu(
        "RTX 4090",
        "NVIDIA Ada GPU architecture white paper, appendix A",
        1.008e12,
        {"float64": 1.29e12, "float32": 82.6e12, "int32": 41.3e12, "tensor": 165.2e12},
        128,
        2.52e9,
    ),
)


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, or several that are alike.

    Attributes:
        kernel: as `box_iou.cu:box_iou_kernel`, else the name of what PyTorch runs.
        work: by unit, of each launch: `bytes`, operations of the units in `Gpu.peaks`, and `shared`, the wavefronts in
            which shared memory is asked, where those are known.
        times: how many launches.
        blocks: of threads, where there may be fewer than multiprocessors: then only so many of these compute.
        asked: bytes that all its requests ask for, caches or not, where that depends on more than the kernel.
    """

    kernel: str
    work: dict[str, float]
    times: int = 1
    blocks: float = math.inf
    asked: float | None = None

    def seconds(self, gpu: Gpu) -> tuple[float, str]:
        """How long all of them take at the least, and what decides it: a unit of `work`, or `launches`."""
        busy = min(1.0, self.blocks / gpu.multiprocessors)
        each = {
            unit: amount / gpu.rate(unit) / (1 if unit == "bytes" else busy)
            for unit, amount in self.work.items()
        }
        each["launches"] = LAUNCH_SECONDS
        limit = max(each, key=lambda unit: each[unit])
        return self.times * each[limit], limit


@dataclass(frozen=True)
class Estimate:
    """Of a call on a GPU: how long it takes at the least, and the limit that most of this is due to."""

    seconds: float
    limit: str


def estimate(launches: list[Launch], gpu: Gpu) -> Estimate | None:
    """None of a call that launches nothing: it does not run on a GPU."""
    by_limit: dict[str, float] = {}
    for launch in launches:
        seconds, limit = launch.seconds(gpu)
        by_limit[limit] = by_limit.get(limit, 0.0) + seconds
    if not by_limit:
        return None
    return Estimate(sum(by_limit.values()), max(by_limit, key=lambda limit: by_limit[limit]))


class Launches(TorchDispatchMode):
    """Within, what is launched: `launches` grows with each call of PyTorch's and of this package's operators.

    Sees the thread that entered it, and backward passes that this thread starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to tell the compiler to is to import it, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "wsol":
            self.launches += FORMULAS[func._schema.name.removeprefix("wsol::")](out, *args)
        else:
            self.launches += _launches_of_pytorch(func, args, kwargs or {}, out)
        return out


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """What `call` launches."""
    with Launches() as seen:
        call()
    return seen.launches


# --- plain PyTorch


def _size(*tensors: Tensor | None) -> int:
    """Bytes that the elements take; one that is read many times, in an expanded tensor, once."""
    return sum(
        min(t.numel() * t.element_size(), t.untyped_storage().nbytes())
        for t in tensors
        if t is not None
    )


def _launches_of_pytorch(func: Any, args: Any, kwargs: Any, out: Any) -> list[Launch]:
    inputs = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    memory = {t.untyped_storage()._cdata for t in inputs.values()}
    makes_nothing = not func._schema.is_mutable and all(
        t.untyped_storage()._cdata in memory for t in outputs
    )
    name = func._schema.name.removeprefix("aten::")
    if name.startswith(("empty", "new_empty")) or (outputs and makes_nothing):
        return []
    work: dict[str, float] = {"bytes": _size(*inputs.values(), *outputs)}
    count = flop_registry.get(func._overloadpacket)
    if name in _ATTENTION_OF_CPU:
        first, products = _ATTENTION_OF_CPU[name]
        query, key = args[first : first + 2]
        work[_unit(query)] = products * 2 * query.numel() * key.size(2)
    elif count is not None and outputs:
        work[_unit(outputs[0])] = count(*args, **kwargs, out_val=out)
    return [Launch(name, work)]


# Fused attention of the CPU, which FlopCounterMode does not know: where its query stands, and how many products it has.
_ATTENTION_OF_CPU = {
    "_scaled_dot_product_flash_attention_for_cpu": (0, 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (1, 5),
}


def _unit(tensor: Tensor) -> str:
    """Which peak products of such tensors have in PyTorch by default: float32 stays off the tensor cores."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return "tensor"
    return "float64" if tensor.dtype == torch.float64 else "float32"


# --- this package's kernels: what each operator launches, from its outputs and arguments


FORMULAS: dict[str, Callable[..., list[Launch]]] = {}


def _of(operator: str) -> Callable[[Callable[..., list[Launch]]], Callable[..., list[Launch]]]:
    def add(formula: Callable[..., list[Launch]]) -> Callable[..., list[Launch]]:
        FORMULAS[operator] = formula
        return formula

    return add


def _moves(kernel: str, *amounts: float, times: int = 1, **operations: float) -> Launch:
    """A launch by the bytes it reads and writes, and its operations by unit."""
    return Launch(kernel, {"bytes": sum(amounts), **operations}, times)


def _torch(*names: str) -> list[Launch]:
    """What PyTorch launches inside an operator, on a few bytes each."""
    return [Launch(name, {"bytes": 64}) for name in names]


def _is_known(tensor: Tensor) -> bool:
    """Whether it has values to look at."""
    return tensor.device.type != "meta"


def _sums(tensor: Tensor) -> int:
    """Bytes of a number that sums over the tensor are kept in."""
    return 8 if tensor.dtype == torch.float64 else 4


def _sum_unit(tensor: Tensor) -> str:
    return "float64" if tensor.dtype == torch.float64 else "float32"


# class_attention, spatial_gate: products of a query with all keys, 2 operations a channel.


def _products(query: Tensor, key: Tensor, times: int = 1) -> dict[str, float]:
    return {_sum_unit(query): times * 2 * query.numel() * key.size(2)}


def _logits(query: Tensor, key: Tensor, scratch: int) -> Launch:
    moved = _size(query, key), scratch
    return _moves("class_attention.cu:logits_kernel", *moved, **_products(query, key))


def _dot_gradients(
    query: Tensor, key: Tensor, weights: int, query_wanted: bool = True, key_wanted: bool = True
) -> Launch:
    of_query, of_key = _size(query), _size(key)
    return _moves(
        "query_key.cuh:dot_gradients_kernel",
        # Each gradient, and what it is a sum of.
        *(weights, (of_query + of_key) * query_wanted, (of_key + of_query) * key_wanted),
        **_products(query, key, query_wanted + key_wanted),
    )


def _heads_a_block(query: Tensor, key: Tensor, of_images: bool) -> int:
    """That `class_attention.cu` gives a block: all those of an image if they fit; 0 where a block cannot have one."""
    images, heads, queries, width = query.shape
    tokens = key.size(2)

    def fit(of_block: int) -> bool:
        """`Sizes::fit_blocks`."""
        of_keys = of_block * tokens * width * key.element_size()
        in_time = images * heads // of_block >= 64 or of_keys <= 512 * 1024
        return of_block * queries * (tokens + 3) * _sums(query) <= 40 * 1024 and in_time

    return heads if of_images and fit(heads) else int(fit(1))


@_of("class_attention")
def _class_attention(out: Tensor, query: Tensor, key: Tensor, scale: float | None = None) -> Any:
    images, heads = query.shape[:2]
    of_block = _heads_a_block(query, key, of_images=True)
    scratch = out.numel() * heads * _sums(query)
    average = _moves("class_attention.cu:average_kernel", scratch, _size(out))
    if of_block == 0:
        softmax = _moves("class_attention.cu:softmax_kernel", 2 * scratch)
        return [_logits(query, key, scratch), softmax, average]
    is_done = of_block == heads
    work = {"bytes": _size(query, key) + (_size(out) if is_done else scratch)}
    forward = Launch(
        "class_attention.cu:forward_kernel",
        work | _products(query, key),
        blocks=images * heads // of_block,
    )
    return [forward] if is_done else [forward, average]


@_of("class_attention_backward")
def _class_attention_backward(
    out: Any, grad_out: Tensor, query: Tensor, key: Tensor, scale: float, *wanted: bool
) -> list[Launch]:
    images, heads = query.shape[:2]
    query_wanted, key_wanted = (*wanted, True, True)[:2]
    if _heads_a_block(query, key, of_images=False):
        grads = _size(query) * query_wanted + _size(key) * key_wanted
        return [
            Launch(
                "class_attention.cu:backward_kernel",
                {"bytes": _size(query, key, grad_out) + grads}
                | _products(query, key, 1 + query_wanted + key_wanted),
                blocks=images * heads,
            )
        ]
    scratch = grad_out.numel() * heads * _sums(query)
    return [
        _logits(query, key, scratch),
        _moves("class_attention.cu:softmax_gradient_kernel", 2 * scratch, _size(grad_out)),
        _dot_gradients(query, key, scratch, query_wanted, key_wanted),
    ]


@_of("spatial_gate")
def _spatial_gate(out: Tensor, query: Tensor, key: Tensor, scale: float | None = None) -> Any:
    operations = {_sum_unit(query): 2 * key.numel()}
    moved = _size(query, key, out)
    return [_moves("spatial_gate.cu:gate_kernel", moved, **operations)]


@_of("spatial_gate_backward")
def _spatial_gate_backward(
    out: Any, grad: Tensor, query: Tensor, key: Tensor, gate: Tensor, scale: float, *wanted: bool
) -> list[Launch]:
    return [_dot_gradients(query[:, :, None], key, _size(grad, gate), *wanted)]


# masked_reattention: kernels read all rows of a tensor, or those of the kept tokens, or of the dropped ones.


class _Reattention:
    """Bytes and operations that its kernels share."""

    def __init__(self, query: Tensor, keep: Tensor, eps: float) -> None:
        images, heads, tokens, width = query.shape
        halves = query.dtype in (torch.float16, torch.bfloat16)
        on_tensor_cores = halves and width % 8 == 0 and width <= 128
        self.source = f"masked_reattention_{'mma' if on_tensor_cores else 'plain'}.cu"
        self.unit = "tensor" if on_tensor_cores else _sum_unit(query)
        self.sum_unit = _sum_unit(query)
        self.eps = eps
        # Without values to look at, half of the tokens.
        self.kept = keep.float().mean().item() if _is_known(keep) else 0.5
        self.dropped = 1 - self.kept
        sums = _sums(query)
        rows = images * heads * tokens
        # Bytes: of query, key, value, output or the gradient of one; of a number a row; and so on.
        self.rows = rows * width * (2 if on_tensor_cores else sums)
        self.numbers = rows * sums
        self.tops = rows * 4
        self.means = images * heads * width * sums
        self.order = images * (1 + tokens) * 4
        self.keep = images * tokens
        self.product = 2 * rows * tokens * width  # operations, of all rows with all rows

    def mean(self, *read: float) -> Launch:
        if self.eps == 0:
            return _moves("memset", self.means)
        return _moves("masked_reattention.cu:mean_kernel", *read, self.means)


@_of("masked_reattention")
def _masked_reattention(
    out: Any, query: Tensor, key: Tensor, value: Tensor, keep: Tensor, *scale_and_eps: Any
) -> list[Launch]:
    n = _Reattention(query, keep, (*scale_and_eps, *(None, 1e-6)[len(scale_and_eps) :])[1])
    logits = 1 if n.eps > 0 else n.kept
    forward = _moves(
        f"{n.source}:forward_kernel",
        *(4 * n.rows, n.order, n.keep, n.means, n.numbers, n.tops),
        **{n.unit: (logits + n.kept) * n.product},
    )
    return [
        _moves("masked_reattention.cu:list_tokens_kernel", n.keep, n.order),
        n.mean(n.rows),
        forward,
    ]


@_of("masked_reattention_backward")
def _masked_reattention_backward(
    out: Any, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, keep: Tensor, *rest: Any
) -> list[Launch]:
    n = _Reattention(query, keep, rest[6])
    dots = n.product / query.size(2)  # operations, of each row with another
    top_rows = 2 * n.tops if n.eps > 0 else 0
    return [
        _moves(
            "masked_reattention.cu:row_terms_kernel",
            *((4 + n.dropped) * n.rows, 6 * n.numbers, n.tops, top_rows, n.means, n.keep),
            **{n.sum_unit: (3 + 2 * n.dropped) * dots},
        ),
        n.mean(n.rows, n.numbers),
        _moves(
            f"{n.source}:grad_query_kernel",
            *((4 + n.kept) * n.rows, 4 * n.numbers, n.tops, n.order),
            **{n.unit: 3 * n.kept * n.product},
        ),
        _moves(
            f"{n.source}:grad_key_value_kernel",
            *((2 + 4 * n.kept) * n.rows, 3 * n.numbers, n.tops, n.means, n.order),
            **{n.unit: 4 * n.kept * n.product},
        ),
        _moves(
            "masked_reattention.cu:grad_dropped_kernel",
            # Its rows' queries, and those of rows whose largest logit is a dropped token's.
            *((1 - n.kept**2 + 3 * n.dropped) * n.rows, 3 * n.dropped * n.numbers),
            *(n.dropped * top_rows, n.means, n.order),
            **{n.sum_unit: 3 * n.dropped * dots},
        ),
    ]


# Token masks. What a row's forward writes twice and reads in between lies in shared memory, if 8 rows find room there.


@_of("masked_softmax")
def _masked_softmax(out: Tensor, logits: Tensor, keep: Tensor, eps: float = 1e-6) -> list[Launch]:
    is_staged = 8 * out.size(1) * _sums(out) <= 48 * 1024
    times = 1 if is_staged else 2
    return [_moves("masked_softmax.cu:forward_kernel", _size(logits, keep), times * _size(out))]


@_of("masked_softmax_backward")
def _masked_softmax_backward(
    out: Tensor, grad_out: Tensor, weights: Tensor, dtype: torch.dtype
) -> list[Launch]:
    return [_moves("masked_softmax.cu:backward_kernel", _size(out, grad_out, weights))]


@_of("adaptive_token_mask")
def _adaptive_token_mask(out: Tensor, attention: Tensor, mass: float) -> list[Launch]:
    return [_moves("adaptive_token_mask.cu:mask_kernel", _size(out, attention))]


# spatial_diffusion: all in float64, whose peak counts. Of the state of 5 planes the forward reads 3 and writes 5; a
# cell's term is a row of the matrix times a vector: 5 products, added up, less the term before.


TERM_OPERATIONS = 10
OUTER_OPERATIONS = 11  # of a term's part of the matrix's gradient


def _terms(out: Tensor, strength: Tensor, iterations: int, alpha: float) -> int:
    """How many, odd and even, where neighbours have nothing in common: such rows take few terms."""
    strength_is = strength.item() if _is_known(strength) else 1.0
    degree = min(2, out.size(1) - 1) + min(2, out.size(2) - 1)
    row_sum = degree * (abs(strength_is - 1) + 1) * math.sqrt(alpha)
    bounds, starts, _ = _ladder(iterations, out.dtype, torch.device("cpu"))
    rung = int((bounds < row_sum).sum().clamp(max=len(bounds) - 1))
    return 2 * int(starts[rung + 1] - starts[rung])


@_of("spatial_diffusion")
def _spatial_diffusion(
    out: Any,
    features: Tensor,
    cam: Tensor,
    strength: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> list[Launch]:
    plane = 8 * cam.numel()
    terms = _terms(out[0], strength, iterations, alpha)
    operations = cam.numel() * terms * (TERM_OPERATIONS + 1)  # and the sum, every other time
    return [
        _moves(
            "feature_tiles.cuh:dots_kernel",
            *(_size(features), 3 * plane),
            float64=6 * features.numel(),
        ),
        Launch(
            "chebyshev_series.cuh:series_kernel",
            {"bytes": 8 * plane + _size(cam, out[0]), "float64": operations},
            blocks=cam.size(0),
        ),
    ]


@_of("spatial_diffusion_backward")
def _spatial_diffusion_backward(
    out: Any,
    grad_out: Tensor,
    features: Tensor,
    strength: Tensor,
    state: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> list[Launch]:
    plane = 8 * grad_out.numel()
    terms = _terms(grad_out, strength, iterations, alpha)
    outer = OUTER_OPERATIONS / (2 if detach_start else 1)
    return [
        *_torch("zeros"),
        Launch(
            "chebyshev_series.cuh:series_backward_kernel",
            {
                "bytes": (5 + 3) * plane + _size(grad_out, out[1]),
                "float64": grad_out.numel() * terms * (2 * TERM_OPERATIONS + 1 + outer),
            },
            blocks=grad_out.size(0),
        ),
        _moves(
            "feature_tiles.cuh:features_gradient_kernel",
            *(_size(features), 3 * plane, _size(out[0])),
            float64=9 * features.numel(),
        ),
        *_torch("sum", "copy_"),
    ]


# Boxes: an (image, cut) pair reads the map's bit planes, 32 bytes for each 32 pixels of a row, and works on its runs in
# shared memory, the more the more there are. Wavefronts a word, of smooth maps of 224 x 224 pixels:


PAIR_WAVEFRONTS = {"largest": 2.4, "most_pixels": 1.6, "iou": 1.8, "count": 1.4, "list": 2.1}
PAIR_PLANES = {"largest": 1, "most_pixels": 1, "iou": 3, "count": 0, "list": 3}  # ints a root
SHARED_BYTES = 227 * 1024  # that a block may have, on an H100; with less there is one launch more
PARTIAL_BYTES = 272  # of `Partial` in cut_contours.cuh


class _Boxes:
    """What the operators on score maps have in common."""

    def __init__(self, score_maps: Tensor, thresholds: Tensor) -> None:
        images, self.height, self.width = score_maps.shape
        count = thresholds.numel()
        self.read_bytes = _size(score_maps, thresholds)
        self.words = self.height * -(-self.width // 32)
        self.planes = 32 * images * self.words
        self.slots = images * min(count, 255)
        self.of_thresholds = 4 * images * count
        self.elements = _elements(score_maps, thresholds)
        self.cuts = sum(map(len, self.elements))

    def read(self) -> list[Launch]:
        written = self.planes + 8 * self.cuts + self.slots + self.of_thresholds
        return [
            *_torch("zeros"),
            _moves("distinct_cuts.cuh:read_kernel", self.read_bytes, written),
        ]

    def pairs(self, answer: str, *moved: float) -> list[Launch]:
        """The launches that answer them all; `moved` is what that takes beside the planes."""
        launches: list[Launch] = []
        rest = self.elements
        for capacity in self.capacities(PAIR_PLANES[answer]):
            left = [of_image[of_image > capacity] for of_image in rest]
            found = sum(map(len, rest)) if capacity > 0 else 0  # they are asked for their runs
            answered = sum(map(len, rest)) - sum(map(len, left))
            share = answered / max(1, self.cuts)
            numbers = self.slots + 4 * found + 16 * answered + share * sum(moved)
            if capacity == math.inf:
                ints = answered * self.of_words(1) + sum(int(image.sum()) for image in rest)
                numbers += 2 * 4 * ints
            images = sum(len(of_image) > 0 for of_image in rest) if capacity > 0 else 0
            work = {"bytes": 32 * images * self.words + numbers}
            asked = 32 * found * self.words + numbers
            if not launches:
                work["shared"] = PAIR_WAVEFRONTS[answer] * self.words * found
            name = "rest" if launches else "pair"
            launches.append(Launch(f"pair_answers.cuh:{name}_kernel", work, asked=asked))
            rest = left
        return launches

    def of_words(self, ints_a_label: float) -> int:
        """Ints that a pair's words take, by `word_ints` in cut_runs.cuh."""
        return 2 * self.words + math.ceil(self.words * ints_a_label)

    def capacities(self, planes: int) -> list[float]:
        """How many elements a pair may have to be answered by each launch: `Call::answer_pairs` in extract_boxes.cu."""
        every = self.height * self.width + 1
        words = self.of_words(0.5)
        most = (SHARED_BYTES - PARTIAL_BYTES) // 4

        def capacity(ints: int, parts: int) -> int:
            ints = min(ints, most, words + -(-every // 2) + planes * every)
            left = max(0, ints - words - planes)
            return min(left * 2 * parts // (parts + 2 * planes), every, 1 << 16)

        fewest = min(every, 8 * self.height)
        few, many = capacity(words + 32 * self.height, 4), capacity(most, 16)
        found: list[float] = [few if few >= fewest else 0]
        if found[0] < every and many > found[0] and many >= fewest:
            found.append(many)
        return found if found[-1] == every else [*found, math.inf]  # in memory that is not shared


def _elements(score_maps: Tensor, thresholds: Tensor) -> list[Tensor]:
    """Of each image's distinct cuts: runs of foreground and background, and the outside.

    Without values to look at, as many cuts as there may be, of few runs.
    """
    images, height, _ = score_maps.shape
    if not (_is_known(score_maps) and score_maps.numel()):
        return [torch.zeros(min(thresholds.numel(), 255))] * images
    elements = []
    for scores in score_maps:
        levels = (255 * scores.double()).long().clamp(0, 255)
        largest = levels.max()
        cuts = (thresholds * largest).long().unique()
        left, right = levels[:, :-1], levels[:, 1:]
        # Two pixels' runs differ by cuts from the lower one's level on, up to below the higher one's.
        lower, higher = (f(left, right).flatten() for f in (torch.minimum, torch.maximum))
        changes = (lower.bincount(minlength=256) - higher.bincount(minlength=256)).cumsum(0)
        elements.append(1 + height + changes[cuts[cuts < largest]])
    return elements


@_of("extract_boxes")
def _extract_boxes(
    out: Tensor,
    score_maps: Tensor,
    thresholds: Tensor,
    check_values: bool = True,
    most_pixels: bool = False,
) -> list[Launch]:
    n = _Boxes(score_maps, thresholds)
    return [
        *n.read(),
        *n.pairs("most_pixels" if most_pixels else "largest"),
        _moves("extract_boxes.cu:boxes_kernel", n.of_thresholds, 16 * n.cuts, _size(out)),
        *_torch(*["item"] * check_values),
    ]


@_of("extract_all_boxes")
def _extract_all_boxes(
    out: Any, score_maps: Tensor, thresholds: Tensor, check_values: bool = True
) -> list[Launch]:
    n = _Boxes(score_maps, thresholds)
    boxes, offsets = out
    # The share of boxes that are copied, of cuts that several thresholds have.
    repeats = max(0.0, 1 - n.cuts / max(1, offsets.numel() - 1))
    return [
        *_torch("zeros"),
        *n.read(),
        *n.pairs("count"),
        _moves("extract_boxes.cu:counts_kernel", n.of_thresholds, 16 * n.cuts, _size(offsets)),
        *_torch(*["item"] * check_values, "cumsum", "item"),
        *n.pairs("list", _size(boxes) * (1 - repeats)),
        _moves(
            "extract_boxes.cu:repeat_kernel",
            *(n.of_thresholds, _size(offsets), 4 * n.cuts, 2 * repeats * _size(boxes)),
        ),
    ]


@_of("best_box_iou")
def _best_box_iou(
    out: Tensor,
    score_maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    all_contours: bool = False,
    check_values: bool = True,
) -> list[Launch]:
    n = _Boxes(score_maps, thresholds)
    gt = 4 * gt_boxes.numel()
    n.read_bytes += gt
    return [
        *_torch(*["to"] * (gt_boxes.dtype != torch.float32)),
        *n.read(),
        *(n.pairs("iou", gt) if all_contours else n.pairs("largest")),
        _moves("extract_boxes.cu:ious_kernel", n.of_thresholds, 16 * n.cuts, gt, _size(out)),
        *_torch(*["item"] * check_values),
    ]


@_of("box_iou")
def _box_iou(out: Tensor, a: Tensor, b: Tensor, inclusive: bool = True) -> list[Launch]:
    boxes = (a.numel() + b.numel()) * out.element_size()
    operations = {_sum_unit(out): 16 * out.numel()}
    return [_moves("box_iou.cu:box_iou_kernel", boxes, _size(out), **operations)]


# slic: bytes a pixel are those of the arrays in csrc/superpixels/slic_work.cuh. Clusters are taken to change until the
# last iteration, and small pieces to be gone after the first round.


CANDIDATES = (
    4  # centres in reach of a pixel: those no further than their spacing in either direction
)
CANDIDATE_OPERATIONS = 24  # a dozen instructions, each of which may be a multiply-add


@_of("slic")
def _slic(
    out: Tensor,
    images: Tensor,
    n_segments: int,
    compactness: float,
    max_num_iter: int,
    enforce_connectivity: bool,
    check_values: bool = True,
    *_: object,
) -> list[Launch]:
    """Of plain sRGB."""
    batch, _, height, width = images.shape
    grid = slic_grid(height, width, n_segments, compactness)
    pixels, centres = out.numel(), batch * grid.rows * grid.columns
    checks = ["aminmax", "stack", "item"] * (check_values and images.is_floating_point())
    sums = 2 * 48 * centres
    tables = 2 * (256 if images.dtype == torch.uint8 else constants["slic_levels"])
    clusters = [
        _moves("slic_clusters.cu:start_kernel", _size(images), tables, 12 * pixels, sums),
        _moves("slic_clusters.cu:centres_kernel", sums, 16 * centres, times=max_num_iter),
        _moves(
            "slic_clusters.cu:assign_kernel",
            *(12 * pixels, 16 * centres, sums),
            times=max_num_iter,
            int32=CANDIDATES * CANDIDATE_OPERATIONS * pixels,
        ),
    ]
    numbering = [
        _moves("slic.cu:count_kernel", 4 * pixels),
        _moves("slic.cu:number_kernel", 4 * pixels),
        _moves("slic.cu:label_kernel", 8 * pixels),
    ]
    start = [*_torch(*checks, "memset"), *clusters]
    if not enforce_connectivity:
        numbers = [_moves(f"slic.cu:{name}_kernel", 8 * centres) for name in ("count", "number")]
        return [*start, *numbers, numbering[2]]
    smallest = out[0].numel() / (2 * centres / batch)
    rounds = max(0, math.ceil(math.log2(smallest))) if smallest > 0 else 0
    pieces = [
        _moves("connected_pieces.cu:start_kernel", 12 * pixels),
        _moves("connected_pieces.cu:unite_tiles_kernel", pixels),
        _moves("connected_pieces.cu:measure_kernel", 28 * pixels),
        *_of_round("choose_kernel", 4 * pixels, rounds),
        *_of_round("unite_pieces_kernel", 4 * pixels, rounds),
        *_of_round("gather_kernel", 4 * pixels, rounds),
    ]
    return [*start, *pieces, *numbering]


def _of_round(kernel: str, moved: float, rounds: int) -> list[Launch]:
    name = f"connected_pieces.cu:{kernel}"
    return [_moves(name, moved), _moves(name, 0, times=rounds - 1)] if rounds else []


# Segments. segment_mean sorts by a byte of the labels a step.


@_of("segment_mean")
def _segment_mean(out: Tensor, values: Tensor, labels: Tensor) -> list[Launch]:
    images, pixels = labels.size(0), labels[0].numel()
    every = images * pixels
    channels = values.numel() // every if every else 0
    groups = images * -(-channels // 4)  # channels are summed side by side
    steps = -(-pixels.bit_length() // 8)
    starts = images * -(-pixels // 2048) * 1024
    return [
        _moves("segment_mean.cu:narrow_kernel", _size(labels), 16 * every),
        _moves("segment_mean.cu:count_kernel", 4 * every, starts, times=steps),
        _moves("segment_mean.cu:start_kernel", 2 * starts, times=steps),
        _moves("segment_mean.cu:move_kernel", 16 * every, starts, times=steps),
        _moves("segment_mean.cu:bound_kernel", 4 * every),
        _moves(
            "segment_mean.cu:mean_kernel",
            *(_size(values, out), 4 * every),
            times=-(-groups // 65535),
        ),
    ]


@_of("segment_mode")
def _segment_mode(out: Tensor, classes: Tensor, labels: Tensor) -> list[Launch]:
    images, pixels = labels.size(0), labels[0].numel()
    slots = images * 2 ** (2 * pixels - 1).bit_length()
    return [
        _moves("segment_mode.cu:clear_kernel", 8 * slots, 12 * images * pixels),
        _moves("segment_mode.cu:count_kernel", _size(classes, labels)),
        _moves("segment_mode.cu:most_kernel", 4 * slots),
        _moves("segment_mode.cu:choose_kernel", 4 * slots),
        _moves("segment_mode.cu:spread_kernel", _size(labels, out)),
    ]


# normalized_cut: a block owns an image, and makes as many products with its graph as the features ask for, in float64,
# in which each bit, or weight, takes a multiply-add's place. Steps are the fewest that drawn scenes took
# (benchmarks/bench_normalized_cut.py); each keeps a row, beside two that are known.


CUT_STEPS = 11  # of each of two runs, a product each


@_of("normalized_cut")
def _normalized_cut(
    out: Any, features: Tensor, threshold: float, eps: float, weighted: bool
) -> list[Launch]:
    images, tokens, channels = features.shape
    number, every = _sums(features), images * tokens
    unit = every * 16 * -(-channels // 16) * number
    graph = every * (tokens * number if weighted else 4 * -(-tokens // 32))
    tiles = -(-tokens // 64)
    pairs = images * tiles * (tiles + 1) // 2
    rows = CUT_STEPS + 2
    # Of a token: those, the product, its degree's root, the parts of its sum and its entry, written and read.
    numbers = 8 * 2 * (rows + 3 + -(-tokens // 256))
    products = 2 * CUT_STEPS * 2 * tokens * every
    projections = 2 * 2 * 4 * every * sum(range(rows))  # from all rows before, twice
    return [
        _moves(
            "normalized_cut.cu:normalize_kernel",
            *(_size(features), unit, every),
            float64=3 * features.numel(),
        ),
        Launch(
            "normalized_cut.cu:similarity_kernel",
            {"bytes": unit + graph, _sum_unit(features): pairs * 64**2 * 2 * channels},
            blocks=pairs,
        ),
        Launch(
            "normalized_cut.cu:second_eigenvector_kernel",
            {"bytes": graph + every * (1 + numbers), "float64": products + projections},
            blocks=images,
        ),
    ]
