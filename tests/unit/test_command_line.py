"""The command line: its surface, who wins, and what it says of mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ddp.command_line import Invocation, parse
from ddp.config import Config, ConfigError, to_dict

# What users' scripts rely on. Add here deliberately; remove or rename only with a changelog entry.
OPTIONS = """
    --help --config --print-config --resume --seed --threads
    --model.name --model.degree --model.hidden --model.bias --model.dropout --model.depth --model.convolution
    --data.name --data.root --data.shape --data.samples --data.classes --data.coefficients --data.noise
    --batch.size --batch.shards --batch.accumulation
    --loss.reduction
    --optimizer.name --optimizer.lr --optimizer.momentum --optimizer.nesterov --optimizer.weight_decay
    --optimizer.rho --optimizer.beta1 --optimizer.beta2 --optimizer.eps
    --optimizer.dampening --optimizer.trust_coefficient --optimizer.decay_norm_and_bias --optimizer.clip_norm
    --schedule.name --schedule.warmup_epochs --schedule.start_factor --schedule.final_factor --schedule.step_epochs
    --schedule.milestones --schedule.gamma --schedule.power --schedule.pct_start --schedule.base_batch
    --schedule.batch_scaling
    --train.epochs --train.steps --train.evaluate_every --train.on_nonfinite
    --comm.exact --comm.reducer --comm.bucket_mb --comm.compression --comm.sync_every --comm.check_every
    --comm.timeout_s
    --checkpoint.every_steps --checkpoint.every_epochs --checkpoint.keep --checkpoint.grace_s
    --output.dir --output.name --output.log_every --output.profile --output.trace
