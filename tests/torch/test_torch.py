"""The losses in torch: gradients, batches, types, layouts, equality with JAX, and wrong input."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests.selection import mostly_slow
from tests.torch.support import SIGNAL, spec_of

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'nextstat-jax[torch]'")
bridge = pytest.importorskip("nextstat_jax.torch")

# torch's forward mode scripts a few decompositions on first use, with a function that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec_of())


@pytest.fixture(scope="module")
def session(model):
    return bridge.create_profiled_session(model, "signal")


def tensor(values=SIGNAL, **options):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True, **options)


MU_NAMES = ("qmu", "qmu_tilde", "qmu_plain", "zmu", "zmu_tilde", "zmu_plain")

LOSSES = {
    "nll": (bridge.nll_loss, nextstat.nll_loss),
    "q0": (bridge.profiled_q0_loss, nextstat.profiled_q0_loss),
    "z0": (bridge.profiled_z0_loss, nextstat.profiled_z0_loss),
    "qmu": (lambda h, s: bridge.profiled_qmu_loss(h, s, 3.0), lambda h, s: nextstat.profiled_qmu_loss(h, s, 3.0)),
    "zmu": (lambda h, s: bridge.profiled_zmu_loss(h, s, 3.0), lambda h, s: nextstat.profiled_zmu_loss(h, s, 3.0)),
}


@pytest.mark.parametrize("name", mostly_slow(LOSSES, "nll"))
def test_losses_equal_those_of_jax(session, name):
    ours, theirs = LOSSES[name]
    h = tensor()
    value = ours(h, session)
    value.backward()
    expected, slope = jax.value_and_grad(theirs)(jnp.asarray(SIGNAL), session)
    assert value.dtype == torch.float64
    assert value.shape == ()
    assert value.item() == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(h.grad.numpy(), slope, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", mostly_slow(LOSSES, "nll"))
def test_gradcheck(session, name):
    ours = LOSSES[name][0]
    assert torch.autograd.gradcheck(lambda h: ours(h, session), tensor(), eps=1e-5, atol=1e-6)
    batch = tensor([SIGNAL, (0.7, 4.0, 2.0)])
    assert torch.autograd.gradcheck(lambda h: ours(h, session), batch, eps=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradcheck_where_there_is_no_excess():
    low = nextstat.from_pyhf(spec_of(observed=(48.0, 15.0, 10.0)))
    session = bridge.create_profiled_session(low, "signal")
    assert bridge.profiled_q0_loss(tensor(), session).item() == 0.0
    losses = (bridge.profiled_q0_loss, bridge.profiled_z0_loss, bridge.profiled_qmu_loss)
    for loss in (*losses, lambda h, s: bridge.profiled_z0_loss(h, s, eps=0.0)):
        assert torch.autograd.gradcheck(lambda h, loss=loss: loss(h, session), tensor(), eps=1e-5, atol=1e-6)
    loss = bridge.SignificanceLoss(low, "signal")
    assert torch.autograd.gradcheck(loss, tensor(), eps=1e-5, atol=1e-6)


# They take long to compile, and are tested beside the losses of JAX.
@pytest.mark.slow
@pytest.mark.parametrize("objective", ["z0", "limit", "cls", "uncertainty"])
def test_objectives(model, objective):
    loss = bridge.SignificanceLoss(model, "signal", data="asimov", objective=objective)
    assert torch.autograd.gradcheck(loss, tensor(), eps=1e-4, atol=1e-6, rtol=1e-4)
    expected = nextstat.SignificanceLoss(model, "signal", data="asimov", objective=objective)(jnp.asarray(SIGNAL))
    assert loss(tensor()).item() == pytest.approx(float(expected), rel=1e-10)
    assert loss.metric(tensor()).item() == pytest.approx(abs(loss(tensor()).item()))


def test_a_whole_analysis_as_tensors(model):
    loss = bridge.SignificanceLoss(model, "signal", data="asimov")

    def of(signal, background, up, down, stat):
        return loss(
            {
                "signal": signal,
                ("bkg", "SR"): background,
                ("bkg", "jes", "hi"): up,
                ("bkg", "jes", "lo"): down,
                ("signal", "stat"): stat,
                ("bkg", "stat"): np.array([1.1, 0.9]),
            }
        )

    inputs = (tensor(), tensor([20.0, 15.0]), tensor([22.5, 16.5]), tensor([18.0, 14.0]), tensor([0.3, 0.5]))
    assert torch.autograd.gradcheck(of, inputs, eps=1e-5, atol=1e-6)
    # Gradients of any subset.
    partial = of(inputs[0].detach(), inputs[1], *(x.detach() for x in inputs[2:]))
    partial.backward()
    assert inputs[1].grad is not None
    assert inputs[0].grad is None


def test_q0_and_its_gradient_equal_refits_of_edited_workspaces_in_pyhf(session):
    import pyhf

    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-14))

    def refit(histogram):
        oracle = pyhf.Workspace(spec_of(histogram))
        pdf = oracle.model()
        data = oracle.data(pdf)
        config = pdf.config
        args = (config.suggested_init(), config.suggested_bounds(), config.suggested_fixed())
        return float(pyhf.infer.test_statistics.q0(0.0, data, pdf, *args))

    h = tensor()
    q0 = bridge.profiled_q0_loss(h, session)
    q0.backward()
    assert q0.item() == pytest.approx(refit(SIGNAL), abs=1e-6)
    for i, e in enumerate(np.eye(3)):
        ends = [refit(np.array(SIGNAL) + 0.1 * k * e) for k in (-2, -1, 1, 2)]
        numeric = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / 1.2
        assert h.grad[i].item() == pytest.approx(numeric, abs=2e-6)


@pytest.mark.slow
def test_batches_are_one_call(session):
    histograms = torch.tensor([SIGNAL, (0.7, 4.0, 2.0), (2.0, 1.0, 1.0)], dtype=torch.float64, requires_grad=True)
    singles = torch.stack([bridge.profiled_q0_loss(h, session) for h in histograms])
    batch = bridge.batch_profiled_q0_loss(histograms, session)
    torch.testing.assert_close(batch, singles, rtol=1e-9, atol=1e-10)
    batch.sum().backward()
    torch.testing.assert_close(histograms.grad, bridge.signal_jacobian(histograms, session), rtol=1e-9, atol=1e-10)
    listed = bridge.batch_profiled_q0_loss(list(histograms.detach()), session)
    torch.testing.assert_close(listed, batch.detach(), rtol=1e-12, atol=0)
    nested = torch.func.vmap(lambda h: bridge.profiled_q0_loss(h, session))(histograms.detach())
    torch.testing.assert_close(nested, batch.detach(), rtol=1e-9, atol=1e-10)
    mus = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    both = bridge.batch_profiled_qmu_loss(histograms.detach(), session, mus)
    each = [bridge.profiled_qmu_loss(h, session, m).item() for h, m in zip(histograms.detach(), mus, strict=True)]
    np.testing.assert_allclose(both, each, rtol=1e-8, atol=1e-10)
    one = bridge.batch_profiled_qmu_loss(tensor(), session, mus)
    np.testing.assert_allclose(
        one.detach(), [bridge.profiled_qmu_loss(tensor(), session, m).item() for m in mus], rtol=1e-8, atol=1e-10
    )
    plain = bridge.batch_profiled_qmu_plain_loss(tensor(), session, mus)
    np.testing.assert_allclose(
        plain.detach(), [bridge.profiled_qmu_plain_loss(tensor(), session, m).item() for m in mus], rtol=1e-8
    )
    tilde = bridge.batch_profiled_qmu_tilde_loss(tensor(), session, mus)
    torch.testing.assert_close(tilde, one, rtol=0, atol=0)
    # A histogram shared by a batch collects the gradients of all its elements.
    shared = tensor()
    bridge.batch_profiled_qmu_loss(shared, session, mus).sum().backward()
    slopes = []
    for m in mus:
        alone = tensor()
        bridge.profiled_qmu_loss(alone, session, m).backward()
        slopes.append(alone.grad)
    torch.testing.assert_close(shared.grad, sum(slopes), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_plain_and_tilde_statistics_have_their_own_names():
    low = nextstat.from_pyhf(spec_of(observed=(48.0, 15.0, 10.0))).replace_bounds("mu", lower=-10.0)
    session = bridge.create_profiled_session(low, "signal")
    numbers = {name: getattr(bridge, f"profiled_{name}_loss")(tensor(), session, 2.0).item() for name in MU_NAMES}
    assert numbers["qmu"] == numbers["qmu_tilde"] < numbers["qmu_plain"] / 1.1
    assert numbers["zmu"] == numbers["zmu_tilde"] == pytest.approx(np.sqrt(numbers["qmu_tilde"]), rel=1e-9)
    assert numbers["zmu_plain"] == pytest.approx(np.sqrt(numbers["qmu_plain"]), rel=1e-9)
    for name in ("qmu", "zmu"):
        assert "tilde" in getattr(bridge, f"profiled_{name}_loss").__doc__.split("\n")[0]


def test_jacobian(session):
    h = tensor()
    bridge.profiled_q0_loss(h, session).backward()
    jacobian = bridge.signal_jacobian(h, session)
    assert not jacobian.requires_grad
    torch.testing.assert_close(jacobian, h.grad, rtol=0, atol=0)
    as_numpy = bridge.signal_jacobian_numpy(list(SIGNAL), session)
    np.testing.assert_array_equal(as_numpy, h.grad)
    with torch.no_grad():
        torch.testing.assert_close(bridge.signal_jacobian(h, session), h.grad, rtol=0, atol=0)


@pytest.mark.slow
def test_types_and_layouts(session):
    reference = bridge.signal_jacobian(tensor(), session)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 5e-3)):
        h = torch.tensor(SIGNAL, dtype=dtype, requires_grad=True)
        value = bridge.profiled_q0_loss(h, session)
        value.backward()
        assert value.dtype == torch.float64
        assert h.grad.dtype == dtype
        torch.testing.assert_close(h.grad.double(), reference, rtol=tolerance, atol=tolerance)
    wide = torch.zeros(3, 2, dtype=torch.float64)
    wide[:, 1] = torch.tensor(SIGNAL)
    column = wide.requires_grad_()[:, 1]
    assert not column.is_contiguous()
    bridge.profiled_q0_loss(column, session).backward()
    torch.testing.assert_close(wide.grad[:, 1], reference, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        assert not bridge.profiled_q0_loss(tensor(), session).requires_grad
    shifted = torch.tensor([9.0, *SIGNAL], dtype=torch.float64)[1:]  # not where JAX aligns its arrays
    assert bridge.profiled_q0_loss(shifted, session).item() == pytest.approx(
        bridge.profiled_q0_loss(tensor(), session).item(), rel=1e-12
    )


def test_memory_is_shared():
    x = torch.arange(64, dtype=torch.float64)
    array = bridge._bridge.to_jax(x)
    assert array.unsafe_buffer_pointer() == x.data_ptr()
    back = bridge.as_tensor(jnp.arange(5.0))
    other = jnp.arange(5.0)
    assert bridge.as_tensor(other).data_ptr() == other.unsafe_buffer_pointer()
    torch.testing.assert_close(back, torch.arange(5.0, dtype=torch.float64))


def test_outputs_may_be_written_to():
    passed = bridge.from_jax(lambda x: (x, x, 2.0 * x))
    x = torch.arange(8, dtype=torch.float64)
    first, second, third = passed(x)
    first.add_(100.0)
    second.mul_(0.0)
    torch.testing.assert_close(x, torch.arange(8, dtype=torch.float64))
    torch.testing.assert_close(first, x + 100)
    torch.testing.assert_close(third, 2 * x)


def test_inputs_changed_before_the_backward_pass_are_noticed(session):
    h = tensor() * 1.0
    value = bridge.profiled_q0_loss(h, session)
    with torch.no_grad():
        h.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_any_function_of_jax():
    def function(x, y, power, name):
        assert name == "static"
        return {"sum": (jnp.sin(x) * y**power).sum(), "outer": jnp.outer(x, y), "n": (x > 0).sum()}

    bridged = bridge.from_jax(function)
    rng = np.random.default_rng(3)
    x, y = (torch.tensor(rng.normal(size=n), requires_grad=True) for n in (4, 4))
    result = bridged(x, y, 2, "static")
    assert result["n"].dtype == torch.int64
    assert not result["n"].requires_grad
    torch.testing.assert_close(result["outer"], torch.outer(x, y))

    def scalar(x, y):
        return bridged(x, y, 2, "static")["sum"]

    def vector(x, y):
        return bridged(x, y, 2, "static")["outer"]

    for check in (scalar, vector):
        assert torch.autograd.gradcheck(check, (x, y), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(check, (x, y))
    rows = torch.tensor(rng.normal(size=(3, 4)))
    loop = torch.stack([scalar(row, y) for row in rows])
    torch.testing.assert_close(torch.func.vmap(scalar, in_dims=(0, None))(rows, y), loop)
    slopes = torch.func.vmap(torch.func.grad(scalar), in_dims=(0, None))(rows, y.detach())
    torch.testing.assert_close(slopes, torch.cos(rows) * y.detach() ** 2)
    curvature = torch.func.hessian(lambda x: scalar(x, y.detach()))(x.detach())
    torch.testing.assert_close(curvature, torch.diag(-torch.sin(x.detach()) * y.detach() ** 2))
    forward = torch.func.jacfwd(lambda x: vector(x, y.detach()))(x.detach())
    reverse = torch.func.jacrev(lambda x: vector(x, y.detach()))(x.detach())
    torch.testing.assert_close(forward, reverse)


@pytest.mark.slow
def test_second_derivatives_of_a_test(session):
    assert torch.autograd.gradgradcheck(
        lambda h: bridge.profiled_q0_loss(h, session), tensor(), eps=1e-4, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("mode", ["kde", "sigmoid"])
@pytest.mark.parametrize("outside", ["drop", "clip"])
def test_soft_histogram_equals_that_of_jax(mode, outside):
    rng = np.random.default_rng(5)
    scores = np.concatenate([rng.normal(0.5, 0.4, size=300), [0.0, 1.0, 0.4, -1e6, 1e6]])
    weights = rng.normal(1.0, 0.5, size=scores.size)
    edges = np.array([0.0, 0.1, 0.4, 0.45, 1.0])
    for bandwidth in (None, 1e-9, 0.02, 0.4, 1e9):
        ours = bridge.SoftHistogram(torch.tensor(edges), bandwidth, mode, outside)
        x = torch.tensor(scores, requires_grad=True)
        w = torch.tensor(weights, requires_grad=True)
        filled = ours(x, w)
        theirs = nextstat.SoftHistogram(edges, bandwidth, mode, outside)
        np.testing.assert_allclose(filled.detach(), theirs(scores, weights), rtol=1e-12, atol=1e-12)
        towards = np.array([1.0, -2.0, 0.5, 3.0])
        (filled @ torch.from_numpy(towards)).backward()
        slopes = jax.grad(lambda a, b, h=theirs, c=towards: h(a, b) @ c, (0, 1))(scores, weights)
        np.testing.assert_allclose(x.grad, slopes[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(w.grad, slopes[1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            ours.uncertainty(x, w).detach(), theirs.uncertainty(scores, weights), rtol=1e-11, atol=1e-12
        )
    assert ours(x.detach().float()).dtype == torch.float32
    moved = bridge.SoftHistogram(torch.tensor(edges))(x.detach(), bandwidth=0.3)
    np.testing.assert_allclose(moved, nextstat.soft_histogram(scores, edges, bandwidth=0.3), rtol=1e-11)


def test_learnable_edges():
    edges = bridge.MonotoneEdges(4, -1.0, 3.0)
    with torch.no_grad():
        edges.raw.copy_(torch.tensor([0.3, -1.0, 2.0, 0.0]))
    np.testing.assert_allclose(
        edges().detach(), nextstat.monotone_edges(edges.raw.detach().numpy(), -1.0, 3.0), rtol=1e-6
    )
    histogram = bridge.SoftHistogram(edges, bandwidth=0.1)
    assert [name for name, _ in histogram.named_parameters()] == ["bin_edges.raw"]
    histogram(torch.linspace(-1, 3, 50))[0].backward()
    assert edges.raw.grad.abs().min() > 0
    y = torch.tensor([3.0, 0.1, 0.0, -1.0])
    np.testing.assert_allclose(bridge.guard_empty_bins(y, 0.1), nextstat.guard_empty_bins(y.numpy(), 0.1), rtol=1e-6)


def test_tensors_of_anything():
    numbers = [1.0, 2.5, 3.0]
    locked = np.array(numbers)
    locked.flags.writeable = False
    for given in (
        numbers,
        tuple(numbers),
        np.array(numbers),
        locked,
        np.array(numbers[::-1])[::-1],
        jnp.array(numbers),
    ):
        got = bridge.as_tensor(given)
        assert got.dtype == torch.float64
        assert got.tolist() == numbers
    assert bridge.as_tensor(2.5).item() == 2.5
    given = torch.ones(3)
    assert bridge.as_tensor(given) is given


@pytest.mark.slow
def test_modules(model):
    loss = bridge.SignificanceLoss(model, "signal", negate=True)
    assert loss.n_bins == 3
    assert loss.n_params == model.n_params
    assert loss.session.sample == "signal"
    h = tensor()
    assert loss(h).item() == -loss.z0(h).item()
    assert loss.q0(h).item() == pytest.approx(loss.z0(h).item() ** 2)
    assert bridge.SignificanceLoss(model, "signal", negate=False)(h).item() == -loss(h).item()
    assert bridge.SignificanceLoss(model, "signal", eps=0.25).z0(h).item() == pytest.approx(
        np.sqrt(loss.q0(h).item() + 0.25)
    )
    given = torch.tensor([60.0, 30.0, 25.0])
    assert bridge.SignificanceLoss(model, "signal", data=given).q0(h).item() == pytest.approx(
        float(nextstat.SignificanceLoss(model, "signal", data=[60.0, 30.0, 25.0]).q0(jnp.asarray(SIGNAL)))
    )
    assert "signal" in repr(loss)
    assert "bins=4" in repr(bridge.SoftHistogram(torch.linspace(0, 1, 5)))
    assert list(loss.parameters()) == []


@pytest.mark.slow
def test_a_warm_start_changes_nothing(model):
    loss = bridge.SignificanceLoss(model, "signal")
    h, again = tensor(), tensor()
    cold = loss(h)
    cold.backward()
    loss.warm_start(1.01 * again.detach())
    assert loss.session.start is not None
    warm = loss(again)
    warm.backward()
    assert warm.item() == pytest.approx(cold.item(), rel=1e-9)
    torch.testing.assert_close(again.grad, h.grad, rtol=1e-7, atol=1e-10)
    loss.warm_start(h)
    assert loss(again).item() == pytest.approx(cold.item(), rel=1e-9)


@pytest.mark.slow
def test_import_leaves_the_memory_of_a_gpu():
    code = "import os, nextstat_jax.torch; print(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])"
    for given, expected in ((None, "false"), ("true", "true")):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_PYTHON")}
        if given:
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = given
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: bridge.SignificanceLoss(m, "sig"), "there is no sample 'sig'; samples: bkg, signal"),
        (lambda m, s: bridge.SignificanceLoss(m, "signal", objective="auc"), "objective='auc'"),
        (lambda m, s: bridge.profiled_q0_loss(tensor([1.0] * 4), s), r"'signal' has shape \(4,\), expected \(3,\)"),
        (lambda m, s: bridge.profiled_q0_loss(tensor([1.0, float("nan"), 2.0]), s), "'signal' is nan in bin 1"),
        (lambda m, s: bridge.profiled_q0_loss(tensor([1.0, -0.5, 2.0]), s), "'signal' is -0.5 in bin 1: yields"),
        (lambda m, s: bridge.profiled_q0_loss(tensor(), m), "expected a session from create_profiled_session"),
        (lambda m, s: bridge.profiled_q0_loss({"signal": [1.0, 2.0, 3.0]}, s), "none of the templates is a torch"),
        (lambda m, s: bridge.profiled_q0_loss("abc", s), "not made of numbers"),
        (lambda m, s: bridge.profiled_q0_loss(torch.ones(3, device="meta"), s), "on meta"),
        (lambda m, s: bridge.profiled_q0_loss(torch.eye(3).to_sparse(), s), "sparse"),
        (lambda m, s: bridge.batch_profiled_q0_loss(tensor(), s), r"shape \(3,\), expected \(batch, 3\)"),
        (lambda m, s: bridge.batch_profiled_qmu_loss(torch.ones(2, 3), s, [1.0] * 3), "one for each"),
        (lambda m, s: bridge.batch_profiled_q0_loss([tensor(), torch.ones(2)], s), r"different shapes: \(2,\), \(3,\)"),
        (lambda m, s: bridge.profiled_q0_loss(1j * torch.ones(3), s), "complex64: expected real"),
        (lambda m, s: bridge.create_session(m, "signal", device="meta"), "on meta"),
        (lambda m, s: bridge.from_jax(jnp.sin)(1.0), "none of the arguments is a torch tensor"),
        (lambda m, s: bridge.SoftHistogram([0.0, 1.0, 0.5]), "increase"),
        (lambda m, s: bridge.SoftHistogram([0.0, 1.0], bandwidth=-1.0), "positive"),
        (lambda m, s: bridge.SoftHistogram([0.0, 1.0], mode="tent"), "mode"),
        (lambda m, s: bridge.SoftHistogram([0.0, 1.0])(torch.ones(3), torch.ones(2)), r"weights have shape \(2,\)"),
        (lambda m, s: bridge.SoftHistogram([0.0, 1.0])(torch.ones(3, dtype=torch.int64)), "tensor of floats"),
        (lambda m, s: bridge.MonotoneEdges(0), "n_bins=0"),
    ],
)
def test_wrong_input_has_one_clear_line(model, session, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model, session)
    assert "\n" not in str(failure.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_without_copies(model):
    session = bridge.create_profiled_session(model, "signal", device="cuda")
    h = torch.tensor(SIGNAL, dtype=torch.float64, device="cuda", requires_grad=True)
    assert bridge._bridge.to_jax(h).unsafe_buffer_pointer() == h.data_ptr()
    value = bridge.profiled_q0_loss(h, session)
    value.backward()
    assert value.is_cuda
    assert h.grad.is_cuda
    assert torch.autograd.gradcheck(lambda x: bridge.profiled_q0_loss(x, session), h, eps=1e-5, atol=1e-6)
