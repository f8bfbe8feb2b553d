"""How long calls take on a GPU at the least: an ESTIMATE from what their launches move and compute, measured on none.

A launch takes the longest of: its bytes at the GPU's bandwidth, its operations at their peak, 3 microseconds. Launches
run one after the other, so a call takes their sum. What the model leaves out makes a GPU slower than this: latency,
occupancy, caches that miss, the host. Quicker is only what stays in a cache from one launch to the next.

Bytes are compulsory: of each launch every input and output once, as though caches answered all else. `launches_of`
collects them while a call runs, on tensors of any device: those of this package's kernels by a formula an operator
(`attention`, `boxes`, `components`, `grids`, `superpixels`), which `tests/emulator/test_counts.py` holds to what the
emulator counts; and those of plain PyTorch, where an operator that makes something counts as one launch, the fewest it
may be.
"""

from gpu_estimate import attention, boxes, components, grids, superpixels
from gpu_estimate.formulas import FORMULAS
from gpu_estimate.launches import launches_of
from gpu_estimate.model import GPUS, LAUNCH_SECONDS, Launch, estimate

__all__ = [
    "FORMULAS",
    "GPUS",
    "LAUNCH_SECONDS",
    "Launch",
    "attention",
    "boxes",
    "components",
    "estimate",
    "grids",
    "launches_of",
    "superpixels",
]
