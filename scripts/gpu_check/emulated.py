"""The CUDA kernels on the host, in the GPU's place: from this import on, operators of CPU tensors run on them."""

from emulator import build

from wsol_ext.ops import _backend

_backend.emulated = build.load(build.checked_variant())
