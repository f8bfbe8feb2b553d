import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from wsol_ext.ops.token_mask import masked_softmax, masked_softmax_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Inputs are compared as they are, after rounding to their dtype; gradients are rounded to it at the end.
OUTPUT_TOLERANCE = {dtype: 1e-12 if dtype == torch.float64 else 1e-5 for dtype in DTYPES}
GRADIENT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
SHAPES = ((2, 196), (1, 1), (3, 31), (33, 32), (9, 33), (2, 3, 131), (2, 1, 2, 5), (1, 5000), (17,))


def random_inputs(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator)
    keep = torch.rand(shape, generator=generator) < 0.5
    return logits.to(device, dtype), keep.to(device)


def output_and_gradient(function, logits: Tensor, keep: Tensor, grad_out: Tensor, **arguments):
    logits = logits.detach().requires_grad_()
    out = function(logits, keep, **arguments)
    return out.detach(), *torch.autograd.grad(out, logits, grad_out.to(out.dtype))


def assert_like_definition(logits: Tensor, keep: Tensor, **arguments: float) -> None:
    """Values and gradients are those of the definition in float64."""
    dtype = logits.dtype
    grad_out = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    grad_out = grad_out.to(logits.device)
    out, gradient = output_and_gradient(masked_softmax, logits, keep, grad_out, **arguments)
    expected = output_and_gradient(
        masked_softmax_reference, logits.double(), keep, grad_out, **arguments
    )
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = OUTPUT_TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), expected[0], rtol=tolerance, atol=tolerance)
    assert gradient.dtype == dtype
    tolerance = GRADIENT_TOLERANCE[dtype]
    torch.testing.assert_close(gradient.double(), expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_definition(backend, shape, dtype):
    assert_like_definition(*random_inputs(shape, backend.device, dtype))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5, 1e6])
def test_eps_is_added_to_the_sum_of_the_exponentials(backend, eps):
    """The formula as it is written, where nothing overflows."""
    logits, keep = random_inputs((3, 37), backend.device)
    weights = logits.double().exp() * keep
    expected = weights / (weights.sum(dim=-1, keepdim=True) + eps)
    torch.testing.assert_close(masked_softmax(logits, keep, eps), expected.float())
    assert_like_definition(logits, keep, eps=eps)


def test_everything_kept_without_eps_is_softmax(backend):
    logits, keep = random_inputs((4, 131), backend.device)
    out = masked_softmax(logits, torch.ones_like(keep), eps=0)
    torch.testing.assert_close(out, logits.softmax(dim=-1))


def test_entries_that_are_not_kept_do_not_matter(backend):
    logits, keep = random_inputs((4, 131), backend.device)
    out = masked_softmax(logits, keep)
    assert torch.equal(out[~keep], torch.zeros_like(out[~keep]))
    for other in (1e30, torch.inf, -torch.inf, torch.nan):
        assert torch.equal(masked_softmax(torch.where(keep, logits, other), keep), out)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("count", [1, 5])
def test_nothing_kept_gives_zeros_and_no_gradient(backend, count, eps):
    logits = torch.randn(2, count, device=backend.device, requires_grad=True)
    out = masked_softmax(logits, torch.zeros_like(logits, dtype=torch.bool), eps)
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(logits.grad, torch.zeros_like(out))


