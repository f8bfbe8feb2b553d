"""Rows of any transformer's attention, beside all its matrices by its own unfused code."""

import pytest
import torch
from attention.networks import NETWORKS, network
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import wsol_ext
from wsol_ext.attention import AttentionRows

attend = F.scaled_dot_product_attention


def picked(matrix, index):
    return matrix[:, :, 0 if matrix.size(2) == 1 else index]


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_and_their_gradients_are_those_of_the_unfused_network(name):
    model, images = network(name)
    images.requires_grad_()
    with wsol_ext.attention_rows("class", average=False) as rows:
        model(images)
    matrices = NETWORKS[name].matrices(model, images)
    assert len(rows) == len(matrices) >= 2
    for row, matrix in zip(rows, matrices, strict=True):
        expected = picked(matrix, 0)
        assert expected.std() > 1e-3  # constant rows would agree with many others
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)
    own, expected = (
        torch.autograd.grad(sum((each * each.detach().cos()).sum() for each in found), images)[0]
        for found in (rows, [picked(matrix, 0) for matrix in matrices])
    )
    scale = expected.abs().max()
    assert scale > 1e-5
    torch.testing.assert_close(own / scale, expected / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_what_it_computes_without_its_rows(name):
    model, images = network(name)

    def values(result):
        return getattr(result, "last_hidden_state", result)

    with torch.no_grad():
        expected = values(model(images))
        with wsol_ext.attention_rows(layers=[-1]) as rows:
            found = values(model(images))
    # A fast path of torch may differ in the last bits.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert len(rows) == 1


# --- what is asked for


def calls(count=3, tokens=5):
    torch.manual_seed(0)
    return torch.randn(count, 3, 2, 4, tokens, 8, dtype=torch.float64)


def matrix_of(query, key, scale=8**-0.5):
    return (scale * query @ key.mT).softmax(dim=-1)


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize(
    ("queries", "of_matrix"),
    [
        ("class", lambda matrix: matrix[:, :, 0]),
        (2, lambda matrix: matrix[:, :, 2]),
        (-1, lambda matrix: matrix[:, :, 4]),
        ([3, 0], lambda matrix: matrix[:, :, [3, 0]]),
        ("mean", lambda matrix: matrix[:, :, 1:].log().mean(dim=2).softmax(dim=-1)),
    ],
)
def test_queries(queries, of_matrix, recording):
    query, key, value = calls()[0]
    for average in (False, True):
        with (
            torch.set_grad_enabled(recording),
            wsol_ext.attention_rows(queries, average=average, prefix_tokens=1) as rows,
        ):
            attend(query, key, value)
        expected = of_matrix(matrix_of(query, key))
        torch.testing.assert_close(rows[0], expected.mean(dim=1) if average else expected)


@pytest.mark.parametrize(
    "layers", [None, [-1], [0], [1, -1], [-1, 0], [-3, -2], (2, 1, 0), {1}, range(3), []]
)
def test_layers_in_their_order(layers):
    made = calls()
    with torch.no_grad(), wsol_ext.attention_rows(layers=layers) as rows:
        for query, key, value in made:
            attend(query, key, value)
    every = [matrix_of(query, key)[:, :, 0].mean(dim=1) for query, key, _ in made]
    expected = every if layers is None else [every[layer] for layer in layers]
    assert len(rows) == len(expected)
    for row, reference in zip(rows, expected, strict=True):
        torch.testing.assert_close(row, reference)


def test_what_can_be_no_such_layer_any_more_is_forgotten():
    with torch.no_grad(), AttentionRows(layers=[1, -2]) as rows:
        for query, key, value in calls(6):
            attend(query, key, value)
            assert len(rows._made) <= 3
        assert sorted(rows._made) == [1, 4, 5]


@pytest.mark.parametrize("make", [AttentionRows, wsol_ext.attention_rows])
def test_rows_are_read_inside_and_after_and_start_anew_when_entered_again(make):
    first, second = calls(2)
    rows = make()
    with rows:
        attend(*first)
        inside = rows[0]
    assert rows[0] is inside
    with rows:
        attend(*second)
    assert len(rows) == 1
    torch.testing.assert_close(rows[0], matrix_of(*second[:2])[:, :, 0].mean(dim=1))


def test_contexts_within_each_other_each_see_the_calls():
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    tokens = torch.randn(2, 5, 8)
    with wsol_ext.attention_rows(0) as outer, wsol_ext.attention_rows(1) as inner:
        layer(tokens, tokens, tokens, need_weights=False)
    expected = layer(tokens, tokens, tokens)[1]
    torch.testing.assert_close(outer[0], expected[:, 0])
    torch.testing.assert_close(inner[0], expected[:, 1])


# --- what a call says


HIDDEN = torch.tensor(
    [[0, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0] * 5]
).bool()
ADDED = torch.linspace(-2, 2, 25, dtype=torch.float64).reshape(5, 5)


@pytest.mark.parametrize("queries", ["class", "mean", [1, 3]])
@pytest.mark.parametrize(
    ("keywords", "added"),
    [
        ({"attn_mask": ~HIDDEN}, torch.zeros(5, 5).masked_fill(HIDDEN, float("-inf"))),
        ({"attn_mask": ADDED.expand(2, 4, 5, 5)}, ADDED),
        ({"attn_mask": ADDED[:1]}, ADDED[:1].expand(5, 5)),
        ({"is_causal": True}, torch.full((5, 5), float("-inf")).triu(1)),
        ({"scale": 0.7}, torch.zeros(5, 5)),
    ],
)
def test_masks_and_scale_are_those_of_the_call(queries, keywords, added):
    query, key, value = calls()[0]
    logits = keywords.get("scale", 8**-0.5) * query @ key.mT + added
    logits = {
        "class": logits[:, :, :1],
        "mean": logits[:, :, 2:].mean(dim=2, keepdim=True),
    }.get(queries if isinstance(queries, str) else None, logits[:, :, [1, 3]])
    with wsol_ext.attention_rows(queries, average=False, prefix_tokens=2) as rows:
        attend(query, key, value, **keywords)
    torch.testing.assert_close(rows[0].view_as(logits), logits.softmax(dim=-1))


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("average", [False, True])
def test_heads_that_share_their_keys(shared, average):
    query, key, value = calls()[0]
    key, value = key[:, ::shared].clone(), value[:, ::shared].clone()
    mask = ADDED if average else None
    with wsol_ext.attention_rows([1, 2, 0], average=average) as rows:
        attend(query, key, value, enable_gqa=True)
        attend(query, key, value, mask, enable_gqa=True)
    for row, added in zip(rows, (0, 0 if mask is None else mask), strict=True):
        logits = 8**-0.5 * query @ key.repeat_interleave(shared, dim=1).mT + added
        expected = logits.softmax(dim=-1)[:, :, [1, 2, 0]]
        torch.testing.assert_close(row, expected.mean(dim=1) if average else expected)


def test_a_query_that_everything_is_hidden_from_has_a_row_of_zeros_and_no_gradient():
    query, key, value = calls()[0]
    query.requires_grad_()
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[0] = False
    with wsol_ext.attention_rows([0, 1]) as rows:
        attend(query, key, value, mask)
    assert rows[0][:, 0].eq(0).all()
    rows[0].square().sum().backward()
    assert torch.isfinite(query.grad).all()
    assert query.grad[:, :, 1].abs().sum() > 0


def test_one_head_without_its_axis_and_one_query_for_the_batch():
    query, key, value = calls()[0]
    with wsol_ext.attention_rows(1) as rows:
        attend(query[:, 0], key[:, 0], value[:, 0], torch.zeros(2, 5, 5, dtype=torch.float64))
        attend(query[:1], key, value)
    torch.testing.assert_close(rows[0], matrix_of(query[:, 0], key[:, 0])[:, 1])
    torch.testing.assert_close(rows[1], matrix_of(query[:1], key)[:, :, 1].mean(dim=1))


def test_half_precision_gives_float32_that_adds_up_to_one():
    query, key, value = calls()[0].bfloat16()
    with wsol_ext.attention_rows() as rows:
        attend(query, key, value)
        attend(query, key, value, ADDED.bfloat16())
    for row in rows:
        assert row.dtype == torch.float32
        torch.testing.assert_close(row.sum(dim=1), torch.ones(2))


class Largest(TorchDispatchMode):
    """Takes down the largest number of elements that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize("queries", ["class", "mean", [3, 5]])
@pytest.mark.parametrize("causal", [False, True])
def test_no_matrix_is_made(queries, causal):
    query, key, value = torch.randn(3, 1, 2, 500, 4)
    with Largest() as largest, torch.no_grad(), wsol_ext.attention_rows(queries):
        attend(query, key, value, is_causal=causal)
    assert largest.elements < 500 * 500 / 10


# --- torch.nn.MultiheadAttention


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multi_head_attention_whether_or_not_it_gives_its_weights(
    training, need_weights, batch_first
):
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=batch_first).train(training)
    tokens = torch.randn(4, 4, 8)
    padding = torch.tensor([[False] * 4, [False, False, True, True]] * 2)
    with torch.no_grad(), wsol_ext.attention_rows(1, average=False) as rows:
        found, weights = layer(
            tokens, tokens, tokens, key_padding_mask=padding, need_weights=need_weights
        )
    expected, every = layer(
        tokens, tokens, tokens, key_padding_mask=padding, average_attn_weights=False
    )
    torch.testing.assert_close(rows[0], every[:, :, 1])
    torch.testing.assert_close(found, expected)
    assert (weights is None) is not need_weights


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_encoder_layers_leave_their_fast_path_inside_and_take_it_again_after(monkeypatch):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2).eval()
    tokens, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    fast, count = torch._transformer_encoder_layer_fwd, []
    monkeypatch.setattr(
        torch, "_transformer_encoder_layer_fwd", lambda *a: count.append(1) or fast(*a)
    )
    with torch.no_grad():
        expected = encoder(tokens, src_key_padding_mask=padding)
        assert len(count) == 2
        with wsol_ext.attention_rows() as rows:
            found = encoder(tokens, src_key_padding_mask=padding)
        assert len(count) == 2
        encoder(tokens)
        assert len(count) == 4
    assert len(rows) == 2
    assert rows[1][1, 3:].eq(0).all()
    torch.testing.assert_close(found[0], expected[0])
    assert torch.backends.mha.get_fastpath_enabled()


# --- gradient checkpointing, autocast


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("queries", ["class", [0, 3], "mean"])
@pytest.mark.parametrize("name", ["timm dinov3", "timm beit", "transformers ViT"])
def test_gradients_are_the_same_under_gradient_checkpointing_also_of_a_backward_inside(
    name, queries
):
    model, images = network(name)
    images.requires_grad_()
    grads = []
    for checkpointing in (False, True):
        if checkpointing and name.startswith("timm"):
            model.set_grad_checkpointing()
        elif checkpointing:
            model.train().gradient_checkpointing_enable({"use_reentrant": False})
        with wsol_ext.attention_rows(queries) as rows:
            model(images)
            assert len(rows) == 2
            images.grad = None
            torch.autograd.backward(sum(row.square().sum() for row in rows))
            grads.append(images.grad)
            assert len(rows) == 2
    torch.testing.assert_close(*grads)


def test_autocast_rounds_queries_and_keys_as_attention_does():
    query, key, value = calls()[0].float()
    with torch.autocast("cpu", torch.bfloat16), wsol_ext.attention_rows() as rows:
        attend(query, key, value)
    expected = matrix_of(query.bfloat16().float(), key.bfloat16().float())[:, :, 0].mean(dim=1)
    torch.testing.assert_close(rows[0], expected)


# --- what is refused


def test_mistaken_arguments_are_named():
    for keywords, error, words in (
        ({"queries": "clas"}, ValueError, "queries is 'clas', .* did you mean class"),
        ({"queries": []}, TypeError, r"queries is \[\], it should be"),
        ({"queries": True}, TypeError, "queries is True"),
        ({"layers": -1}, TypeError, r"layers is -1, it should be .* such as \[-1\]"),
        ({"layers": ["last"]}, TypeError, r"layers is \['last'\]"),
    ):
        with pytest.raises(error, match=words), wsol_ext.attention_rows(**keywords):
            pass


def test_queries_and_layers_that_are_not_there_are_named():
    query, key, value = calls()[0]
    for keywords, words in (
        ({"queries": 5}, "queries has 5, a call has 5 queries"),
        ({"queries": "mean", "prefix_tokens": 5}, "prefix_tokens is 5, of 5 queries none is left"),
        ({"layers": [0, 3]}, "layers has 3, of 1 calls"),
        ({"layers": [-2]}, "layers has -2, of 1 calls"),
    ):
        with pytest.raises(ValueError, match=words), wsol_ext.attention_rows(**keywords):
            attend(query, key, value)


def test_a_model_that_calls_no_fused_attention_is_answered_with_what_to_do():
    with (
        pytest.raises(RuntimeError, match='no call .*set_attn_implementation\\("sdpa"\\)'),
        wsol_ext.attention_rows(),
    ):
        torch.ones(2).softmax(dim=0)
    query, key, value = calls()[0]
    with pytest.raises(RuntimeError, match="over 6 tokens"), wsol_ext.attention_rows(tokens=6):
        attend(query, key, value)


def test_an_error_of_the_model_itself_comes_through():
    with pytest.raises(KeyError, match="mine"), wsol_ext.attention_rows():
        raise KeyError("mine")


def test_dropout_is_refused_unless_rows_before_it_are_asked_for():
    query, key, value = calls()[0]
    for dropped in (
        lambda: attend(query, key, value, dropout_p=0.5),
        lambda: torch.nn.MultiheadAttention(8, 2, dropout=0.5)(*torch.randn(3, 5, 2, 8)),
    ):
        with (
            pytest.raises(ValueError, match=r"dropout_p is 0.5 in call 0.* model\.eval\(\)"),
            wsol_ext.attention_rows(),
        ):
            dropped()
    with wsol_ext.attention_rows(before_dropout=True) as rows:
        attend(query, key, value, dropout_p=0.5)
    torch.testing.assert_close(rows[0], matrix_of(query, key)[:, :, 0].mean(dim=1))


def test_under_torch_compile_it_says_that_it_does_not_work():
    query, key, value = calls()[0]
    compiled = torch.compile(lambda *given: attend(*given) * 2, backend="eager")
    for _ in range(2):
        with (
            pytest.raises(RuntimeError, match="does not work under torch.compile.*_orig_mod"),
            wsol_ext.attention_rows(),
        ):
            compiled(query, key, value)
        torch.testing.assert_close(compiled(query, key, value), attend(query, key, value) * 2)
    layer = torch.nn.MultiheadAttention(8, 2)
    tokens = torch.randn(5, 2, 8)
    compiled = torch.compile(layer, backend="eager")
    with (
        pytest.raises(RuntimeError, match="does not work under torch.compile"),
        wsol_ext.attention_rows(),
    ):
        compiled(tokens, tokens, tokens)
