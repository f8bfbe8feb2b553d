"""The model: what makers publish of cards, and how long a launch takes at the least."""

import math
from dataclasses import dataclass

# From the start of one short launch to that of the next: an assumption, of no data sheet.
LAUNCH_SECONDS = 3e-6


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
