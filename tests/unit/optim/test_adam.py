"""AdaDelta, Adam and AdamW against PyTorch, LAMB against the equations of its paper, all over a hundred steps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from ddp.config import OptimizerConfig
from ddp.kernels import reference
from ddp.kernels.types import Addends, Float32, Float64
from ddp.optim import AdaDelta, Optimizer, build_optimizer
from tests.unit.optim.made import IS_WEIGHT, SLICES, Made, rate


def configured(made: Made, **fields: Any) -> Optimizer:
    buffers = made.parameters, made.addends, made.blocks
    return build_optimizer(OptimizerConfig(**fields), *buffers, is_weight=IS_WEIGHT)


ALL = {
    "sgd with dampening": {"name": "sgd", "momentum": 0.9, "dampening": 0.3},
    "sgd without momentum is not dampened": {"name": "sgd", "momentum": 0.0, "dampening": 0.3},
    "adadelta": {"name": "adadelta"},
    "adadelta, other factors": {"name": "adadelta", "rho": 0.7, "eps": 1e-3, "weight_decay": 1e-2},
    "adam": {"name": "adam"},
    "adam, other factors": {"name": "adam", "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 1e-2},
    "adamw": {"name": "adamw", "weight_decay": 1e-1},
    "weights alone decay": {"name": "adamw", "weight_decay": 1e-1, "decay_norm_and_bias": False},
}
RATES = {"sgd": 0.1, "adadelta": 1.0, "adam": 0.01, "adamw": 0.01}


@pytest.mark.torch
@pytest.mark.parametrize("fields", ALL.values(), ids=ALL.keys())
def test_a_hundred_steps_are_pytorchs(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch's import deprecates is not this project's
        torch = pytest.importorskip("torch")
    made, name = Made(), fields["name"]
    given = {key: value for key, value in fields.items() if key not in ("name", "decay_norm_and_bias")}
    if "beta1" in given:
        given["betas"] = given.pop("beta1"), given.pop("beta2")
    decays = given.pop("weight_decay", 0.0)
    tensors = [torch.from_numpy(made.parameters[where].copy()).requires_grad_() for where in SLICES]
    excluded = IS_WEIGHT if fields.get("decay_norm_and_bias") is False else np.ones(len(SLICES), bool)
    groups = [{"params": [w], "weight_decay": decays if has else 0} for w, has in zip(tensors, excluded, strict=True)]
    kind = {"sgd": "SGD", "adadelta": "Adadelta", "adam": "Adam", "adamw": "AdamW"}[name]
    theirs = getattr(torch.optim, kind)(groups, lr=RATES[name], **given)

    def update(step: int, g: Float32) -> Float64:
        for group in theirs.param_groups:
            group["lr"] = rate(step, RATES[name])
        for tensor, where in zip(tensors, SLICES, strict=True):
            tensor.grad = torch.from_numpy(g[where].copy())
        theirs.step()
        return np.concatenate([tensor.detach().numpy() for tensor in tensors]).astype(np.float64)

    made.compare(configured(made, **fields), RATES[name], update)


def decay_of(fields: dict[str, Any]) -> Float64:
    """(N,) the factor of each parameter."""
    lengths = [where.stop - where.start for where in SLICES]
    has = IS_WEIGHT if fields.get("decay_norm_and_bias") is False else np.ones(len(SLICES))
    return np.repeat(has * fields.get("weight_decay", 0.0), lengths)


@pytest.mark.parametrize("case", [case for case in ALL if case.startswith("adadelta")])
def test_adadelta_is_the_reference(case: str) -> None:
    made, fields = Made(), ALL[case]
    w = made.parameters.astype(np.float64)
    state = w, np.zeros_like(w), np.zeros_like(w)

    def update(step: int, g: Float32) -> Float64:
        nonlocal state
        w, v, u = state
        factors = fields.get("rho", 0.9), fields.get("eps", 1e-6), decay_of(fields)
        state = reference.adadelta_update(w, g.astype(np.float64), v, u, rate(step, 1.0), *factors)
        return state[0]

    made.compare(configured(made, **fields), 1.0, update)


@pytest.mark.parametrize("case", ["adam", "adam, other factors", "adamw", "weights alone decay"])
def test_adam_and_adamw_are_the_reference(case: str) -> None:
    made, fields = Made(), ALL[case]
    w = made.parameters.astype(np.float64)
    state = w, np.zeros_like(w), np.zeros_like(w)
    decays = (decay_of(fields), 0.0) if fields["name"] == "adam" else (0.0, decay_of(fields))

    def update(step: int, g: Float32) -> Float64:
        nonlocal state
        w, m, v = state
        factors = fields.get("beta1", 0.9), fields.get("beta2", 0.999), fields.get("eps", 1e-8)
        lr = rate(step, RATES["adam"])
        state = reference.adam_update(w, g.astype(np.float64), m, v, step + 1, lr, *factors, *decays)
        return state[0]

    made.compare(configured(made, **fields), RATES["adam"], update)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-1])
def test_lamb_is_the_algorithm_of_the_paper(weight_decay: float) -> None:
    """You et al. 2020, algorithm 2, with phi(z) = z; biases have the plain rate and no decay, as in BERT's program."""
    made, lr = Made(), 0.02
    optimizer = configured(made, name="lamb", weight_decay=weight_decay)
    x = made.parameters.astype(np.float64)
    m, v = np.zeros_like(x), np.zeros_like(x)

    def update(step: int, g32: Float32) -> Float64:
        g, t = g32.astype(np.float64), step + 1
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
        for where, is_weight in zip(SLICES, IS_WEIGHT, strict=True):
            u = r[where] + (weight_decay * x[where] if is_weight else 0)
            ratio = np.linalg.norm(x[where]) / np.linalg.norm(u) if is_weight else 1
            x[where] -= rate(step, lr) * ratio * u
        return x

    made.compare(optimizer, lr, update)


