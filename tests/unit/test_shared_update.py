"""The update that the trainer makes: which tensors the settings of weights are for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.runs import MLP, VGG, Make, change


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
