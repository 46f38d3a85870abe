"""The trainer on one rank: what a run computes, when it ends, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import pkgutil
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import _nrt_python, rtsys
from safetensors.numpy import load_file

from ddp import kernels as kernels_package
from ddp.comm.failure import NonFiniteError
from ddp.config import (
    BatchConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from ddp.kernels import jit, reference
from tests.unit.runs import CNN, DATA, MLP, VGG, Make, OpenRun, bits, change, records

if TYPE_CHECKING:
    from ddp.trainer import Trainer

REGRESSION = Config(
    model=ModelConfig(name="polynomial"),
    data=DataConfig(name="polynomial", samples=200, noise=0.0),
    batch=BatchConfig(size=20),
    optimizer=OptimizerConfig(lr=0.3),
    train=TrainConfig(epochs=30),
)


def all_test_data(trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
    split = trainer.dataset.test
    return split.gather(np.arange(len(split)), split.make_buffer(len(split)))


# --- Learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MLP.model, ModelConfig(name="mnist_cnn", dropout=False)], ids=["mlp", "mnist_cnn"])
def test_one_sample_is_learnt_by_heart(model: ModelConfig, make_trainer: Make) -> None:
    """21mnist's check: its loss falls below 0.002 in a few steps."""
    config = dataclasses.replace(
        MLP, model=model, data=dataclasses.replace(DATA, samples=1), batch=BatchConfig(size=1, shards=1)
    )
    trainer = make_trainer(change(change(config, "train", epochs=100), "optimizer", weight_decay=0.0))
    trainer.train_step()
    first = trainer.loss_sum
    for _ in range(99):
        trainer.train_step()
    assert first > 0.5
    assert trainer.loss_sum < 1e-3


def test_regression_finds_the_coefficients(make_trainer: Make) -> None:
    trainer = make_trainer(REGRESSION)
    trainer.train()
    found = trainer.model.state_dict()["1.weight"][0]
    np.testing.assert_allclose(found, REGRESSION.data.coefficients, atol=1e-3)
    assert trainer.evaluation is not None
    assert trainer.evaluation.accuracy is None
    assert trainer.evaluation.quality[0] == "rmse"
    assert trainer.evaluation.quality[1] < 1e-3


def test_classes_are_learnt_and_numbers_stay_finite(make_trainer: Make) -> None:
    trainer = make_trainer(change(MLP, "train", epochs=15))
    before = trainer.evaluate()
    trainer.train()
    assert trainer.evaluation is not None
    assert trainer.evaluation.loss < before.loss / 2
    assert trainer.evaluation.accuracy == 1.0
    assert np.isfinite(trainer.model.parameters).all()
    assert math.isfinite(trainer.loss_sum)


def test_a_step_is_sgd_on_the_mean_loss_of_its_samples(make_trainer: Make) -> None:
    """One step of linear softmax regression, in float64, written out."""
    config = change(MLP, "model", hidden=(), bias=False)
    trainer = make_trainer(config)
    for step in range(7):  # the sixth has 4 samples, the seventh is of the next epoch
        epoch, in_epoch = divmod(step, 6)
        indices = trainer.sampler.global_batch(epoch, in_epoch)
        split = trainer.dataset.train
        raw = split.inputs[indices].reshape(len(indices), -1).astype(np.float64)
        x, t = raw * split.scale + split.shift, reference.one_hot(split.targets[indices], 5)
        w = trainer.model.state_dict()["1.weight"].astype(np.float64)
        velocity = trainer.model.to_state(trainer.optimizer.state["momentum"])["1.weight"].astype(np.float64)
        losses, dy = reference.softmax_cross_entropy(x @ w.T, t)
        gradient = dy.T @ x / len(indices)
        velocity = 0.9 * velocity + gradient + 1e-3 * w
        trainer.train_step()
        assert trainer.loss_sum == pytest.approx(losses.sum(), abs=1e-5)
        assert trainer.grad_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        np.testing.assert_allclose(trainer.model.state_dict()["1.weight"], w - 0.05 * velocity, atol=1e-6)


def test_the_sum_of_losses_is_their_mean_at_a_scaled_rate(make_trainer: Make) -> None:
    config = change(change(MLP, "data", samples=48), "optimizer", weight_decay=0.0)
    mean = make_trainer(config)
    summed = make_trainer(
        dataclasses.replace(change(config, "optimizer", lr=0.05 / 8), loss=LossConfig(reduction="sum"))
    )
    before = mean.model.parameters.copy()
    for _ in range(8):
        mean.train_step()
        summed.train_step()
        # Dividing by 8 rounds nothing, so that even the last bits agree.
        assert summed.model.parameters.tobytes() == mean.model.parameters.tobytes()
        assert summed.grad_norm == 8 * mean.grad_norm
    assert np.any(mean.model.parameters != before)


