"""Evaluating and predicting with what a run has left: the same bits on any number of ranks, and those of NumPy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from launch.flavours import Flavour
from tests.system.jobs import TRAIN, Job, Start, records
from tests.system.test_errors import check_one_line

RANKS = (1, 2, 3)
EVALUATE = (sys.executable, "-m", "ddp.evaluate")
PREDICT = (sys.executable, "-m", "ddp.predict")
PLOT = (sys.executable, "-m", "ddp.plot")
DIGITS = Path(__file__).parents[2] / "ddp" / "data" / "digits"
RUNS = {
    "digits": ["--train.epochs", "1"],
    "images": ["--model.name", "vgg", "--data.name", "synthetic", "--data.shape", "[3,32,32]", "--data.samples", "70"],
    "points": ["--model.name", "polynomial", "--data.name", "polynomial", "--optimizer.momentum", "0"],
}


@pytest.fixture(scope="module")
def folder(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind, in runs/."""
    folder = tmp_path_factory.mktemp("after")
    for name, arguments in RUNS.items():
        short = [] if name == "digits" else ["--train.epochs", "2", "--batch.size", "16"]
        finished = start(2, *arguments, *short, "--output.name", name, cwd=folder).finish()
        assert finished.code == 0, finished.text
    return folder


def digits_test() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the embedded test images, read without the project."""
    import gzip

    pixels = np.frombuffer(gzip.decompress((DIGITS / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((DIGITS / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    return pixels.reshape(-1, 8, 8), labels


def mlp_probabilities(model: Path, pixels: np.ndarray) -> np.ndarray:
    """softmax(W2 ReLU(W1 ReLU(W0 x))) in float64."""
    state = load_file(model)
    x = (pixels.reshape(-1, 64) / 16.0 - 0.3058) / 0.3764
    for name in ("1.weight", "3.weight"):
        x = np.maximum(x @ state[name].T.astype(np.float64), 0)
    scores = np.exp(x @ state["5.weight"].T.astype(np.float64))
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", RUNS)
def test_an_evaluation_has_the_same_bits_on_any_number_of_ranks(name: str, start: Start, folder: Path) -> None:
    results, texts = set(), set()
    for ranks in RANKS:
        output = f"{name}-{ranks}.json"
        arguments = [f"runs/{name}", "--output", output]
        finished = start(ranks, *arguments, cwd=folder, program=EVALUATE).finish()
        assert (finished.code, finished.err) == (0, "")
        results.add((folder / output).read_bytes())
        texts.add(finished.out)
    assert len(results) == len(texts) == 1
    record, last = json.loads(results.pop()), [r for r in records(folder / "runs" / name) if r["event"] == "eval"][-1]
    assert {key: record[key] for key in ("samples", "loss")} == {key: last[key] for key in ("samples", "loss")}
    assert (record.get("accuracy"), record.get("rmse")) == (last.get("accuracy"), last.get("rmse"))


def test_an_evaluation_counts_what_numpy_counts(start: Start, folder: Path) -> None:
    finished = start(2, "runs/digits", "--output", "counts.json", cwd=folder, program=EVALUATE).finish()
    pixels, labels = digits_test()
    taken_for = mlp_probabilities(folder / "runs/digits/model.safetensors", pixels).argmax(axis=1)
    confusion = np.zeros((10, 10), int)
    for label, other in zip(labels, taken_for, strict=True):
        confusion[label, other] += 1
    record = json.loads((folder / "counts.json").read_text())
    assert record["confusion"] == confusion.tolist()
    assert record["class_accuracy"] == [confusion[label, label] / confusion[label].sum() for label in range(10)]
    assert record["accuracy"] == (labels == taken_for).sum() / len(labels)
    rows = [line.split() for line in finished.out.splitlines()]
    for label in range(10):
        assert [str(label), *map(str, confusion[label])] in rows
        assert any(row[:3] == [str(label), str(confusion[label].sum()), str(confusion[label, label])] for row in rows)


def test_predictions_have_the_same_bits_on_any_number_of_ranks(start: Start, folder: Path) -> None:
    pixels, _ = digits_test()
    np.save(folder / "digits.npy", pixels[:101])
    contents = set()
    for ranks in RANKS:
        arguments = ["runs/digits", "--input", "digits.npy", "--output", f"p{ranks}.npy"]
        finished = start(ranks, *arguments, cwd=folder, program=PREDICT).finish()
        assert (finished.code, finished.err) == (0, "")
        assert finished.out.startswith("101 samples by runs/digits/model.safetensors: ")
        contents.add((folder / f"p{ranks}.npy").read_bytes())
    assert len(contents) == 1
    found = np.load(folder / "p3.npy")
    assert found.dtype == np.float32
    expected = mlp_probabilities(folder / "runs/digits/model.safetensors", pixels[:101])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_more_ranks_than_samples(start: Start, folder: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (2, 3, 32, 32), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    arguments = ["runs/images", "--input", "images.npy", "--output", "few.npy"]
    finished = start(3, *arguments, cwd=folder, program=PREDICT).finish()
    assert finished.code == 0, finished.text
    np.testing.assert_allclose(np.load(folder / "few.npy").sum(axis=1), 1, rtol=1e-5)


def test_without_mpirun_a_regression_is_the_polynomial(folder: Path) -> None:
    x = np.linspace(-1, 1, 11, dtype=np.float32)
    np.save(folder / "x.npy", x)
    finished = Job([*PREDICT, "runs/points", "--input", "x.npy", "--output", "y.npy"], folder).finish()
    assert finished.code == 0, finished.text
    (weights,) = load_file(folder / "runs/points/model.safetensors").values()
    expected = np.polynomial.polynomial.polyval(x.astype(np.float64), weights[0].astype(np.float64))
    np.testing.assert_allclose(np.load(folder / "y.npy")[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_run_without_a_model_is_evaluated_at_its_newest_checkpoint(start: Start, folder: Path) -> None:
    shutil.copytree(folder / "runs" / "digits", folder / "runs" / "unfinished")
    (folder / "runs/unfinished/model.safetensors").unlink()
    finished = start(2, "runs/unfinished", cwd=folder, program=EVALUATE).finish()
    assert finished.code == 0, finished.text
    assert finished.out.startswith("runs/unfinished/checkpoints/step-00000023.safetensors on the 359 test samples")
    shutil.rmtree(folder / "runs/unfinished/checkpoints")
    finished = start(2, "runs/unfinished", cwd=folder, program=EVALUATE).finish()
    assert finished.code == 2, finished.text


DIFFERENT = """
import sys
from ddp import {module}
from ddp.session import Session

