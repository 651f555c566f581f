"""MetODS: both forms, the closed form of depth one, symmetry, stability, and refusals."""

import os
import shutil
from functools import partial
from itertools import combinations, product
from math import prod

import jaxtyping
import pytest
import torch
from torch import nn

from metarl_lib.cores import MetODS
from metarl_lib.cores.metods import INITIALS, PLASTICITIES, WRITES, choose_form, unroll

CHOICES = list(product((1, 2, 3, 4), WRITES, PLASTICITIES))
FORMS = ("lazy", "naive", "replay", "fused")
FORMS_AND_WRITES = [pair for pair in product(FORMS, WRITES) if pair != ("fused", "mlp")]


def make(units=4, inputs=2, seed=0, **options):
    """In double precision, with every parameter far from zero and from its residual start."""
    torch.manual_seed(seed)
    core = MetODS(inputs, units, **options).double()
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return core


def problem(core, steps=3, rows=2, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return randn(steps, rows, core.input_size), (randn(rows, core.num_units, core.num_units),)


def slopes(core, xs, state, resets=None):
    """Outputs, last memory, and the gradient of a weighted sum of both, by name."""
    ys, (w,) = core.scan(xs, state, resets)
    generator = torch.Generator().manual_seed(2)
    total = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
        for out in (ys, w)
    )
    wanted = {"xs": xs, "state": state[0]} | dict(core.named_parameters())
    found = torch.autograd.grad(total, tuple(wanted.values()), materialize_grads=True)
    return {"ys": ys, "w": w} | dict(zip(wanted, found, strict=True))


def agree(found, expected) -> None:
    for name, value in expected.items():
        assert value.any(), name
        scale = value.abs().max().clamp(min=1)
        torch.testing.assert_close(found[name] / scale, value / scale, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "depth", "write", "plasticity"),
    [
        (form, depth, write, plasticity)
        for form, (depth, write, plasticity) in product(("lazy", "replay", "fused"), CHOICES)
        if (form, write) in FORMS_AND_WRITES
    ],
)
def test_other_forms_are_the_naive_one_in_values_and_gradients(
    form, depth, write, plasticity
) -> None:
    options = {"depth": depth, "write": write, "plasticity": plasticity}
    other, naive = make(form=form, **options), make(form="naive", **options)
    xs, state = problem(other, steps=4)
    resets = torch.tensor([[0, 0], [0, 1], [0, 0], [0, 0]]).bool()
    agree(slopes(other, xs, state, resets), slopes(naive, xs, state, resets))


@pytest.mark.parametrize("form", ["replay", "fused"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 10, 17])
def test_stretches_that_are_rebuilt_are_the_naive_form(steps, form) -> None:
    """Lives begin at the first step, within stretches and at their ends; two rows go on."""
    rebuilt, naive = make(form=form), make(form="naive")
    xs, state = problem(rebuilt, steps=steps, rows=3)
    generator = torch.Generator().manual_seed(3)
    resets = torch.rand(steps, 3, generator=generator) < 0.3
    resets[:, 0] = False
    resets[0, 1] = resets[-1, 2] = True
    agree(slopes(rebuilt, xs, state, resets), slopes(naive, xs, state, resets))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_threads_share_the_rows_of_a_fused_scan(rows) -> None:
    fused, naive = make(form="fused"), make(form="naive")
    xs, state = problem(fused, steps=5, rows=rows)
    resets = torch.zeros(5, rows, dtype=torch.bool)
    resets[2, -1] = True
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = slopes(fused, xs, state, resets)
    finally:
        torch.set_num_threads(threads)
    agree(found, slopes(naive, xs, state, resets))


def test_a_fused_layer_takes_what_does_not_lie_in_order() -> None:
    """Inputs and memories that are parts or transposes of others, and are left as they were."""
    fused, naive = make(form="fused"), make(form="naive")
    xs, (w,) = problem(fused, steps=4, rows=3)
    xs, w = xs.detach().transpose(0, 1).contiguous().transpose(0, 1), w.detach().mT
    before = w.clone()
    ys, (last,) = fused.scan(xs, (w,))
    expected, (end,) = naive.scan(xs, (w,))
    torch.testing.assert_close(ys, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, end, rtol=1e-12, atol=1e-12)
    assert torch.equal(w, before)


