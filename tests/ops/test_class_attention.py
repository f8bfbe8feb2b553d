import torch

from wsol_ext.ops.attention import class_attention, class_attention_reference


def test_smoke(backend):
    q, k = (
        torch.randn(2, 3, 1, 64, device=backend.device),
        torch.randn(2, 3, 197, 64, device=backend.device),
    )
    torch.testing.assert_close(class_attention(q, k), class_attention_reference(q, k))
