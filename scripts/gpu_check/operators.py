"""bench: every operator beside its rivals, kernels and whole calls, at the sizes that a GPU is used for.

A row measures the operator and one rival right after each other. Ceilings come first, what has to be compiled last.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bench_class_attention
import bench_components
import bench_masked_reattention
import bench_normalized_cut
import bench_segments
import bench_spatial_gate
import bench_token_mask
import numpy as np
import torch
import torchvision
from ops.cases.superpixels import scenes
from oracles import score_maps
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_check.timing import measure
from gpu_check.worker import Item
from wsol_ext import ops
from wsol_ext.ops.boxes import box_iou_reference
from wsol_ext.ops.diffusion import spatial_diffusion_reference
from wsol_ext.ops.reattention import masked_reattention_reference

Inputs = tuple[Any, ...]
Way = Callable[..., Any]
MOST_SETS = 16  # of inputs
COMPILED_LIMIT_S = 150


@dataclass(frozen=True)
class Rival:
    """Another way to the same, or what one would take instead; `prepare`, untimed, makes its inputs."""

    way: Way
    prepare: Callable[..., Inputs] = lambda *inputs: inputs
    is_compiled: bool = False
    is_on_cpu: bool = False


@dataclass(frozen=True)
class Case:
    """An operator at one size.

    Attributes:
        name: with the size and dtype.
        make: inputs on the device, others at each call.
        ours: the operator.
        rivals: by name.
        gradients: how many of the inputs, the first ones, have a gradient; 0 for none.
        is_main: whether it comes before all that is not.
    """

    name: str
    make: Callable[[], Inputs]
    ours: Way
    rivals: dict[str, Rival] = field(default_factory=dict)
    gradients: int = 0
    is_main: bool = False


def items(device: str, small: bool) -> dict[str, Item]:
    on = torch.device(device)
    found = {f"bench/ceiling, {n}": Item(partial(w, on, small)) for n, w in CEILINGS.items()}
    compiled = {}
    for case in sorted(cases(on, small), key=lambda case: not case.is_main):
        for direction in ("forward", *(["forward + backward"] if case.gradients else [])):
            for name, rival in (case.rivals or {"none": None}).items():
                work = partial(compare, case, rival, direction != "forward", on)
                row = {"case": case.name, "direction": direction, "rival": name}
                item = f"bench/{case.name}, {direction}; {name}"
                if rival is not None and rival.is_compiled:
                    compiled[item] = Item(partial(labelled, row, work), COMPILED_LIMIT_S)
                else:
                    found[item] = Item(partial(labelled, row, work))
    return found | compiled


def labelled(row: dict[str, str], work: Callable[[], dict]) -> dict[str, Any]:
    return {"row": row, **work()}


# --- one row


def compare(case: Case, rival: Rival | None, backward: bool, device: torch.device) -> dict:
    """Both timings; where only the rival cannot do it, the operator's."""
    if rival is not None and rival.is_compiled:
        torch._dynamo.reset()  # else it would run uncompiled, without a word, after a number of sizes
    torch.manual_seed(0)
    first = case.make()
    sets = [first, *(case.make() for _ in range(number_of_sets(first, device) - 1))]
    ours = [work_of(case.ours, inputs, case.gradients, backward) for inputs in sets]
    outputs = as_tuple(case.ours(*first))
    for output in outputs:
        if output.is_floating_point() and not output.isfinite().all():
            raise ValueError(f"{case.name}: the output has values that are infinite or NaN")
    found: dict[str, Any] = {"sets": len(sets)}
    if not backward:
        found["least_bytes"] = size_of(first) + size_of(outputs)
    theirs, said = [], ""
    if rival is not None:
        try:
            prepared = [rival.prepare(*inputs) for inputs in sets]
            found["difference"] = difference(outputs, as_tuple(rival.way(*prepared[0])))
            theirs = [work_of(rival.way, inputs, case.gradients, backward) for inputs in prepared]
        except Exception as error:  # such as a backend that takes no mask
            said = f"{type(error).__name__}: {error}"[:500]
    found["ours"] = measure(ours, device)
    if theirs:
        try:
            found["rival"] = measure(theirs, device, rival.is_on_cpu)
        except Exception as error:  # such as too little memory
            said = f"{type(error).__name__}: {error}"[:500]
    return {**found, "outcome": "unavailable", "message": said} if said else found