def test_where_the_fused_form_is_not_to_be_had_the_replay_stands_for_it() -> None:
    fused, replay = make(form="fused").bfloat16(), make(form="replay").bfloat16()
    xs = torch.randn(3, 2, 2).bfloat16()
    for core in (fused, replay):
        core.zero_grad()
        core.scan(xs, core.initial_state(2))[0].sum().backward()
    for p, q in zip(fused.parameters(), replay.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("form", ["lazy", "fused"])
def test_what_is_not_a_number_is_not_lost(form) -> None:
    core = make(form=form)
    xs, (w,) = problem(core, steps=3)
    with torch.no_grad():
        xs[1, 0, 0] = torch.nan
    ys, (last,) = core.scan(xs, (w,))
    assert torch.equal(ys.isnan().any(-1), torch.tensor([[0, 0], [1, 0], [1, 0]]).bool())
    assert last[0].isnan().all()
    assert last[1].isfinite().all()


def test_a_replay_keeps_few_of_the_weights() -> None:
    """For T = 100: every tenth; beside them, inputs, embedded ones, activities and reads."""
    core = make(units=20, form="replay", depth=2)
    xs, state = problem(core, steps=100, rows=3)
    own = {p.data_ptr() for p in core.parameters()}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t}) or t,
                                                  lambda t: t):  # fmt: skip
        outputs = core.scan(xs, state)
    shapes = [tuple(t.shape) for place, t in kept.items() if place not in own]
    del outputs  # until here it holds the storages, so that no address was used twice
    assert shapes.count((3, 20, 20)) == 10
    assert max(prod(shape) for shape in shapes) == 100 * 2 * 3 * 20
    assert sum(prod(shape) for shape in shapes) < 10 * 3 * 20 * 20 + 6 * 100 * 3 * 20


@pytest.mark.parametrize("form", ["replay", "fused"])
def test_a_second_derivative_of_a_derivative_by_hand_is_refused(form) -> None:
    core = make(form=form)
    xs, state = problem(core)
    ys, _ = core.scan(xs, state)
    with pytest.raises(RuntimeError, match="make the layer with form='lazy'"):
        torch.autograd.grad(ys.sum(), xs, create_graph=True)


@pytest.mark.parametrize(
    ("units", "depth", "write", "compiled", "form"),
    [
        (20, 4, "linear", False, "replay"), (100, 1, "mlp", False, "replay"),
        (20, 4, "linear", True, "fused"), (100, 1, "vanilla", True, "fused"),
        (32, 4, "mlp", True, "naive"), (33, 4, "mlp", True, "replay"),
        (33, 1, "mlp", True, "lazy"), (100, 2, "mlp", True, "replay"),
    ],
)  # fmt: skip
def test_the_form_goes_by_the_size_unless_one_is_asked_for(
    units, depth, write, compiled, form
) -> None:
    assert choose_form(units, depth, write, compiled=compiled) == form
    if not compiled or form == "fused":
        assert MetODS(2, units, depth, write, compile=compiled).form == form
    assert MetODS(2, units, depth, form="lazy").form == "lazy"


class Life(nn.Module):
    """A scan as a function of the parameters."""

    def __init__(self, core) -> None:
        super().__init__()
        self.core = core

    def forward(self, xs, w, resets):
        ys, (last,) = self.core.scan(xs, (w,), resets)
        return ys, last

    def of(self, resets):
        names = [name for name, _ in self.named_parameters()]

        def outputs(xs, w, *values):
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(self, given, (xs, w, resets))

        return outputs


@pytest.mark.parametrize(
    ("form", "write", "plasticity"),
    [
        ("lazy", "linear", "matrix"),
        ("naive", "linear", "matrix"),
        ("replay", "linear", "matrix"),
        ("fused", "linear", "matrix"),
        ("fused", "vanilla", "scalar"),
        ("lazy", "mlp", "scalar"),
        ("replay", "mlp", "scalar"),
    ],
)
def test_gradients_are_those_of_finite_differences(form, write, plasticity) -> None:
    core = make(depth=3, write=write, plasticity=plasticity, form=form)
    xs, state = problem(core, rows=1)
    resets = torch.tensor([[False], [False], [True]])
    assert torch.autograd.gradcheck(Life(core).of(resets), (xs, *state, *core.parameters()))