prepare, fault = Session.prepare, sys.argv.pop(1)

def planted(session, *settings):
    prepare(session, *settings)
    from ddp import predict, trained

    world, load, read = session.world, trained.load_trained, predict.read_array
    world.num_nodes = 2
    world.once_on_node = lambda action: action()  # as if each rank were a node
    if world.rank == 0:
        return

    def load_other(*arguments):
        model = load(*arguments)
        model.parameters[0] += 1
        return model

    if fault == "other checkpoints":
        trained.find_checkpoints = lambda folder: []
    if fault == "other parameters":
        trained.load_trained = load_other
    if fault == "other shape":
        predict.read_array = lambda path: read(path)[1:]
    if fault == "other bytes":
        predict.read_array = lambda path: read(path) ^ 1

Session.prepare = planted
sys.exit({module}.main())
"""
ASKED = {"evaluate": [], "predict": ["--input", "all.npy", "--output", "different.npy"]}


@pytest.mark.parametrize(
    ("module", "fault", "named"),
    [
        ("evaluate", "other parameters", "another set of parameters"),
        ("predict", "other parameters", "another set of parameters"),
        ("predict", "other shape", "another shape of --input"),
        ("predict", "other bytes", "another checksum of --input"),
    ],
)
def test_ranks_that_differ_predict_nothing(
    module: str, fault: str, named: str, start: Start, flavour: Flavour, folder: Path
) -> None:
    np.save(folder / "all.npy", digits_test()[0])
    program = [sys.executable, "-c", DIFFERENT.format(module=module)]
    check_one_line(start(2, fault, "runs/digits", *ASKED[module], cwd=folder, program=program), flavour, 2, [named])
    assert not (folder / "different.npy").exists()


@pytest.mark.parametrize("module", ASKED)
def test_all_ranks_take_the_checkpoint_that_one_finds(module: str, start: Start, folder: Path) -> None:
    """The run may write another while they look."""
    np.save(folder / "all.npy", digits_test()[0])
    shutil.copytree(folder / "runs" / "digits", folder / "runs" / module)
    (folder / "runs" / module / "model.safetensors").unlink()
    program = [sys.executable, "-c", DIFFERENT.format(module=module)]
    finished = start(2, "other checkpoints", f"runs/{module}", *ASKED[module], cwd=folder, program=program).finish()
    (folder / "different.npy").unlink(missing_ok=True)
    assert finished.code == 0, finished.text
    assert "step-00000023.safetensors" in finished.out


INTERRUPTED = """
import os, signal, sys
from ddp import {module}
from ddp.session import Session

compile_kernels = Session.compile

def planted(session, run_kernels):
    compile_kernels(session, run_kernels)
    if session.world.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)

Session.compile = planted
sys.exit({module}.main())
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("evaluate", ["--output", "cut.json"]), ("predict", ["--input", "all.npy", "--output", "cut.npy"])],
)
def test_a_signal_to_one_rank_ends_all(module: str, arguments: list[str], start: Start, folder: Path) -> None:
    np.save(folder / "all.npy", digits_test()[0])
    program = [sys.executable, "-c", INTERRUPTED.format(module=module)]
    job = start(2, "runs/digits", *arguments, cwd=folder, program=program)
    finished = job.finish()
    assert job.remaining() == []
    assert (finished.code, finished.out) == (75, "")
    assert finished.err.count("interrupted by a signal before the end of the") == 1
    assert not list(folder.glob("cut.*"))