# --- When it ends, and what it tells ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"), [(3, 0, 18), (3, 7, 7), (1, 100, 6), (0, 0, 0), (0, 5, 0), (2, 12, 12)]
)
def test_a_run_ends_after_its_epochs_or_its_steps(epochs: int, steps: int, expected: int, make_trainer: Make) -> None:
    trainer = make_trainer(change(MLP, "train", epochs=epochs, steps=steps))
    assert trainer.steps_per_epoch == 6
    trainer.train()
    assert trainer.step == trainer.total_steps == expected


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(1, 0, [6, 12, 18]), (2, 0, [12, 18]), (0, 0, []), (1, 8, [6, 8]), (5, 3, [3])]
)
def test_evaluations_are_at_the_ends_of_epochs_and_of_the_run(
    every: int, steps: int, expected: list[int], make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    trainer = make_trainer(change(MLP, "train", evaluate_every=every, steps=steps))
    run = open_run(trainer, tmp_path)
    trainer.train()
    evaluations = records(run, "eval")
    assert [record["step"] for record in evaluations] == expected
    assert [record["epoch"] for record in evaluations] == [math.ceil(step / 6) for step in expected]


@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "mnist_cnn"])
def test_evaluation_counts_every_sample_once(config: Config, make_trainer: Make) -> None:
    trainer = make_trainer(change(config, "data", samples=93))  # 19 test samples, in batches of 8
    for _ in range(4):
        trainer.train_step()
    found = trainer.evaluate()
    x, labels = all_test_data(trainer)
    y = trainer.model.forward(x, training=False).astype(np.float64)
    losses, _ = reference.softmax_cross_entropy(y, reference.one_hot(labels, 5))
    assert found.samples == 19
    assert found.accuracy == np.mean(y.argmax(axis=1) == labels)
    assert 0 < found.accuracy < 1
    assert found.loss == pytest.approx(losses.mean(), rel=1e-6)


def test_evaluation_changes_nothing(make_trainer: Make) -> None:
    trainer, other = make_trainer(CNN), make_trainer(CNN)
    for _ in range(4):
        trainer.train_step()
        trainer.evaluate()
        other.train_step()
    assert bits(trainer) == bits(other)