@pytest.mark.parametrize("form", ["lazy", "naive"])
def test_second_derivatives_are_those_of_finite_differences(form) -> None:
    """They are needed where an inner loop is differentiated through."""
    core = make(units=3, depth=2, write="mlp", form=form)
    xs, state = problem(core, steps=2, rows=1)
    inputs = (xs, *state, *core.parameters())
    assert torch.autograd.gradgradcheck(Life(core).of(None), inputs, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
def test_at_depth_one_the_update_is_hebbian(form) -> None:
    core = make(depth=1, form=form)
    xs, (w,) = problem(core, steps=1)
    y, (after,) = core.step(xs[0], (w,))
    v = torch.tanh(core.embed(xs[0]))
    kappa, beta = core.kappa[0], core.beta[0]
    for b in range(2):
        expected = kappa[0] * v[b] + kappa[1] * torch.tanh(w[b] @ v[b])
        torch.testing.assert_close(y[b], expected, rtol=1e-12, atol=1e-12)
        hebb = torch.outer(v[b], core.project.weight @ v[b])
        expected = beta[0] * w[b] + beta[1] * core.alpha * hebb
        torch.testing.assert_close(after[b], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_vanilla_write_is_a_linear_one_by_the_identity(form) -> None:
    vanilla, linear = make(form=form, write="vanilla"), make(form=form, write="linear")
    linear.load_state_dict(vanilla.state_dict() | {"project.weight": torch.eye(4)})
    xs, state = problem(vanilla)
    for found, expected in zip(vanilla.scan(xs, state), linear.scan(xs, state), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_one_plasticity_for_all_is_a_matrix_of_equal_numbers(form) -> None:
    scalar, matrix = make(form=form, plasticity="scalar"), make(form=form)
    filled = {"alpha": scalar.alpha.expand(4, 4)}
    matrix.load_state_dict(scalar.state_dict() | filled)
    xs, state = problem(scalar)
    for found, expected in zip(scalar.scan(xs, state), matrix.scan(xs, state), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_without_plasticity_a_fixed_number_stands_for_it() -> None:
    none, scalar = MetODS(2, 4, plasticity="none"), MetODS(2, 4, plasticity="scalar")
    assert "alpha" not in dict(none.named_parameters())
    assert float(none.alpha) == pytest.approx(0.01)
    scalar.load_state_dict(none.state_dict())
    xs = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(
        none.scan(xs, none.initial_state(3)), scalar.scan(xs, scalar.initial_state(3)), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_the_depth_starts_as_a_chain_of_residual_steps(form, depth) -> None:
    """v^s = v^{s−1} + tanh(W^{s−1} v^{s−1}) and W^s = W^{s−1} + α ⊙ v^{s−1} ⊗ p(v^{s−1})."""
    torch.manual_seed(0)
    core = MetODS(2, 4, depth=depth, form=form).double()
    xs, (w,) = problem(core, rows=1)
    y, (after,) = core.step(xs[0], (w,))
    v, w = torch.tanh(core.embed(xs[0]))[0], w[0]
    for _ in range(depth):
        v, w = v + torch.tanh(w @ v), w + core.alpha * torch.outer(v, core.project(v))
    torch.testing.assert_close(y[0], v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[0], w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_without_writes_the_weights_stay(form) -> None:
    torch.manual_seed(0)
    core = MetODS(2, 4, depth=3, form=form).double()
    with torch.no_grad():
        for s in range(1, 4):
            core.beta[s - 1, s] = 0
    xs, (w,) = problem(core, steps=5)
    assert torch.equal(core.scan(xs, (w,))[1][0], w)


@pytest.mark.parametrize("form", FORMS)
def test_coefficients_of_later_iterates_have_no_part(form) -> None:
    """κ_s^l and β_s^l with l > s stand in the table but not in the equations."""
    core = make(depth=4, form=form)
    xs, state = problem(core)
    later = torch.ones(4, 5).triu(2).bool()
    assert later.sum() == 6
    found = slopes(core, xs, state)
    for name in ("kappa", "beta"):
        assert not found[name][later].any()
        assert (found[name][~later] != 0).all()
    with torch.no_grad():
        for table in (core.kappa, core.beta):
            table[later] = torch.nan
    assert torch.equal(core.scan(xs, state)[0], found["ys"])
    assert torch.equal(core.scan(xs, state)[1][0], found["w"])


@pytest.mark.parametrize(("form", "write"), FORMS_AND_WRITES)
def test_units_have_no_order(form, write) -> None:
    """The same units in another order do the same in that order."""
    core = make(write=write, form=form, initial="learned")
    order = torch.tensor([2, 0, 3, 1])
    moved = {}
    for name, p in core.state_dict().items():
        if name in ("kappa", "beta"):
            moved[name] = p
        elif p.shape == (4, 4):
            moved[name] = p[order][:, order]
        else:
            moved[name] = p[order]
    other = make(seed=1, write=write, form=form, initial="learned")
    other.load_state_dict(moved)
    xs, (w,) = problem(core)
    resets = torch.tensor([[0, 0], [0, 1], [0, 0]]).bool()
    ys, (last,) = core.scan(xs, (w,), resets)
    found, (end,) = other.scan(xs, (w[:, order][:, :, order],), resets)
    torch.testing.assert_close(found, ys[..., order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, last[:, order][:, :, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("units", "write"),
    [(20, "vanilla"), (20, "linear"), (20, "mlp"), (100, "vanilla"), (100, "linear")],
)
def test_an_untrained_memory_stays_finite_in_a_long_life(units, write) -> None:
    """|v^S| ≤ 1 + S as long as it does, by the residual start."""
    torch.manual_seed(0)
    core = MetODS(3, units, write=write)
    with torch.no_grad():
        ys, (w,) = core.scan(torch.randn(2000, 1, 3), core.initial_state(1))
    assert w.isfinite().all()
    assert ys.abs().max() <= 5


def chains(beta, start, end):
    """Σ Π β_{l'}^l over all ways to climb from W^start to W^end by steps l → l' > l."""
    total = 0.0
    between = range(start + 1, end)
    for count in range(len(between) + 1):
        for stops in combinations(between, count):
            way = [start, *stops, end]
            total += prod(beta[b - 1][a] for a, b in zip(way[:-1], way[1:], strict=True))
    return total


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_tables_count_all_ways_from_a_write_to_the_weights(depth) -> None:
    """c_s: all ways from W⁰ to W^s; d_{s,l}: those from W^{l+1}, where v^l is written."""
    beta = torch.randn(depth, depth + 1, generator=torch.Generator().manual_seed(0)).double()
    c, d = unroll(beta)
    assert c.shape == (depth + 1,)
    assert d.shape == (depth + 1, depth)
    plain = beta.tolist()
    for s in range(depth + 1):
        assert float(c[s]) == pytest.approx(chains(plain, 0, s) if s else 1, rel=1e-12)
        for k in range(depth):
            ways = 0 if k + 1 > s else 1 if k + 1 == s else chains(plain, k + 1, s)
            assert float(d[s, k]) == pytest.approx(ways * plain[k][k + 1], rel=1e-12)


def test_the_tables_of_depth_two_by_hand() -> None:
    c, d = unroll(torch.tensor([[2.0, 3.0, 99.0], [5.0, 7.0, 11.0]]))
    assert c.tolist() == [1, 2, 5 + 7 * 2]
    assert d.tolist() == [[0, 0], [3, 0], [7 * 3, 11]]


@pytest.mark.parametrize("initial", INITIALS)
def test_the_start_of_a_life_is_the_same_in_every_life(initial) -> None:
    torch.manual_seed(0)
    core = MetODS(2, 100, initial=initial)
    assert ("start" in dict(core.named_parameters())) == (initial == "learned")
    (first,), (second,) = core.initial_state(2), core.initial_state(3)
    assert torch.equal(first[0], second[2])
    assert first.shape == (2, 100, 100)
    if initial == "zero":
        assert not first.any()
    else:
        assert float(first[0].detach().std()) == pytest.approx(0.01, rel=0.05)
    assert "start" in core.state_dict()


def is_compiled_like_eager(tolerance, **options) -> None:
    torch.compiler.reset()  # there is a limit to how much is compiled of one function
    options |= {"depth": 2, "write": "mlp"}
    compiled, eager = make(compile=True, **options), make(**options)
    assert compiled._update is not eager._update
    xs, state = problem(eager, steps=2)
    expected = slopes(eager, xs, state)
    for name, value in slopes(compiled, xs, state).items():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["lazy", "naive", "replay", "auto"])
def test_a_compiled_step_is_one_graph_of_the_same_numbers(form, monkeypatch) -> None:
    """Traced and differentiated as for a compiler, without one."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks are no graph
    monkeypatch.setattr(shutil, "which", lambda name: name)
    trace = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", trace)
    is_compiled_like_eager(1e-12, form=form)


@pytest.mark.skipif(
    "METARL_TEST_COMPILE" not in os.environ,
    reason="a minute of CPU time: set "
    "METARL_TEST_COMPILE=1 to run it; benchmarks/metods_layer.py checks the same at each run",
)
@pytest.mark.parametrize("form", ["lazy", "naive", "replay", "auto"])
def test_compiled_code_finds_the_same_numbers(form, unchecked) -> None:
    is_compiled_like_eager(1e-9, form=form)


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^compile=True needs a C\+\+ compiler .*leave compile out$"
    ):
        MetODS(2, 3, write="mlp", compile=True)
    MetODS(2, 3, write="mlp")
    MetODS(2, 3, compile=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depth": 0}, "depth=0: must be a whole number >= 1"),
        ({"depth": 1.5}, "depth=1.5: must be a whole number >= 1"),
        ({"write": "hebb"}, "write='hebb' is unknown: choose one of vanilla, linear, mlp"),
        ({"plasticity": "all"}, "plasticity='all' is unknown: choose one of matrix, scalar, none"),
        ({"initial": "one"}, "initial='one' is unknown: choose one of learned, zero, sampled"),
        (
            {"form": "fast"},
            "form='fast' is unknown: choose one of auto, fused, replay, lazy, naive",
        ),
        (
            {"form": "fused", "write": "mlp"},
            "form='fused' and write='mlp': it is there for the "
            "vanilla and the linear write alone; choose form='replay'",
        ),
        ({"input_size": 0}, "input_size=0: must be a whole number >= 1"),
        ({"num_units": 0}, "num_units=0: must be a whole number >= 1"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(options, says, unchecked) -> None:
    with pytest.raises(ValueError) as refusal:
        MetODS(**{"input_size": 2, "num_units": 3} | options)
    assert str(refusal.value) == says


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_bounded_layer_keeps_at_most_all_of_its_weights(depth, form) -> None:
    """Nothing is written; what a step keeps of W is told by what it does to it, either sign."""
    for factor, kept in ((1.5, 1.0), (1.0, 1.0), (0.6, 0.6), (-1.5, -1.0), (-0.6, -0.6)):
        core = make(depth=depth, form=form, bounded=True)
        with torch.no_grad():
            core.alpha.zero_()
            core.beta[-1] *= factor / unroll(core.beta).c[-1]
        xs, (w,) = problem(core, steps=2)
        torch.testing.assert_close(core.scan(xs, (w,))[1][0], kept**2 * w)


@pytest.mark.parametrize("form", FORMS)
def test_a_bounded_layer_is_the_published_one_where_that_keeps_less(form) -> None:
    bounded, free = make(form=form, bounded=True), make(form=form)
    xs, state = problem(free)
    resets = torch.tensor([[0, 0], [0, 1], [0, 0]]).bool()
    for core in (bounded, free):
        with torch.no_grad():
            core.beta[-1] *= 0.9 / unroll(core.beta).c[-1]
    agree(slopes(bounded, xs, state, resets), slopes(free, xs, state, resets))


@pytest.mark.parametrize("form", FORMS)
def test_a_bounded_layer_scales_its_last_pass_as_a_whole(form) -> None:
    """It is the published layer with the last row of β divided by what it would keep."""
    bounded, free = make(form=form, bounded=True), make(form=form)
    with torch.no_grad():
        for core in (bounded, free):
            core.beta[-1] *= 3 / unroll(core.beta).c[-1]
        free.beta[-1] /= 3
    xs, state = problem(free)
    resets = torch.tensor([[0, 0], [0, 1], [0, 0]]).bool()
    found, expected = slopes(bounded, xs, state, resets), slopes(free, xs, state, resets)
    del found["beta"], expected["beta"]  # through which what is kept counts, too
    agree(found, expected)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_a_bounded_layer_are_those_of_finite_differences(form) -> None:
    core = make(units=3, depth=2, form=form, bounded=True)
    with torch.no_grad():
        core.beta[-1] *= 2 / unroll(core.beta).c[-1]
    xs, state = problem(core)
    base, direction = core.beta.detach().clone(), torch.randn(2, 3, dtype=torch.float64)

    def total() -> torch.Tensor:
        ys, (w,) = core.scan(xs, state)
        return ys.square().sum() + w.square().sum()

    slope = torch.autograd.grad(total(), core.beta)[0]
    with torch.no_grad():
        found = []
        for sign in (1, -1):
            core.beta.copy_(base + sign * 1e-6 * direction)
            found.append(float(total()))
    assert float((slope * direction).sum()) == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-6)


def test_a_bounded_memory_stays_finite_where_the_published_one_does_not() -> None:
    """Ten thousand steps with 1 per cent more kept than there was."""
    xs, finite = torch.randn(10_000, 2, 3, generator=torch.Generator().manual_seed(0)), {}
    for bounded in (True, False):
        torch.manual_seed(0)
        core = MetODS(3, 8, bounded=bounded)
        with torch.no_grad():
            core.beta[-1, -2] = 1.01
            _, (w,) = core.scan(xs, core.initial_state(2))
        finite[bounded] = bool(torch.isfinite(w).all())
    assert finite == {True: True, False: False}