def work_of(way: Way, inputs: Inputs, gradients: int, backward: bool) -> Callable[[], object]:
    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return way(*inputs)

        return forward
    of = tuple(x.detach().requires_grad_() for x in inputs[:gradients])
    upstream = torch.randn_like(way(*inputs))
    return lambda: torch.autograd.grad(way(*of, *inputs[gradients:]), of, upstream)


def number_of_sets(inputs: Inputs, device: torch.device) -> int:
    """So many that together they are twice the cache, or as many as there may be."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MOST_SETS, 1 + math.ceil(2 * cache / max(1, size_of(inputs))))


def size_of(tensors: Sequence[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def difference(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> float | None:
    """Of the first outputs: relative to theirs in norm, or the share of elements; None where shapes differ."""
    a, b = ours[0], theirs[0]
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return None
    b = b.to(a.device)
    if not a.is_floating_point():
        return float((a != b).double().mean()) if a.numel() else 0.0
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-300))


# --- ceilings


def copy_ceiling(device: torch.device, small: bool) -> dict[str, Any]:
    source = torch.randn(2**10 if small else 2**28, device=device)
    target = torch.empty_like(source)
    found = measure([lambda: target.copy_(source)], device)
    return {"timing": found, "bytes": 2 * size_of([source])}


def product_ceiling(dtype: torch.dtype, device: torch.device, small: bool) -> dict[str, Any]:
    side = 16 if small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return {"timing": measure([lambda: a @ b], device), "operations": 2 * side**3}


def launch_floor(device: torch.device, small: bool) -> dict[str, Any]:
    """What a call takes that does next to nothing."""
    one = torch.ones(1, device=device)
    return {"timing": measure([lambda: one.add_(1)], device)}


CEILINGS: dict[str, Callable[[torch.device, bool], dict[str, Any]]] = {
    "copy": copy_ceiling,
    "bfloat16 matrix product": partial(product_ceiling, torch.bfloat16),
    "float32 matrix product": partial(product_ceiling, torch.float32),
    "one addition": launch_floor,
}


# --- operators


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    attention = (attention_cases, reattention_cases, token_cases, diffusion_cases)
    for family in (*attention, segment_cases, box_cases, iou_cases, component_cases, cut_cases):
        yield from family(device, small)


def compiled(way: Way, small: bool) -> Rival:
    """Through torch.compile; where this only has to run, without its code generator, which takes seconds."""
    return Rival(torch.compile(way, backend="eager" if small else "inductor"), is_compiled=True)


def on_the_cpu(way: Way, device: torch.device) -> dict[str, Rival]:
    """Our own kernels for the CPU: with inputs that are there, and with what comes from and goes to the GPU."""

    def there_and_back(*given: Any) -> Any:
        outputs = way(*_to_cpu(*given))
        if isinstance(outputs, Tensor):
            return outputs.to(device)
        return tuple(output.to(device) for output in outputs)

    return {
        "our CPU kernel, all cores": Rival(way, _to_cpu, is_on_cpu=True),
        "our CPU kernel, all cores, copies included": Rival(there_and_back, is_on_cpu=True),
    }


def _to_cpu(*inputs: Any) -> tuple[Any, ...]:
    return tuple(x.cpu() if isinstance(x, Tensor) else x for x in inputs)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


HEADS, WIDTH = 6, 64
TYPES = (torch.bfloat16, torch.float32)


def fused_qkv(
    batch: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Query, key and value where they lie in a block: views of one tensor."""
    qkv = torch.randn(batch, tokens, 3, HEADS, WIDTH, device=device).to(dtype)
    return tuple(qkv.permute(2, 0, 3, 1, 4))