def test_the_records_of_a_run(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(dataclasses.replace(MLP, schedule=ScheduleConfig(name="cosine", warmup_epochs=1)))
    run = open_run(trainer, tmp_path)
    trainer.warm_up()
    trainer.train()
    steps, (end,) = records(run, "step"), records(run, "end")
    assert [record["step"] for record in steps] == [4, 8, 12, 16, 18]
    assert [record["epoch"] for record in steps] == [1, 2, 2, 3, 3]
    # The rate with which step n, the one before which n - 1 were done, changed the weights.
    annealed = [0.05 * (1 + math.cos(math.pi * (n - 1 - 6) / 12)) / 2 for n in (8, 12, 16, 18)]
    assert [record["lr"] for record in steps] == pytest.approx([0.05 * 4 / 6, *annealed])
    names = (
        "step epoch loss lr grad_norm samples_per_s step_ms compute_ms comm_exposed_ms update_ms data_ms slowest_rank"
        " forward_ms backward_ms wait_ms"
    )
    for record in steps:
        assert list(record) == ["event", "time_s", *names.split()]
        phases = [record[f"{name}_ms"] for name in ("compute", "comm_exposed", "wait", "update", "data")]
        assert record["compute_ms"] == pytest.approx(record["forward_ms"] + record["backward_ms"])
        assert 0 < sum(phases) <= record["step_ms"] * 1.001
        assert record["slowest_rank"] == 0
    (evaluation,) = [record for record in records(run, "eval") if record["step"] == 18]
    assert set(evaluation) == {"event", "time_s", "split", "epoch", "step", "loss", "accuracy", "samples"}
    names = "steps epochs wall_s train_s samples_per_s gflops_per_rank peak_gflops_per_rank fraction_of_peak"
    assert list(end) == ["event", "time_s", *names.split(), "parameters_sha256"]
    assert (end["steps"], end["epochs"]) == (18, 3)
    assert end["samples_per_s"] == pytest.approx(3 * 44 / end["train_s"])
    assert end["gflops_per_rank"] == pytest.approx(end["samples_per_s"] * trainer.model.flops() / 1e9)
    tensors = load_file(run.model)
    assert {name: tensor.tobytes() for name, tensor in tensors.items()} == {
        name: tensor.tobytes() for name, tensor in trainer.model.state_dict().items()
    }
    content = b"".join(trainer.model.state_dict()[name].astype("<f4").tobytes() for name in trainer.model.specs)
    assert end["parameters_sha256"] == hashlib.sha256(content).hexdigest()


def test_the_files_of_a_run_with_batch_normalisation(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(change(VGG, "train", epochs=1))
    run = open_run(trainer, tmp_path)
    trainer.train()
    tensors = load_file(run.model)
    assert {name: (tensor.dtype, tensor.tobytes()) for name, tensor in tensors.items()} == {
        name: (tensor.dtype, tensor.tobytes()) for name, tensor in trainer.model.state_dict().items()
    }
    assert tensors["1.num_batches_tracked"] == trainer.step == 2
    content = b"".join(trainer.model.state_dict()[name].astype("<f4").tobytes() for name in trainer.model.specs)
    assert records(run, "end")[0]["parameters_sha256"] == hashlib.sha256(content).hexdigest()


def test_the_start_record_says_where_with_what_and_how_large(make_trainer: Make, world: Any) -> None:
    from ddp.start import start_facts, start_text

    trainer = make_trainer(MLP)
    facts = start_facts(world, trainer)
    assert json.loads(json.dumps(facts)) == facts
    expected = {"world_size": 1, "num_nodes": 1, "model": "mlp", "data": "synthetic", "steps": 18}
    assert facts.items() >= expected.items()
    assert facts["parameters"] == 84 * 24 + 24 + 24 * 16 + 16 + 16 * 5 + 5
    assert facts["samples"] == {"train": 44, "test": 9}
    assert facts["threads_per_rank"] == jit.get_num_threads()
    assert facts["hosts"] == [world.host]
    assert len(facts["affinity"]) == 1
    assert {"versions", "cpu", "mpi_library", "git_revision"} <= set(facts)
    text = start_text(facts)
    assert "\n" not in text
    assert "44 training samples" in text


# --- Limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CNN, VGG], ids=["mnist_cnn", "vgg"])
def test_warm_up_leaves_everything_as_it_is(config: Config, make_trainer: Make) -> None:
    warm, cold = make_trainer(config), make_trainer(config)
    before = bits(warm)
    warm.warm_up()
    assert (bits(warm), warm.step) == (before, 0)
    for _ in range(2):
        warm.train_step()
        cold.train_step()
    assert bits(warm) == bits(cold)


def test_a_batch_larger_than_the_data_is_an_error(make_trainer: Make) -> None:
    with pytest.raises(ValueError, match=r"batch\.size = 45: synthetic has only 44 training samples; use at most 44"):
        make_trainer(change(MLP, "batch", size=45))


@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "mnist_cnn"])
def test_a_step_allocates_nothing_of_batch_or_parameter_size(config: Config, make_trainer: Make) -> None:
    config = change(change(config, "data", samples=2000, shape=(2, 12, 12), classes=10), "batch", size=256)
    trainer = make_trainer(config)
    trainer.train_step()  # the steps to come are of the same epoch: each epoch draws its permutation
    assert min(a.nbytes for a in (trainer.model.parameters, trainer.loader.buffer.inputs, trainer.loss.dy)) > 10_000
    was_enabled = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    tracemalloc.start()
    try:
        trainer.train_step()
        tracemalloc.reset_peak()
        held, counts = tracemalloc.get_traced_memory()[0], []
        for _ in range(4):
            before = rtsys.get_allocation_stats()
            trainer.train_step()
            after = rtsys.get_allocation_stats()
            counts.append((after.alloc - before.alloc, after.free - before.free))
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
        if not was_enabled:
            _nrt_python.memsys_disable_stats()
    assert peak < 5_000
    # Numba makes a small record of each array that a kernel is given, and must keep none.
    assert len(set(counts)) == 1
    assert counts[0][0] == counts[0][1]


