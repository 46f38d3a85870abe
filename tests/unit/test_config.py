"""The configuration: every field documented, every range checked, TOML that reads back."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp import config as module
from ddp.command_line import dump_toml, parse
from ddp.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    ScheduleConfig,
    TrainConfig,
    to_dict,
)
from ddp.config.optimizer import LEAST_EPS, MOST_PAST

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))

CHANGED = Config(
    seed=2**64 - 1,
    threads=3,
    model=ModelConfig(name="polynomial", degree=5, hidden=(), bias=True, dropout=False, convolution="direct", depth=16),
    data=DataConfig(
        name="polynomial",
        root='a "quoted" \\ path',
        shape=(3, 1, 9),
        coefficients=(1e-9,),
        noise=0.0,
    ),
    batch=BatchConfig(size=7, shards=3, accumulation=2),
    loss=module.LossConfig(reduction="sum"),
    optimizer=OptimizerConfig(
        name="lars",
        lr=1e-05,
        momentum=0.3,
        nesterov=True,
        trust_coefficient=0.1,
        rho=0.1,
        beta1=0.2,
        beta2=0.4,
        eps=0.5,
        weight_decay=1 / 3,
        decay_norm_and_bias=False,
        clip_norm=2.5,
    ),
    schedule=ScheduleConfig(
        name="multi_step",
        warmup_epochs=0.1,
        start_factor=0.25,
        final_factor=1e-3,
        step_epochs=2.5,
        milestones=(0.5, 3.0),
        gamma=1 / 3,
        power=2.0,
        pct_start=0.4,
    ),
    train=TrainConfig(epochs=0, steps=12, evaluate_every=0, on_nonfinite="skip"),
    comm=module.CommConfig(exact=False, reducer="naive", bucket_mb=0.25, check_every=7, timeout_s=1.5),
    checkpoint=CheckpointConfig(every_steps=4, every_epochs=0, keep=0, grace_s=2.5),
    output=OutputConfig(
        dir="elsewhere/",
        name="a-b.c",
        log_every=1,
        noise_scale_every=5,
        profile=True,
        trace=True,
        tensorboard=True,
    ),
)
COMPRESSED = Config(comm=module.CommConfig(compression="fp16"))
SCALED = Config(schedule=ScheduleConfig(base_batch=32, batch_scaling="sqrt"))
AUGMENTED = Config(data=DataConfig(crop_padding=1, flip=True, rotation=12.5))
FETCHED = Config(data=DataConfig(name="mnist", download=True))
NORMALISED = Config(data=DataConfig(name="npz", root="arrays.npz", mean=(0.5, 0.25), std=(2.0,)))
LOCAL = Config(comm=module.CommConfig(sync_every=7, reducer="flat"))


def documented_fields() -> Iterator[tuple[str, str, str | None]]:
    """Class, field, and the string literal that stands right under the field."""
    files = Path(inspect.getfile(module)).parent.glob("*.py")
    for node in [node for file in files for node in ast.parse(file.read_text()).body]:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    yield node.name, statement.target.id, following.value.value if is_text else None  # type: ignore


def test_every_field_is_documented() -> None:
    found = {(owner, name): text for owner, name, text in documented_fields()}
    classes = [Config, *(type(getattr(Config(), f.name)) for f in dataclasses.fields(Config) if f.name in SECTIONS)]
    assert len(classes) == 1 + len(SECTIONS)
    for owner in classes:
        for field in dataclasses.fields(owner):
            text = found[owner.__name__, field.name]
            if field.name in SECTIONS and owner is Config:
                assert type(getattr(Config(), field.name)).__doc__
            else:
                assert text, f"{owner.__name__}.{field.name} has no docstring"
                assert text.endswith(".")


SECTIONS = ["model", "data", "batch", "loss", "optimizer", "schedule", "train", "comm", "checkpoint", "output"]


RISING = "give rising epochs, above 0 and at most 1000000000"
RANGES = [
    (ModelConfig, {"degree": -1}, "model.degree = -1: use 0 to 1000"),
    (ModelConfig, {"hidden": (5, 0)}, "model.hidden = [5, 0]: every width must be 1 to 1000000000"),
    (DataConfig, {"samples": 0}, "data.samples = 0: use 1 to 1000000000"),
    (DataConfig, {"classes": 1}, "data.classes = 1: use 2 to 1000000000"),
    (DataConfig, {"shape": (1, 0, 4)}, "data.shape = [1, 0, 4]: every size must be 1 to 1000000000"),
    (ModelConfig, {"depth": 13}, "model.depth = 13: use 11 or 16"),
    (DataConfig, {"coefficients": ()}, "data.coefficients = []: give at least one coefficient, all finite"),
    (DataConfig, {"coefficients": (math.nan,)}, "data.coefficients = [nan]: give at least one coefficient, all finite"),
    *(
        (
            DataConfig,
            {"name": name, "download": True},
            f"data.download = true: data.name = {name} cannot be fetched, mnist, fashion_mnist, cifar10, cifar100 can;"
            " leave it out",
        )
        for name in ("digits", "npz", "npy", "synthetic", "polynomial")
    ),
    *(
        (
            DataConfig,
            {"name": name, field: (0.5, 0.25)},
            f"data.{field} = [0.5, 0.25]: data.name = {name} is normalised otherwise, only npz and npy by this;"
            " leave it out",
        )
        for name in ("digits", "fashion_mnist", "cifar10", "synthetic", "polynomial")
        for field in ("mean", "std")
    ),
    (DataConfig, {"noise": -0.5}, "data.noise = -0.5: use a finite number, 0 or more"),
    (DataConfig, {"noise": math.inf}, "data.noise = inf: use a finite number, 0 or more"),
    (BatchConfig, {"size": 0}, "batch.size = 0: a step needs at least 1 sample"),
    (BatchConfig, {"shards": 0}, "batch.shards = 0: use 1 or more"),
    (
        BatchConfig,
        {"size": 4, "shards": 5},
        "batch.shards = 5: more shards than the 4 samples of batch.size; use at most 4",
    ),
    (OptimizerConfig, {"lr": -1.0}, "optimizer.lr = -1.0: use a finite number, 0 or more"),
    (OptimizerConfig, {"lr": math.nan}, "optimizer.lr = nan: use a finite number, 0 or more"),
    (OptimizerConfig, {"lr": math.inf}, "optimizer.lr = inf: use a finite number, 0 or more"),
    (OptimizerConfig, {"momentum": 1.0}, "optimizer.momentum = 1.0: use 0 to 0.9999999"),
    (OptimizerConfig, {"momentum": -0.1}, "optimizer.momentum = -0.1: use 0 to 0.9999999"),
    (OptimizerConfig, {"weight_decay": -0.1}, "optimizer.weight_decay = -0.1: use a finite number, 0 or more"),
    (
        OptimizerConfig,
        {"nesterov": True, "momentum": 0.0},
        "optimizer.nesterov = true: needs optimizer.momentum above 0",
    ),
    (OptimizerConfig, {"rho": 1.0}, "optimizer.rho = 1.0: use 0 to 0.9999999"),
    (OptimizerConfig, {"beta1": -0.1}, "optimizer.beta1 = -0.1: use 0 to 0.9999999"),
    (OptimizerConfig, {"beta2": 1.0}, "optimizer.beta2 = 1.0: use 0 to 0.9999999"),
    *(
        (OptimizerConfig, {field: 0.99999999}, f"optimizer.{field} = 0.99999999: use 0 to 0.9999999")  # 1 in float32
        for field in ("momentum", "rho", "beta1", "beta2")
    ),
    *(
        (OptimizerConfig, {"eps": eps}, f"optimizer.eps = {eps}: use 0, or a finite number, 1e-37 or more")
        for eps in (-1e-8, 1e-50, math.inf)
    ),
    (
        OptimizerConfig,
        {"name": "adam", "nesterov": True},
        "optimizer.nesterov = true: is not of adam; use optimizer.name = sgd or lars",
    ),
    (OptimizerConfig, {"dampening": 1.0}, "optimizer.dampening = 1.0: use 0 to 0.9999999"),
    (
        OptimizerConfig,
        {"dampening": 0.5, "nesterov": True},
        "optimizer.dampening = 0.5: needs optimizer.name = sgd, and no optimizer.nesterov",
    ),
    (
        OptimizerConfig,
        {"name": "lars", "trust_coefficient": 0.0},
        "optimizer.trust_coefficient = 0.0: use a finite number above 0",
    ),
    (ScheduleConfig, {"warmup_epochs": -1.0}, "schedule.warmup_epochs = -1.0: use 0 to 1000000000"),
    (ScheduleConfig, {"warmup_epochs": math.inf}, "schedule.warmup_epochs = inf: use 0 to 1000000000"),
    (ScheduleConfig, {"start_factor": 1.5}, "schedule.start_factor = 1.5: use a share of the full rate, 0 to 1"),
    (ScheduleConfig, {"final_factor": -0.1}, "schedule.final_factor = -0.1: use a share of the full rate, 0 to 1"),
    (ScheduleConfig, {"step_epochs": math.nan}, "schedule.step_epochs = nan: use 0 to 1000000000"),
    (ScheduleConfig, {"name": "step"}, "schedule.name = step: step needs schedule.step_epochs above 0"),
    (
        ScheduleConfig,
        {"name": "multi_step"},
        "schedule.name = multi_step: multi_step needs schedule.milestones, such as [3, 6]",
    ),
    *(
        (ScheduleConfig, {"milestones": epochs}, f"schedule.milestones = {list(epochs)}: {RISING}")
        for epochs in [(3.0, 2.0), (2.0, 2.0), (0.0,), (1.0, math.inf), (math.nan,)]
    ),
    (ScheduleConfig, {"gamma": 0.0}, "schedule.gamma = 0.0: use a factor above 0, at most 1"),
    (ScheduleConfig, {"power": 0.0}, "schedule.power = 0.0: use a finite number above 0"),
    (ScheduleConfig, {"pct_start": 1.0}, "schedule.pct_start = 1.0: use a share between 0 and 1"),
    (
        ScheduleConfig,
        {"name": "one_cycle", "warmup_epochs": 1.0},
        "schedule.warmup_epochs = 1.0: one_cycle rises by itself; use 0, and schedule.pct_start for how long",
    ),
    (ScheduleConfig, {"base_batch": -1}, "schedule.base_batch = -1: use 0 to 1000000000"),
    (
        Config,
        {"schedule": ScheduleConfig(base_batch=64), "loss": module.LossConfig(reduction="sum")},
        "schedule.base_batch = 64: a loss that is summed over the batch scales the step by itself; use 0, or"
        " loss.reduction = mean",
    ),
    (TrainConfig, {"epochs": -1}, "train.epochs = -1: use 0 or more"),
    (TrainConfig, {"steps": -1}, "train.steps = -1: use 0 or more"),
    (TrainConfig, {"evaluate_every": -1}, "train.evaluate_every = -1: use 0 or more"),
    (module.CommConfig, {"check_every": -1}, "comm.check_every = -1: use 0 or more"),
    (module.CommConfig, {"timeout_s": 0.5}, "comm.timeout_s = 0.5: use 1 s or more, or 0 for never"),
    (module.CommConfig, {"timeout_s": math.nan}, "comm.timeout_s = nan: use 1 s or more, or 0 for never"),
    (module.CommConfig, {"timeout_s": math.inf}, "comm.timeout_s = inf: use 1 s or more, or 0 for never"),
    (
        module.CommConfig,
        {"compression": "bf16", "reducer": "sharded"},
        "comm.reducer = sharded: comm.compression = bf16 needs auto or flat; or use comm.compression = none",
    ),
    (module.CommConfig, {"sync_every": 0}, "comm.sync_every = 0: use 1 or more"),
    (
        module.CommConfig,
        {"sync_every": 4, "reducer": "dummy"},
        "comm.reducer = dummy: comm.sync_every = 4 needs auto or flat; or use comm.sync_every = 1",
    ),
    (
        module.CommConfig,
        {"sync_every": 4, "compression": "bf16"},
        "comm.compression = bf16: no gradients are sent with comm.sync_every = 4; use none, or comm.sync_every = 1",
    ),
    (CheckpointConfig, {"every_steps": -1}, "checkpoint.every_steps = -1: use 0 or more"),
    (CheckpointConfig, {"every_epochs": -1}, "checkpoint.every_epochs = -1: use 0 or more"),
    (CheckpointConfig, {"keep": -1}, "checkpoint.keep = -1: use 0 or more"),
    (CheckpointConfig, {"grace_s": 0.0}, "checkpoint.grace_s = 0.0: use a finite number of seconds, 0.1 or more"),
    (CheckpointConfig, {"grace_s": math.inf}, "checkpoint.grace_s = inf: use a finite number of seconds, 0.1 or more"),
    (OutputConfig, {"log_every": 0}, "output.log_every = 0: use 1 or more"),
    (OutputConfig, {"noise_scale_every": -1}, "output.noise_scale_every = -1: use 0 or more"),
    (
        Config,
        {"output": OutputConfig(noise_scale_every=2), "batch": BatchConfig(shards=1)},
        "output.noise_scale_every = 2: batch.shards = 1 has no noise between shards; use 2 shards or more, or 0",
    ),
    *(
        (
            Config,
            {"output": OutputConfig(noise_scale_every=2), "comm": comm},
            "output.noise_scale_every = 2: needs the gradients of all ranks: comm.sync_every = 1, and a comm.reducer"
            " other than dummy; or use 0",
        )
        for comm in (module.CommConfig(reducer="dummy"), module.CommConfig(sync_every=2))
    ),
    (
        Config,
        {"output": OutputConfig(noise_scale_every=2), "comm": module.CommConfig(compression="bf16")},
        "output.noise_scale_every = 2: needs the gradients as they are, not rounded: comm.compression = none; or use 0",
    ),
    (OutputConfig, {"name": "a/b"}, "output.name = 'a/b': use a single directory name, printable and without a slash"),
    (OutputConfig, {"name": ".."}, "output.name = '..': use a single directory name, printable and without a slash"),
    (Config, {"seed": -1}, "seed = -1: use 0 to 2**64 - 1"),
    (Config, {"seed": 2**64}, "seed = 18446744073709551616: use 0 to 2**64 - 1"),
    (Config, {"threads": -1}, "threads = -1: use 0 to 1024"),
    (
        Config,
        {"data": DataConfig(name="polynomial")},
        "data.name = polynomial: does not fit model.name = mlp; use polynomial for both or for neither",
    ),
]


@pytest.mark.parametrize(("section", "values", "message"), RANGES)
def test_a_value_out_of_range_is_one_line_with_field_value_and_fix(
    section: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        section(**values)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "values",
    [
        (BatchConfig, {"size": 1, "shards": 1}),
        (OptimizerConfig, {"lr": 0.0, "momentum": 0.0}),
        (OptimizerConfig, {"rho": MOST_PAST, "beta1": MOST_PAST, "beta2": MOST_PAST, "eps": LEAST_EPS}),
        (ModelConfig, {"hidden": (), "degree": 0}),
        (TrainConfig, {"epochs": 0, "steps": 0, "evaluate_every": 0}),
        (Config, {"seed": 2**64 - 1}),
    ],
)
def test_the_ends_of_ranges_are_accepted(values: tuple[type, dict[str, Any]]) -> None:
    section, fields = values
    assert dataclasses.asdict(section(**fields)).items() >= fields.items()


def test_the_ends_of_an_optimizers_factors_are_what_they_are_in_float32_too() -> None:
    assert np.float32(MOST_PAST) < 1
    assert np.float32(LEAST_EPS) >= np.finfo(np.float32).tiny


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3  # type: ignore[misc]


def test_to_dict_keeps_order_and_makes_lists() -> None:
    plain = to_dict(Config())
    assert list(plain) == ["seed", "threads", *SECTIONS]
    assert plain["model"]["hidden"] == [512, 512]
    assert list(plain["batch"]) == ["size", "shards", "accumulation"]


@pytest.mark.parametrize(
    "config",
    [Config(), CHANGED, COMPRESSED, LOCAL, SCALED, AUGMENTED, FETCHED, NORMALISED],
    ids=["default", "all-changed", "compressed", "local", "scaled", "augmented", "fetched", "normalised"],
)
def test_toml_reads_back_to_the_same_configuration(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(dump_toml(config))
    assert tomllib.loads(path.read_text()) == to_dict(config)
    assert parse(["--config", str(path)]).config == config


def test_the_changed_configuration_differs_in_every_field_that_has_a_choice() -> None:
    only = {("data", "samples"), ("data", "classes")}
    only |= {("optimizer", "dampening")}  # not with nesterov
    only |= {("comm", "compression"), ("comm", "sync_every")}  # which need another reducer
    only |= {("schedule", "base_batch"), ("schedule", "batch_scaling")}  # which need another reduction
    only |= {("data", "crop_padding"), ("data", "flip"), ("data", "rotation")}  # which need images
    only |= {("data", "download"), ("data", "mean"), ("data", "std")}  # which need files
    default, changed = to_dict(Config()), to_dict(CHANGED)
    same = {(s, f) for s in SECTIONS for f in default[s] if default[s][f] == changed[s][f]}
    assert same == only


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_in_configs_loads_and_says_how_to_run_it(path: Path) -> None:
    config = parse(["--config", str(path)]).config
    for section, fields in tomllib.loads(path.read_text()).items():
        assert to_dict(config)[section].items() >= fields.items()
    first, *rest = path.read_text().splitlines()
    assert first.startswith("# ")
    assert f"#   mpirun -n 2 python -m ddp.train --config configs/{path.name}" in rest


def test_there_are_files_in_configs() -> None:
    assert {"mlp", "mnist_cnn", "polynomial_gd", "polynomial_sgd", "vgg"} <= {path.stem for path in CONFIGS}


def test_sums_are_exact_only_where_nothing_forbids_it() -> None:
    assert module.CommConfig().sums_exactly
    assert not module.CommConfig(exact=False).sums_exactly
    assert not module.CommConfig(compression="bf16").sums_exactly
    assert not module.CommConfig(sync_every=2).sums_exactly