def attention_cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Of one token's query, as in a block: views of one tensor."""
    operators = (
        (ops.class_attention, slice(0, 1), bench_class_attention.plain_row, whole_attention),
        (ops.spatial_gate, -1, bench_spatial_gate.plain_row, whole_gate),
    )
    sizes = [(1, 7)] if small else [(128, 197), (128, 1025), (8, 197), (1, 197)]
    for (batch, tokens), dtype in itertools.product(sizes, TYPES):
        for operator, token, plain, whole in operators:
            is_main = (batch, tokens) == sizes[0]

            def make(batch=batch, tokens=tokens, dtype=dtype, token=token) -> Inputs:
                query, key, _ = fused_qkv(batch, tokens, dtype, device)
                return query[:, :, token], key

            def with_all_queries(row: Tensor, key: Tensor, token=token) -> Inputs:
                query = torch.randn_like(key)
                query[:, :, token] = row
                return query, key

            rivals = {
                "row in plain PyTorch": Rival(plain),
                "whole matrix": Rival(whole, with_all_queries),
            }
            if operator is ops.class_attention:
                rivals["q @ k^T alone"] = Rival(logits_alone)
            if is_main:
                rivals["row, compiled"] = compiled(plain, small)
            yield Case(
                f"{operator.__name__}, {batch} x {HEADS} heads x {tokens} x {WIDTH}, {short(dtype)}",
                make,
                operator,
                rivals,
                gradients=2,
                is_main=is_main,
            )


def whole_attention(query: Tensor, key: Tensor) -> Tensor:
    logits = query @ key.transpose(-2, -1) * WIDTH**-0.5
    return logits.softmax(dim=-1).mean(dim=1)[:, :1]


def whole_gate(query: Tensor, key: Tensor) -> Tensor:
    return bench_spatial_gate.published_gate(query, key)


def logits_alone(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-2, -1)


# --- masked_reattention


def reattention_cases(device: torch.device, small: bool) -> Iterator[Case]:
    """The same number of tokens is kept in each image, so that rivals may gather them."""
    sizes = [(1, 6)] if small else [(128, 197), (32, 1025), (8, 197), (1, 197)]
    shares = {sizes[0]: (0.5, 0.2, 0.9)}
    for batch, tokens in sizes:
        for share in shares.get((batch, tokens), (0.5,))[: 1 if small else None]:
            for dtype in TYPES:
                kept = max(1, round(share * tokens))
                is_main = (batch, tokens, share) == (*sizes[0], 0.5)

                def make(batch=batch, tokens=tokens, kept=kept, dtype=dtype) -> Inputs:
                    rows = fused_qkv(batch, tokens, dtype, device)
                    keep = torch.rand(batch, tokens, device=device).argsort(dim=1) < kept
                    return *rows, keep

                yield Case(
                    f"masked_reattention, {batch} x {HEADS} heads x {tokens} x {WIDTH}, "
                    f"{share:.0%} kept, {short(dtype)}",
                    make,
                    ops.masked_reattention,
                    reattention_rivals(kept, dtype, small, is_main),
                    gradients=3,
                    is_main=is_main,
                )


def reattention_rivals(
    kept: int, dtype: torch.dtype, small: bool, is_main: bool
) -> dict[str, Rival]:
    fused, few = bench_masked_reattention.fused, partial(gathered, kept)
    rivals = {"published": Rival(bench_masked_reattention.published)}
    for name in BACKENDS if is_main else ("cudnn", "efficient"):
        rivals[f"SDPA, {name}, boolean mask"] = Rival(in_backend(BACKENDS[name], fused))
    for name in ("flash", "cudnn") if dtype != torch.float32 else ("efficient",):
        rivals[f"SDPA, {name}, kept keys gathered"] = Rival(in_backend(BACKENDS[name], few))
    if dtype != torch.float32:
        rivals["varlen_attn, kept keys gathered"] = Rival(partial(varlen, kept))
    if is_main:
        rivals["FlexAttention, mask made"] = flexible(small, mask_is_made=True)
        rivals["FlexAttention, mask given"] = flexible(small, mask_is_made=False)
        rivals["published, compiled"] = compiled(masked_reattention_reference, small)
    return rivals


BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def in_backend(backend: SDPBackend, way: Way) -> Way:
    def run(*inputs: Any) -> Tensor:
        with sdpa_kernel(backend):
            return way(*inputs)

    return run


def kept_rows(kept: int, keep: Tensor, *rows: Tensor) -> list[Tensor]:
    """(B, H, kept, D) of each of `rows`; the token's own, where it is not kept, is left out."""
    order = keep.int().argsort(dim=1, descending=True)[:, None, :kept, None]
    return [r.gather(2, order.expand(-1, r.size(1), -1, r.size(3))) for r in rows]


def gathered(kept: int, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, *kept_rows(kept, keep, key, value))


def varlen(kept: int, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, tokens, width = query.shape
    starts = torch.arange(batch + 1, device=query.device, dtype=torch.int32)
    rows = [query, *kept_rows(kept, keep, key, value)]
    packed = [r.transpose(1, 2).reshape(-1, heads, width) for r in rows]
    out = varlen_attn(*packed, starts * tokens, starts * kept, tokens, kept)
    return out.view(batch, tokens, heads, width).transpose(1, 2)


def flexible(small: bool, mask_is_made: bool) -> Rival:
    """FlexAttention with the mask as a function; the block mask is made in each call, or given."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend, make_mask = (
        function if small else torch.compile(function)
        for function in (flex_attention, create_block_mask)
    )

    def mask_of(keep: Tensor) -> Any:
        def is_attended(image, _head, row, column):
            return keep[image, column] | (row == column)

        return make_mask(is_attended, len(keep), None, *[keep.size(1)] * 2, device=keep.device)

    if mask_is_made:
        return Rival(
            lambda q, k, v, keep: attend(q, k, v, block_mask=mask_of(keep)), is_compiled=True
        )
    return Rival(
        lambda q, k, v, mask: attend(q, k, v, block_mask=mask),
        lambda q, k, v, keep: (q, k, v, mask_of(keep)),
        is_compiled=True,
    )


# --- token masks


def token_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(2, 9)] if small else [(128, 196), (128, 1024), (8, 196)]
    mass = bench_token_mask.MASS
    for images, tokens in sizes:
        is_main = (images, tokens) == sizes[0]

        def rows(images=images, tokens=tokens) -> Inputs:
            return (torch.randn(images, tokens, device=device).softmax(dim=1),)

        rivals = {"sorted": Rival(bench_token_mask.sorted_mask)}
        if is_main:
            rivals["sorted, compiled"] = compiled(bench_token_mask.sorted_mask, small)
        yield Case(
            f"adaptive_token_mask, {images} x {tokens}, float32",
            rows,
            lambda attention: ops.adaptive_token_mask(attention, mass),
            rivals,
            is_main=is_main,
        )
        for dtype in TYPES:

            def logits(images=images, tokens=tokens, dtype=dtype) -> Inputs:
                drawn = torch.randn(images, tokens, device=device)
                return drawn.to(dtype), torch.rand_like(drawn) < 0.5

            rivals = {"written out": Rival(bench_token_mask.written_out_softmax)}
            if is_main:
                rivals["written out, compiled"] = compiled(
                    bench_token_mask.written_out_softmax, small
                )
            yield Case(
                f"masked_softmax, {images} x {tokens}, {short(dtype)}",
                logits,
                ops.masked_softmax,
                rivals,
                gradients=1,
                is_main=is_main,
            )


# --- spatial_diffusion


def diffusion_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(1, 3)] if small else [(128, 14), (32, 28), (32, 37), (8, 14)]
    channels = 4 if small else 200
    for images, side in sizes:

        def make(images=images, side=side) -> Inputs:
            tokens = torch.randn(images, side * side, channels, device=device)
            features = tokens.transpose(1, 2).unflatten(2, (side, side))
            return (
                features,
                torch.rand(images, side, side, device=device),
                torch.ones(1, device=device),
            )

        rivals = {"Newton-Schulz": Rival(spatial_diffusion_reference)}
        is_main = (images, side) == sizes[0]
        if is_main:
            rivals["Newton-Schulz, compiled"] = compiled(spatial_diffusion_reference, small)
        yield Case(
            f"spatial_diffusion, {images} x {channels} x {side} x {side}, 16 iterations, float32",
            make,
            ops.spatial_diffusion,
            rivals,
            gradients=3,
            is_main=is_main,
        )


# --- superpixels


def segment_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(1, 12, 4)] if small else [(128, 224, 200), (16, 512, 2000), (1, 224, 200)]
    for images, side, segments in sizes:
        is_main = (images, side, segments) == sizes[0]

        def pictures(images=images, side=side) -> Inputs:
            drawn = scenes(min(images, 8), side, side)
            return (drawn.repeat(math.ceil(images / len(drawn)), 1, 1, 1)[:images].to(device),)

        def superpixels(batch: Tensor, segments=segments) -> Tensor:
            return ops.slic(batch, segments)

        yield Case(
            f"slic, {images} x {side} x {side}, {segments} segments, uint8",
            pictures,
            superpixels,
            on_the_cpu(superpixels, device),
            is_main=is_main,
        )

        def values(images=images, side=side, segments=segments) -> Inputs:
            labels = bench_segments.superpixels(images, side, segments, device)
            return torch.rand(images, 3, side, side, device=device), labels

        yield Case(
            f"segment_mean, {images} x 3 x {side} x {side}, {segments} segments, float32",
            values,
            ops.segment_mean,
            {
                "scatter_add": Rival(bench_segments.scattered_mean),
                "index_add": Rival(bench_segments.indexed_mean),
                **on_the_cpu(ops.segment_mean, device),
            },
            gradients=1,
            is_main=is_main,
        )

        def classes(images=images, side=side, segments=segments) -> Inputs:
            labels = bench_segments.superpixels(images, side, segments, device)
            return bench_segments.classes_of(labels), labels

        yield Case(
            f"segment_mode, {images} x {side} x {side}, {segments} segments, int32",
            classes,
            ops.segment_mode,
            {
                "bincount": Rival(bench_segments.counted_mode),
                **on_the_cpu(ops.segment_mode, device),
            },
            is_main=is_main,
        )


# --- boxes


def box_cases(device: torch.device, small: bool) -> Iterator[Case]:
    side = 16 if small else 224

    def maps(images: int) -> Tensor:
        """Few drawn ones, and others by turning them over."""
        rng = np.random.default_rng(0)
        drawn = [score_maps.score_map("smooth", rng, side, side) for _ in range(min(images, 16))]
        few = torch.from_numpy(np.stack(drawn)).float()
        turned = [few.rot90(turn % 4, (1, 2)) for turn in range(math.ceil(images / len(few)))]
        return torch.cat(turned)[:images].to(device)

    def even(count: int) -> Tensor:
        cuts = torch.arange(count, dtype=torch.float64, device=device) / count
        return cuts if count > 1 else cuts + 0.2

    ways = (("largest", (1, 100, 1000)), ("most_pixels", (1, 100)), ("all", (1, 100)))
    for images in (2,) if small else (128, 8):
        for contours, counts in ways:
            for count in counts[: 1 if small else None]:
                if images * count > 32_000:
                    continue

                def make(images=images, count=count) -> Inputs:
                    return maps(images), even(count)

                def extract(scores: Tensor, cuts: Tensor, contours=contours) -> Any:
                    return ops.extract_boxes(scores, cuts, contours)

                yield Case(
                    f"extract_boxes, {contours}, {images} x {side} x {side}, {count} thresholds",
                    make,
                    extract,
                    on_the_cpu(extract, device),
                    is_main=images != 8,
                )
    truth = torch.tensor([[side // 8, side // 6, side - 3, side - 2]])
    for images, count in [(2, 5)] if small else [(128, 100), (32, 1000)]:
        for contours in ("largest", "all"):

            def make(images=images, count=count) -> Inputs:
                boxes = truth.expand(images, 1, 4).contiguous().to(device)
                return maps(images), even(count), boxes

            def best(
                scores: Tensor, cuts: Tensor, boxes: Tensor, contours: str = contours
            ) -> Tensor:
                return ops.best_box_iou(scores, cuts, boxes, contours)

            yield Case(
                f"best_box_iou, {contours}, {images} x {side} x {side}, {count} thresholds",
                make,
                best,
                on_the_cpu(best, device),
                is_main=True,
            )


def iou_cases(device: torch.device, small: bool) -> Iterator[Case]:
    def boxes(*shape: int) -> Tensor:
        return 100 * torch.rand(*shape, 4, device=device).cumsum(dim=-1)

    exclusive = partial(ops.box_iou, inclusive=False)
    for count in (5,) if small else (100, 1000, 8000):
        rivals = {
            "torchvision": Rival(torchvision.ops.box_iou),
            **on_the_cpu(exclusive, device),
        }
        yield Case(
            f"box_iou, {count} x {count} boxes, float32",
            lambda count=count: (boxes(count), boxes(count)),
            exclusive,
            rivals,
            is_main=count == 1000,
        )
    batch, count = (2, 5) if small else (16, 1000)
    yield Case(
        f"box_iou, {batch} x {count} x {count} boxes, float32",
        lambda: (boxes(batch, count), boxes(batch, count)),
        ops.box_iou,
        {
            "plain PyTorch": Rival(box_iou_reference),
            "plain PyTorch, compiled": compiled(box_iou_reference, small),
        },
    )


# --- components


def component_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(2, 40, 40)] if small else [(64, 224, 224), (1, 1080, 1920)]
    kinds = ("smooth", "noise", "sparse")
    for (images, height, width), kind in itertools.product(sizes, kinds):

        def make(images=images, height=height, width=width, kind=kind) -> Inputs:
            masks = bench_components.drawn_masks(kind, images, height, width).to(device)
            return masks, torch.rand(masks.shape, device=device)

        def ours(masks: Tensor, values: Tensor) -> Any:
            return ops.label_components(masks, 8, values)

        yield Case(
            f"label_components, {kind}, {images} x {height} x {width}, sums in float32",
            make,
            ours,
            on_the_cpu(ours, device),
            is_main=kind == "smooth",
        )


# --- graphs


def cut_cases(device: torch.device, small: bool) -> Iterator[Case]:
    for images, side in [(1, 4)] if small else [(64, 28), (1, 37), (1, 60)]:

        def make(images=images, side=side) -> Inputs:
            return (bench_normalized_cut.scene(side, device, images),)

        def ours(features: Tensor) -> Any:
            return ops.normalized_cut(features, bench_normalized_cut.THRESHOLD)

        rivals = {"torch.linalg.eigh": Rival(eigenvectors)} | on_the_cpu(ours, device)
        yield Case(f"normalized_cut, {images} x {side * side} tokens, float32", make, ours, rivals)


def eigenvectors(features: Tensor) -> Tensor:
    """(B, N), positive where they are largest in magnitude."""
    vectors = torch.stack([bench_normalized_cut.torch_eigh(image) for image in features])
    largest = vectors.abs().argmax(dim=1, keepdim=True)
    return vectors * vectors.gather(1, largest).sign()
