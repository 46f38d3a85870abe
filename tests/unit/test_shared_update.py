"""The update that the trainer makes: which tensors the settings of weights are for, and which steps count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddp.kernels.types import Float32
from tests.unit.runs import MLP, VGG, Make, change

if TYPE_CHECKING:
    from ddp.trainer import Trainer


@pytest.mark.parametrize("config", [MLP, VGG], ids=["mlp", "vgg"])
@pytest.mark.parametrize("name", ["sgd", "lars", "lamb"])
def test_weights_alone_decay(name: str, config: object, make_trainer: Make) -> None:
    """After a step with weight decay, biases and batch normalisation are what they are without, and weights are not."""
    states = []
    for decay in 0.0, 0.5:
        fields = {"name": name, "lr": 0.1, "weight_decay": decay, "decay_norm_and_bias": False}
        trainer = make_trainer(change(config, "optimizer", **fields))  # type: ignore[arg-type]
        trainer.train_step()
        states.append(trainer.model.parameter_dict())
    without, decayed = states
    weights = {tensor for tensor in without if without[tensor].ndim > 1}
    assert {tensor for tensor in without if (without[tensor] != decayed[tensor]).any()} == weights
    assert len(weights) < len(without)


@pytest.mark.parametrize(("name", "lr"), [("lars", 0.1), ("lamb", 0.1)])
def test_each_weight_tensor_moves_by_a_share_of_its_length(name: str, lr: float, make_trainer: Make) -> None:
    """By a first step of LARS without decay lr * trust_coefficient, of LAMB lr; biases and the like by something else.

    But the weights of batch normalisation, which are 1: LAMB's plain first step is as long for them.
    """
    fields = {"name": name, "lr": lr, "weight_decay": 0.0, "trust_coefficient": 0.1}
    trainer = make_trainer(change(VGG, "optimizer", **fields))
    before = trainer.model.parameter_dict()
    trainer.train_step()
    after = trainer.model.parameter_dict()
    share = lr * (0.1 if name == "lars" else 1)
    moved = {
        tensor: np.linalg.norm(after[tensor].astype(np.float64) - before[tensor]) / np.linalg.norm(before[tensor])
        for tensor in before
        if before[tensor].any()
    }
    for tensor, found in moved.items():
        if before[tensor].ndim > 1 or name == "lars":
            assert (found == pytest.approx(share, rel=1e-4)) == (before[tensor].ndim > 1), tensor


def after_a_skipped_step(make_trainer: Make, **optimizer: object) -> tuple[Trainer, Float32]:
    """After step 1, the only one with an update; and the parameters before it."""
    fields = {"weight_decay": 0.0, **optimizer}
    trainer = make_trainer(change(change(MLP, "optimizer", **fields), "train", on_nonfinite="skip"))
    before = trainer.model.parameters.copy()
    trainer.model.parameters[0] = np.nan
    trainer.train_step()
    trainer.model.parameters[:] = before
    trainer.train_step()
    return trainer, before


def test_a_skipped_step_counts(make_trainer: Make) -> None:
    """The first update is dampened, and Adam's is corrected as that of the second step."""
    plain, damped = (after_a_skipped_step(make_trainer, dampening=share)[0] for share in (0.0, 0.5))
    g = plain.optimizer.state["momentum"]
    assert np.abs(g).max() > 0
    np.testing.assert_array_equal(damped.optimizer.state["momentum"], 0.5 * g)

    adam, before = after_a_skipped_step(make_trainer, name="adam", lr=0.01)
    m, v = (adam.optimizer.state[name].astype(np.float64) for name in ("exp_avg", "exp_avg_sq"))
    np.testing.assert_allclose(m, 0.1 * g, rtol=1e-5, atol=1e-9)
    step = 0.01 * m / (1 - 0.9**2) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(before - adam.model.parameters, step, rtol=1e-4, atol=1e-7)