""".split()


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str, name: str = "some.toml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def error(*arguments: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(arguments)
    message = str(raised.value)
    assert "\n" not in message
    assert "<class" not in message
    return message


# --- The surface ------------------------------------------------------------------------------------


def test_without_arguments_everything_is_default() -> None:
    assert parse([]) == Invocation(Config())


def test_the_options_are_these(help_text: str) -> None:
    assert set(re.findall(r"^  (?:-h, )?(--[\w.-]+)", help_text, re.MULTILINE)) == set(OPTIONS)


def test_the_options_are_the_fields() -> None:
    fields = [f"--{s}.{f}" for s, v in to_dict(Config()).items() if isinstance(v, dict) for f in v]
    assert sorted(OPTIONS) == sorted(
        ["--help", "--config", "--print-config", "--resume", "--seed", "--threads", *fields]
    )


def test_help_heads_every_section_and_tells_every_default(help_text: str) -> None:
    for section, fields in to_dict(Config()).items():
        if not isinstance(fields, dict):
            assert re.search(rf"--{section} .*default: {fields}\)", help_text)
            continue
        assert re.search(rf"^\[{section}\] .*:$", help_text, re.MULTILINE)
        for name, default in fields.items():
            shown = f"({', '.join(map(str, default))})" if isinstance(default, list) else str(default)
            line = re.search(rf"^  --{section}\.{name} .*(?:\n    .*)*", help_text, re.MULTILINE)
            assert line, f"{section}.{name} is not in the help"
            assert f"default: {shown})" in line[0]


def test_help_does_not_offer_sections_as_options(help_text: str) -> None:
    assert not re.search(r"--(model|batch|output)\b[^.]", help_text)


def test_resume_and_print_config() -> None:
    assert parse(["--resume", "auto"]) == Invocation(Config(), resume="auto")
    assert parse(["--resume=a/b.safetensors"]).resume == "a/b.safetensors"
    assert parse(["--print-config"]) == Invocation(Config(), print_config=True)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--seed", "18446744073709551615"], "seed", 2**64 - 1),
        (["--model.hidden", "[64,32]"], "model.hidden", (64, 32)),
        (["--model.hidden", "[64, 32]"], "model.hidden", (64, 32)),
        (["--model.hidden", "[]"], "model.hidden", ()),
        (["--data.shape=[3,32,32]"], "data.shape", (3, 32, 32)),
        (["--data.coefficients", "[1,-2.5]"], "data.coefficients", (1.0, -2.5)),
        (["--model.bias", "true"], "model.bias", True),
        (["--model.dropout=false"], "model.dropout", False),
        (["--optimizer.lr", "1e-2"], "optimizer.lr", 0.01),
        (["--optimizer.lr", "1"], "optimizer.lr", 1.0),
        (["--output.name", "007"], "output.name", "007"),
        (["--output.name", "true"], "output.name", "true"),
        (["--output.dir", "/tmp/a b"], "output.dir", "/tmp/a b"),
        (["--data.root", ""], "data.root", ""),
    ],
)
def test_values_are_written_as_in_toml(arguments: list[str], field: str, value: object) -> None:
    found: Any = parse(arguments).config
    for name in field.split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


# --- Who wins ---------------------------------------------------------------------------------------


def test_command_line_beats_file_beats_default(toml: Any) -> None:
    path = toml("seed = 5\n[batch]\nsize = 32\nshards = 4\n[model]\nhidden = [7]\n")
    config = parse(["--config", path, "--batch.size", "16"]).config
    assert (config.batch.size, config.batch.shards, config.seed, config.model.hidden) == (16, 4, 5, (7,))
    assert config.optimizer == Config().optimizer


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_command_line_beats_file_wherever_it_stands(form: str, toml: Any) -> None:
    path = toml("[batch]\nsize = 32\nshards = 4\n")
    config = parse(["--batch.size", "16", *form.format(path).split(), "--batch.shards", "2"]).config
    assert (config.batch.size, config.batch.shards) == (16, 2)


def test_a_later_file_beats_an_earlier_one(toml: Any) -> None:
    first, second = toml("seed = 1\nthreads = 2", "first.toml"), toml("seed = 3", "second.toml")
    config = parse(["--config", first, f"--config={second}"]).config
    assert (config.seed, config.threads) == (3, 2)


def test_a_later_value_beats_an_earlier_one() -> None:
    assert parse(["--seed", "1", "--seed", "2"]).config.seed == 2


def test_ranges_are_checked_on_the_whole(toml: Any) -> None:
    path = toml("[batch]\nsize = 4\n")
    assert error("--config", path) == ("batch.shards = 8: more shards than the 4 samples of batch.size; use at most 4")
    assert parse(["--config", path, "--batch.shards", "4"]).config.batch.size == 4


# --- Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch.sise", "3"], "unknown field --batch.sise: did you mean batch.size?"),
        (["--batch.siz=3"], "unknown field --batch.siz=3: did you mean batch.size?"),
        (["--batchsize", "3"], "unknown field --batchsize: did you mean batch.size?"),
        (["--nosuch.momentum", "3"], "unknown field --nosuch.momentum: did you mean optimizer.momentum?"),
        (["--lr", "3"], "unknown field --lr: did you mean optimizer.lr?"),
        (["--sed", "3"], "unknown field --sed: did you mean seed?"),
        (["--zzz", "3"], "unknown field --zzz: see --help for the fields"),
        (["stray"], "unknown field stray: see --help for the fields"),
        (["--batch", "3"], "--batch: is a section; set its fields, such as --batch.size VALUE"),
        (["--model", '{"name": "mlp"}'], "--model: is a section; set its fields, such as --model.name VALUE"),
        (["--batch.size", "big"], "batch.size = big: expected an integer; see --help"),
        (["--batch.size", "1.5"], "batch.size = 1.5: expected an integer; see --help"),
        (["--optimizer.lr", "fast"], "optimizer.lr = fast: expected a finite number; see --help"),
        (["--optimizer.lr", "nan"], "optimizer.lr = nan: expected a finite number; see --help"),
        (["--model.bias", "maybe"], "model.bias = maybe: expected true or false; see --help"),
        (["--model.hidden", "5"], "model.hidden = 5: expected a list such as [1,2]; see --help"),
        (["--model.hidden", "[5,a]"], "model.hidden = [5,a]: expected a list such as [1,2]; see --help"),
        (["--data.shape", "[1,2]"], "data.shape = [1, 2]: expected a list of 3 elements; see --help"),
        (
            ["--model.name", "mpl"],
            "model.name = mpl: expected one of 'polynomial', 'mlp', 'mnist_cnn', 'vgg'; see --help",
        ),
        (["--batch.size"], "--batch.size: its value is missing; see --help"),
        (["--resume"], "--resume: its value is missing; see --help"),
        (["--batch.size", "0"], "batch.size = 0: a step needs at least 1 sample"),
        (
            ["--config", "no/such.toml"],
            "--config no/such.toml: no such file; give the path of a TOML file, such as configs/mlp.toml",
        ),
        (["--config"], "--config (empty): no such file; give the path of a TOML file, such as configs/mlp.toml"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_fix(arguments: list[str], message: str) -> None:
    assert error(*arguments) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[batch]\nsise = 3\n", "unknown field batch.sise: did you mean batch.size?"),
        ("[nosuch]\nmomentum = 3\n", "unknown field nosuch.momentum: did you mean optimizer.momentum?"),
        ("sead = 3\n", "unknown field sead: did you mean seed?"),
        ("resume = 'auto'\n", "unknown field resume: see --help for the fields"),
        ("print_config = true\n", "unknown field print_config: see --help for the fields"),
        ("batch = 3\n", "batch = 3: is a section; write [batch] above its fields"),
        ("[seed]\nx = 3\n", "unknown field seed.x: "),
        ("[batch\nsize = 3", "not valid TOML: Expected ']'"),
        ("[batch]\nsize = 1\nsize = 2\n", "not valid TOML: Cannot overwrite a value"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(text: str, message: str, toml: Any) -> None:
    path = toml(text)
    assert error("--config", path).startswith(f"--config {path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[batch]\nsize = 'big'\n", "batch.size = big: expected an integer"),
        ("[batch]\nsize = 1.5\n", "batch.size = 1.5: expected an integer"),
        ("[batch.size]\nx = 1\n", "batch.size = {'x': 1}: expected an integer"),
        ("[model]\nhidden = 5\n", "model.hidden = 5: expected a list such as [1,2]"),
        ("[model]\nbias = 1\n", "model.bias = 1: expected true or false"),
        ("[output]\nname = 5\n", "output.name = 5: expected a string"),
        ("[train]\nsteps = true\n", "train.steps = True: expected an integer"),
        ("[optimizer]\nlr = -1\n", "optimizer.lr = -1.0: use a finite number, 0 or more"),
        ("[optimizer]\nlr = inf\n", "optimizer.lr = inf: "),
        ("seed = -1\n", "seed = -1: use 0 to 2**64 - 1"),
    ],
)
def test_a_wrong_value_in_a_file_names_field_and_value(text: str, message: str, toml: Any) -> None:
    assert error("--config", toml(text)).startswith(message)


def test_a_directory_or_a_binary_file_is_no_configuration(tmp_path: Path) -> None:
    assert error("--config", str(tmp_path)).startswith(f"--config {tmp_path}: no such file")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x00\xff")
    assert "not valid TOML" in error("--config", str(tmp_path / "model.safetensors"))