def test_lamb_stays_finite_as_the_direction_fades_away() -> None:
    """The gradient of a tensor whose units are all dead is 0 for good: the mean falls to the least of float32."""
    made = Made()
    optimizer = configured(made, name="lamb")
    made.sums[:] = next(made.gradients())
    optimizer.step(0.01, 1.0)
    for _ in range(1200):
        made.sums[:] = 0
        optimizer.step(0.01, 1.0)
        assert np.isfinite(made.parameters).all()


@pytest.mark.parametrize("name", ["sgd", "lars", "adadelta", "adam", "adamw", "lamb"])
def test_rows_of_integers_are_added_as_their_sum(name: str) -> None:
    """Any row may be the own one, and the parameters may begin anywhere in it."""
    generator = np.random.default_rng(1)
    one, many = Made(), Made()
    rows = generator.integers(-1000, 1000, (3, 7 + one.sums.size), dtype=np.int32)
    one.sums[:] = rows[:, 7:].sum(axis=0)
    fields: dict[str, Any] = {"name": name, "weight_decay": 0.01, "eps": 1e-3}
    first = configured(one, **fields)
    second = build_optimizer(
        OptimizerConfig(**fields), many.parameters, Addends(rows, 1, 7), many.blocks, is_weight=IS_WEIGHT
    )
    others = rows[[0, 2]].copy()
    assert first.step(0.01, 2.0**-10) == second.step(0.01, 2.0**-10)
    assert many.parameters.tobytes() == one.parameters.tobytes() != Made().parameters.tobytes()
    assert rows[[0, 2]].tobytes() == others.tobytes()


@pytest.mark.parametrize("name", ["sgd", "lars", "adadelta", "adam", "adamw", "lamb"])
def test_warm_up_leaves_everything_untouched(name: str) -> None:
    made = Made()
    made.sums[:] = 1
    optimizer = configured(made, name=name, weight_decay=0.1)
    for buffer in optimizer.state.values():
        buffer[:] = 7
    arrays = made.parameters, made.sums, *optimizer.state.values()
    before = [array.tobytes() for array in arrays]
    optimizer.warm_up()
    assert [array.tobytes() for array in arrays] == before
    assert optimizer.steps == 0


def test_the_first_step_of_adadelta() -> None:
    """From zeros: sqrt(eps) / sqrt(0.1 g^2 + eps) g."""
    w, g = np.zeros(3, np.float32), np.array([1.0, -2.0, 1e-4], np.float32)
    AdaDelta(w, g).step(1.0, 1.0)
    expected = -g.astype(np.float64) * np.sqrt(1e-6 / (0.1 * g.astype(np.float64) ** 2 + 1e-6))
    np.testing.assert_allclose(w, expected, rtol=1e-6)
