"""What a transformer attends to: rows of its attention matrices, and maps of them, without the matrices."""

from wsol_ext.attention.maps import attention_map, patch_attention
from wsol_ext.attention.rows import AttentionRows, attention_rows

__all__ = ["AttentionRows", "attention_map", "attention_rows", "patch_attention"]