def test_one_kept_takes_all_but_the_share_of_eps(backend):
    logits = torch.tensor([[7.0, 0.0, 9.0]], device=backend.device)
    keep = torch.tensor([[False, True, False]], device=backend.device)
    expected = torch.tensor([[0, 1 / 1.25, 0]], device=backend.device)
    torch.testing.assert_close(masked_softmax(logits, keep, eps=0.25), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(backend, dtype):
    logits = [[1e4, 1e4, 0, 2e4], [-1e4, -1e4, -2e4, 0], [1e4, -1e4, 0, 0]]
    logits = torch.tensor(logits, dtype=dtype, device=backend.device)
    keep = torch.tensor([True, True, True, False], device=backend.device)
    out = masked_softmax(logits, keep)
    expected = [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]  # in the second row eps is all
    assert out.tolist() == expected
    assert_like_definition(logits, keep)
    without_eps = masked_softmax(logits[1:2], keep, eps=0)
    assert without_eps.tolist() == [[0.5, 0.5, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_weights_are_as_exact_as_large_ones(backend, dtype):
    """Beside a logit of 0 a weight is the exponential, in all its bits but the last ones."""
    logits = torch.linspace(0, -80, 4001, dtype=dtype, device=backend.device).unsqueeze(1)
    pairs = torch.cat((torch.zeros_like(logits), logits), dim=1)
    weights = masked_softmax(pairs, torch.ones_like(pairs, dtype=torch.bool), eps=0).double()
    error = (weights[:, 1] / weights[:, 0]) / logits[:, 0].double().exp() - 1
    assert error.abs().max() < 4 * torch.finfo(dtype).eps


def test_logits_of_minus_infinity_are_as_not_kept(backend):
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]], device=backend.device)
    out = masked_softmax(logits, torch.ones_like(logits, dtype=torch.bool), eps=1.0)
    assert out.tolist() == [[0.5, 0], [0, 0]]


def test_nan_stays_in_its_row(backend):
    logits, keep = random_inputs((2, 3, 5), backend.device)
    keep[1, 2, 3] = True
    logits[1, 2, 3] = torch.nan
    out = masked_softmax(logits, keep)
    assert out[1, 2][keep[1, 2]].isnan().all()
    assert int(out.isnan().sum()) == int(keep[1, 2].sum())


def test_gradcheck(backend):
    logits, keep = random_inputs((2, 2, 5), backend.device, torch.float64)
    assert gradcheck(masked_softmax, (logits.requires_grad_(), keep))
    assert gradcheck(masked_softmax, (logits, keep, 0.7))
    assert gradcheck(masked_softmax, (logits, keep, 0.0))


def test_gradient_that_is_expanded_or_strided(backend):
    logits, keep = random_inputs((4, 9), backend.device)
    for grad_out in (torch.ones(()).expand(4, 9), torch.randn(9, 4).transpose(0, 1)):
        grad_out = grad_out.to(backend.device)
        actual = output_and_gradient(masked_softmax, logits, keep, grad_out)
        expected = output_and_gradient(masked_softmax_reference, logits, keep, grad_out)
        torch.testing.assert_close(actual, expected)


def test_second_derivative_is_an_error(backend):
    logits, keep = random_inputs((2, 9), backend.device)
    loss = masked_softmax(logits.requires_grad_(), keep).square().sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"masked_softmax.* has no second derivative"):
        gradient.sum().backward()


# --- shapes and memory layouts


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 7), (1, 7), (3, 1), (2, 1, 7), (1, 3, 1)])
def test_keep_broadcasts(backend, shape):
    logits, _ = random_inputs((2, 3, 7), backend.device)
    keep = (torch.arange(42).remainder(3) > 0)[: torch.Size(shape).numel()].view(shape)
    keep = keep.to(backend.device)
    assert_like_definition(logits, keep)
    out = masked_softmax(logits, keep.expand(2, 3, 7).contiguous())
    assert torch.equal(masked_softmax(logits, keep), out)


def test_views(backend):
    logits, keep = random_inputs((6, 40), backend.device)
    for part in ((slice(1, 5), slice(3, 20)), (slice(None), slice(0, 40, 2)), (slice(0, 6, 2),)):
        assert_like_definition(logits[part], keep[part])
    assert_like_definition(logits.t(), keep.t())
    assert_like_definition(logits[:1].expand(4, 40), keep[:4])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (2, 0), (0,)])
def test_empty(backend, shape):
    logits = torch.zeros(shape, device=backend.device, requires_grad=True)
    out = masked_softmax(logits, torch.ones(shape, dtype=torch.bool, device=backend.device))
    assert out.shape == shape
    out.sum().backward()
    assert logits.grad.shape == shape


# --- PyTorch


