"""The operators: each a function on torch tensors, CPU or CUDA, registered as ``torch.ops.wsol.*``."""

from wsol_ext.ops.attention import class_attention

__all__ = ["class_attention"]