@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "mnist_cnn"])
def test_the_number_of_threads_changes_no_bit(config: Config, make_trainer: Make) -> None:
    available = jit.get_num_threads()
    assert available >= 3, "set NUMBA_NUM_THREADS to 3 or more"
    results = set()
    try:
        for threads in (1, 2, 3):
            jit.set_num_threads(threads)
            trainer = make_trainer(config)
            assert trainer.threads == threads
            for _ in range(7):
                trainer.train_step()
            results.add((bits(trainer), trainer.loss_sum, trainer.grad_norm, trainer.evaluate()))
    finally:
        jit.set_num_threads(available)
    assert len(results) == 1


@pytest.mark.parametrize("lr", [1e30, 1e12])
def test_a_gradient_that_is_not_finite_stops_the_run(lr: float, make_trainer: Make) -> None:
    from ddp.comm.failure import NonFiniteError

    trainer = make_trainer(change(MLP, "optimizer", lr=lr))
    with pytest.raises(NonFiniteError, match=r"step \d+ has a NaN or an infinity; lower optimizer\.lr \(now 1"):
        trainer.train()
    assert 0 < trainer.step < 6
    assert np.isfinite(trainer.model.parameters).all()


def test_a_leaf_that_fits_no_scale_counts_as_infinite(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddp.comm.failure import NonFiniteError

    trainer = make_trainer(MLP)
    gradient = trainer.gradient
    monkeypatch.setattr(gradient.reducer, "finish", lambda: gradient.reports.largest.fill(np.inf))
    before = trainer.model.parameters.tobytes()
    with pytest.raises(NonFiniteError):
        trainer.train_step()
    assert trainer.model.parameters.tobytes() == before


def test_steps_that_are_not_finite_can_be_skipped(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    config = change(change(MLP, "optimizer", lr=1e30), "train", on_nonfinite="skip")
    trainer = make_trainer(change(config, "output", log_every=1))
    run = open_run(trainer, tmp_path)
    trainer.warm_up()
    trainer.train()
    assert trainer.step == 18
    assert np.isfinite(trainer.model.parameters).all()
    assert np.isfinite(trainer.optimizer.state["momentum"]).all()
    assert records(run, "step")[-1]["grad_norm"] is None


def test_a_skipped_step_changes_nothing(make_trainer: Make) -> None:
    trainer = make_trainer(change(MLP, "train", on_nonfinite="skip"))
    trainer.train_step()
    w = trainer.model.parameters.copy()
    trainer.model.parameters[0] = np.nan
    before = bits(trainer)
    trainer.train_step()
    assert (bits(trainer), trainer.step) == (before, 2)
    trainer.model.parameters[:] = w
    trainer.train_step()
    assert np.isfinite(trainer.model.parameters).all()
    assert not np.array_equal(trainer.model.parameters, w)


def test_a_loss_that_is_not_finite_stops_the_run(make_trainer: Make) -> None:
    """Targets whose squares overflow float32, with a gradient that does not."""
    config = change(change(REGRESSION, "data", coefficients=(1e25,)), "optimizer", lr=1e-30)
    with pytest.raises(NonFiniteError, match="the loss of step"):
        make_trainer(config).train()


def test_a_last_update_that_overflows_stops_the_run(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(change(change(MLP, "optimizer", weight_decay=1e30), "train", steps=1))
    trainer.model.parameters[0] = 1e30
    run = open_run(trainer, tmp_path)
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert not run.model.exists()


@pytest.mark.parametrize("config", [MLP, CNN, REGRESSION], ids=["mlp", "mnist_cnn", "polynomial"])
def test_everything_is_compiled_when_the_first_step_begins(config: Config, make_trainer: Make) -> None:
    """Else every rank would compile in the first step, and write the cache at once."""
    trainer = make_trainer(change(config, "output", noise_scale_every=1))
    trainer.warm_up()
    kernels = [kernel for module in kernel_modules() for kernel in vars(module).values() if is_kernel(kernel)]
    assert len(kernels) > 15
    before = {kernel: len(kernel.signatures) for kernel in kernels}
    trainer.train_step()
    trainer.evaluate()
    compiled = {kernel.__name__: len(kernel.signatures) - count for kernel, count in before.items()}
    # Others' tests may have compiled more, never less: what counts is that nothing was added here.
    assert not any(compiled.values()), compiled


def kernel_modules() -> list[Any]:
    names = [module.name for module in pkgutil.iter_modules(kernels_package.__path__)]
    return [importlib.import_module(f"ddp.kernels.{name}") for name in names]


def is_kernel(value: Any) -> bool:
    return isinstance(value, Dispatcher) and value.targetoptions.get("parallel", False)