def test_opcheck(backend):
    logits, keep = random_inputs((2, 7), backend.device)
    operators = torch.ops.wsol
    torch.library.opcheck(operators.masked_softmax.default, (logits.requires_grad_(), keep))
    torch.library.opcheck(operators.masked_softmax.default, (logits, keep[:1], 0.5))
    out = masked_softmax(logits, keep).detach()
    torch.library.opcheck(
        operators.masked_softmax_backward.default, (torch.randn_like(out), out, torch.float32)
    )


def test_compile_in_one_graph(backend):
    logits, keep = random_inputs((2, 9), backend.device)

    def loss(logits: Tensor) -> Tensor:
        return masked_softmax(logits * 2, keep).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits.requires_grad_()
    torch.testing.assert_close(compiled(logits), loss(logits))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(logits), logits), torch.autograd.grad(loss(logits), logits)
    )


def test_autocast_casts_nothing(backend):
    logits, keep = random_inputs((3, 37), backend.device)
    with torch.autocast(backend.device.type, torch.bfloat16):
        out = masked_softmax(logits, keep)
        of_half = masked_softmax(logits.bfloat16(), keep)
    assert torch.equal(out, masked_softmax(logits, keep))
    assert of_half.dtype == torch.float32
    assert torch.equal(of_half, masked_softmax(logits.bfloat16(), keep))


def test_result_does_not_depend_on_the_number_of_threads(backend):
    logits, keep = random_inputs((200, 197), backend.device)
    grad_out = torch.randn(logits.shape, device=backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(output_and_gradient(masked_softmax, logits, keep, grad_out))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- bad inputs


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def mask(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool)


BAD_INPUTS = {
    "logits of integers": (
        TypeError,
        (zeros(2, 5, dtype=torch.int64), mask(2, 5)),
        r"masked_softmax: logits has dtype int64, it should be one of float16, bfloat16, float32",
    ),
    "keep of numbers": (
        TypeError,
        (zeros(2, 5), zeros(2, 5)),
        r"masked_softmax: keep has dtype float32, it should be one of bool",
    ),
    "logits without a dimension": (
        ValueError,
        (zeros(), mask()),
        r"masked_softmax: logits has shape \(\), it should be \(N\)",
    ),
    "keep of another length": (
        ValueError,
        (zeros(2, 5), mask(2, 4)),
        r"masked_softmax: keep has shape \(2, 4\), it should broadcast to logits' \(2, 5\)",
    ),
    "keep that logits would have to broadcast to": (
        ValueError,
        (zeros(1, 5), mask(2, 5)),
        r"masked_softmax: keep has shape \(2, 5\), it should broadcast to logits' \(1, 5\)",
    ),
    "keep of more dimensions": (
        ValueError,
        (zeros(5), mask(1, 5)),
        r"masked_softmax: keep has shape \(1, 5\), it should broadcast to logits' \(5,\)",
    ),
    "negative eps": (
        ValueError,
        (zeros(2, 5), mask(2, 5), -1e-6),
        r"masked_softmax: eps is -1e-06, it should be a finite number of at least 0",
    ),
    "infinite eps": (
        ValueError,
        (zeros(2, 5), mask(2, 5), float("inf")),
        r"masked_softmax: eps is inf, it should be a finite number",
    ),
    "eps that is not a number": (
        ValueError,
        (zeros(2, 5), mask(2, 5), float("nan")),
        r"masked_softmax: eps is nan, it should be a finite number",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, arguments, message = BAD_INPUTS[bad]
    arguments = [a.to(backend.device) if isinstance(a, Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        masked_softmax(*arguments)


def test_tensors_on_two_devices(backend):
    logits, keep = random_inputs((2, 5), backend.device)
    with pytest.raises(ValueError, match=r"masked_softmax: all tensors should be on one device"):
        masked_softmax(logits, keep.to("meta"))


def test_something_that_is_no_tensor(backend):
    with pytest.raises((TypeError, RuntimeError), match=r"logits.*list"):
        masked_softmax([[1.0]], mask(1, 1))
