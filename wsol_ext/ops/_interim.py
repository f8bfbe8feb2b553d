"""Plain-PyTorch stand-ins until the kernels land."""

import torch


def adaptive_token_mask(attention, mass):
    a = attention.double()
    a = a / a.sum(1, keepdim=True)
    v, i = a.sort(dim=1, descending=True, stable=True)
    return torch.zeros_like(a, dtype=torch.bool).scatter(1, i, v.cumsum(1) < mass)


def masked_softmax(logits, keep, eps=1e-6):
    x = (logits - logits.amax(-1, keepdim=True)).exp() * keep
    return x / (x.sum(-1, keepdim=True) + eps)


def masked_reattention(query, key, value, keep, scale=None, eps=1e-6):
    scale = query.size(-1) ** -0.5 if scale is None else scale
    s = scale * query @ key.transpose(-2, -1)
    n = s.size(-1)
    k = keep[:, None, None, :] | torch.eye(n, dtype=torch.bool, device=s.device)
    x = (s - s.amax(-1, keepdim=True)).exp() * k
    return (x + eps / n) / (x.sum(-1, keepdim=True) + eps) @ value


def spatial_gate(query, key, scale=None):
    scale = query.size(-1) ** -0.5 if scale is None else scale
    return (scale * query.unsqueeze(2) @ key.transpose(-2, -1))[:, :, 0].mean(1).sigmoid()