def damage_model(folder: Path) -> None:
    path = folder / "runs/mine/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def change_config(folder: Path) -> None:
    path = folder / "runs/mine/config.toml"
    text = path.read_text()
    assert "    512,\n" in text
    path.write_text(text.replace("    512,\n", "    511,\n", 1))


MISTAKES = {
    "no such run": (EVALUATE, ["runs/other"], None, ["runs/other", "no such directory"]),
    "no run": (EVALUATE, ["runs"], None, ["runs: has no config.toml"]),
    "no argument": (EVALUATE, [], None, ["RUN", "--help"]),
    "unknown option": (EVALUATE, ["runs/mine", "--split", "x"], None, ["--split", "--help"]),
    "no data": (EVALUATE, ["runs/cloth", "--data.root", "nowhere"], None, ["nowhere", "--data.root"]),
    "damaged model": (EVALUATE, ["runs/mine"], damage_model, ["runs/mine/model.safetensors", "damaged"]),
    "another network": (EVALUATE, ["runs/mine"], change_config, ["runs/mine/model.safetensors", "(511, 64)"]),
    "no folder for the results": (EVALUATE, ["runs/mine", "--output", "a/b.json"], None, ["--output a/b.json"]),
    "no input": (
        PREDICT,
        ["runs/mine", "--input", "gone.npy", "--output", "p.npy"],
        None,
        ["gone.npy", "No such file"],
    ),
    "not an array": (
        PREDICT,
        ["runs/mine", "--input", "runs/mine/config.toml", "--output", "p.npy"],
        None,
        ["--input runs/mine/config.toml", "numpy.save"],
    ),
    "another shape": (
        PREDICT,
        ["runs/mine", "--input", "wide.npy", "--output", "p.npy"],
        None,
        ["(5, 8, 9)", "(N, 1, 8, 8)"],
    ),
    "another type": (PREDICT, ["runs/mine", "--input", "real.npy", "--output", "p.npy"], None, ["float64", "uint8"]),
    "pickled": (
        PREDICT,
        ["runs/mine", "--input", "objects.npy", "--output", "p.npy"],
        None,
        ["objects.npy", "numpy.save"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_once(mistake: str, start: Start, flavour: Flavour, folder: Path, tmp_path: Path) -> None:
    program, arguments, plant, named = MISTAKES[mistake]
    shutil.copytree(folder / "runs" / "digits", tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "cloth").mkdir()
    (tmp_path / "runs/cloth/config.toml").write_text('[data]\nname = "mnist"\n')
    np.save(tmp_path / "wide.npy", np.zeros((5, 8, 9), np.uint8))
    np.save(tmp_path / "real.npy", np.zeros((5, 8, 8)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    if plant is not None:
        plant(tmp_path)
    check_one_line(start(2, *arguments, cwd=tmp_path, program=program), flavour, 2, named)
    assert not list(tmp_path.glob("*.json")) + list(tmp_path.glob("p.npy"))


@pytest.mark.parametrize("program", [EVALUATE, TRAIN])
def test_no_place_for_compiled_kernels(program: Sequence[str], start: Start, flavour: Flavour, folder: Path) -> None:
    arguments = ["runs/digits"] if program is EVALUATE else ["--output.name", "nothing"]
    job = start(2, *arguments, cwd=folder, program=program, NUMBA_CACHE_DIR="/proc/nowhere")
    check_one_line(job, flavour, 2, ["/proc/nowhere", "NUMBA_CACHE_DIR"])


def test_curves_and_mistakes_are_drawn(folder: Path) -> None:
    arguments = ["runs/digits", "--output", "one.svg", "--misclassified", "mistakes.png"]
    without_mpi = "import sys; sys.modules['mpi4py'] = None; from ddp.plot import main; sys.exit(main())"
    finished = Job([sys.executable, "-c", without_mpi, *arguments], folder).finish()
    assert (finished.code, finished.out, finished.err) == (0, "one.svg\nmistakes.png\n", "")
    assert (folder / "one.svg").read_text().startswith("<?xml")
    assert (folder / "mistakes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "drawn"), [([], ["curves.png"]), (["--misclassified", "wrong.png"], ["wrong.png"])]
)
def test_only_what_is_asked_for_is_drawn(arguments: list[str], drawn: list[str], folder: Path, tmp_path: Path) -> None:
    finished = Job([*PLOT, str(folder / "runs" / "digits"), *arguments], tmp_path).finish()
    assert (finished.code, finished.out.split()) == (0, drawn)
    assert [path.name for path in tmp_path.glob("*.png")] == drawn


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runs/digits", "runs/other"], ["runs/other", "no such directory"]),
        (["runs/digits", "--output", "x.gif"], ["--output x.gif", ".png"]),
        (["runs/digits", "runs/images", "--misclassified", "x.png"], ["--misclassified x.png", "2 alone"]),
        (["runs/points", "--misclassified", "x.png"], ["runs/points", "regression"]),
    ],
)
def test_a_mistake_in_what_to_draw(arguments: list[str], named: list[str], flavour: Flavour, folder: Path) -> None:
    check_one_line(Job([*PLOT, *arguments], folder), flavour, 2, named)
