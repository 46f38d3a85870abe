"""Each layer's passes alone, on one core: how near to the peak, and against NumPy doing the same.

    python -m benchmarks.kernels --repeats 7 --write docs/performance.md

Products (linear, convolution) are compared with NumPy's BLAS at the product of the same size. For a
convolution that is the product alone: BLAS also needs the image copied into a matrix first, or the result
added back into an image (im2col, col2im), which are *not* timed. Everything else moves memory, and is
compared with NumPy copying as many bytes. In every round each kernel and its rival take turns, of which the
fastest call counts, as it does for the peak, which is measured anew: neighbours on a shared machine make
calls slower, never faster.
"""

from __future__ import annotations

import os

for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # read when NumPy and Numba are loaded, which the imports below do

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks.networks import NETWORKS, Network  # noqa: E402
from benchmarks.report import add_report_options, report, spread  # noqa: E402
from ddp import nn  # noqa: E402
from ddp.config import ModelConfig, OptimizerConfig  # noqa: E402
from ddp.kernels.peak import measure_peak_gflops  # noqa: E402
from ddp.kernels.types import Addends  # noqa: E402
from ddp.kernels.update import make_blocks  # noqa: E402
from ddp.models import build_model  # noqa: E402
from ddp.observe import provenance  # noqa: E402
from ddp.optim import build_optimizer  # noqa: E402

TURN_S = 0.02
SHARDS = 8


@dataclass(frozen=True)
class Case:
    """A kernel to be measured: `work` counts operations of a product, else bytes."""

    network: str
    layer: str
    name: str
    is_product: bool
    work: float
    run: Callable[[], Any]
    rival: Callable[[], Any]


def product(layer: Any, name: str, batch: int) -> Callable[[], Any]:
    """BLAS computing what a pass of a linear layer or a convolution computes, the image given as a matrix."""
    pixels = batch * int(np.prod(layer.shape[:-1]))
    weight = next(spec for spec in layer.parameter_specs() if spec.name == "weight")
    inner, columns = weight.fan_in, layer.shape[-1]
    a, b, c = (np.ones(shape, np.float32) for shape in ((pixels, inner), (inner, columns), (pixels, columns)))
    operands = {"forward": (a, b, c), "backward_weight": (a.T, c, b), "backward_input": (c, b.T, a)}[name]
    return lambda: np.matmul(operands[0], operands[1], out=operands[2])


def copy(num_bytes: int) -> Callable[[], Any]:
    """NumPy reading and writing so many bytes in all."""
    source = np.ones(max(1, num_bytes // 2), np.uint8)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


def layer_cases(network: str, model: nn.Sequential, shape: tuple[int, int, int], batch: int) -> Iterator[Case]:
    """Every pass that training computes, of every layer, on the data that it meets there; of equal ones the first."""
    seen = set()
    generator = np.random.default_rng(0)
    model.build(shape, batch)
    draws, shards = nn.Draws(0, 0, np.arange(batch)), np.linspace(0, batch, SHARDS + 1).astype(np.int64)
    x = generator.standard_normal((batch, *model.layers[0].input_shape), np.float32)
    inputs, gradients = [], []
    for layer in model.layers:
        inputs.append(x)
        x = layer.forward(x, True, draws)
    dy = generator.standard_normal(x.shape, np.float32)
    for layer in reversed(model.layers):
        gradients.insert(0, dy)
        dy = layer.backward(dy, shards, True)
    for layer, x, dy in zip(model.layers, inputs, gradients, strict=True):
        arguments: dict[str, tuple[Any, ...]] = {
            "forward": (x, True, draws),
            "backward": (dy, shards, True),
            "backward_weight": (dy, shards),
            "backward_input": (dy,),
        }
        for name in layer.passes:
            if name == "backward_input" and layer.is_first:
                continue
            method, given = getattr(layer, name), arguments[name]
            result = method(*given)
            if result is not None and np.may_share_memory(result, given[0]):
                continue  # a mere change of shape, or a neighbour does it
            is_product = layer.pass_flops() > 0
            work = layer.pass_flops() * batch if is_product else x.nbytes + layer_output_bytes(layer, batch)
            rival = product(layer, name, batch) if is_product else copy(work)
            sizes = " to ".join("x".join(map(str, shape)) for shape in (layer.input_shape, layer.shape))
            label = f"{type(layer).__name__} {sizes}"
            if (label, name) in seen:
                continue
            seen.add((label, name))
            yield Case(network, label, name, is_product, work, lambda m=method, g=given: m(*g), rival)


def layer_output_bytes(layer: Any, batch: int) -> int:
    """Bytes of a layer's float32 output."""
    return 4 * batch * int(np.prod(layer.shape))


OPTIMIZERS = {
    "SGD with momentum": (OptimizerConfig(), 5),
    "LARS": (OptimizerConfig(name="lars"), 7),
    "AdaDelta": (OptimizerConfig(name="adadelta"), 7),
    "Adam": (OptimizerConfig(name="adam"), 7),
    "LAMB": (OptimizerConfig(name="lamb"), 10),
}
"""Each with the floats that it must read and write for a parameter: those of layer-wise rates read some twice."""


def update_cases(network: str, model: nn.Sequential) -> Iterator[Case]:
    """What is done once a step to all parameters."""
    size = model.num_parameters
    buffers = model.parameters, Addends(model.gradient_sums[np.newaxis]), make_blocks(model.parameter_slices.values())
    for name, (config, floats) in OPTIMIZERS.items():
        optimizer = build_optimizer(config, *buffers)
        run: Callable[[], Any] = lambda step=optimizer.step: step(1e-9, 1.0)  # noqa: E731
        size_of_all = 4 * floats * size
        yield Case(network, f"{size:,} parameters", name, False, size_of_all, run, copy(size_of_all))


def cases(networks: tuple[Network, ...], batch: int) -> Iterator[Case]:
    """Everything that is measured."""
    for network in networks:
        model = build_model(ModelConfig(**network.model), network.shape, network.classes, 0, exact=True)
        yield from layer_cases(network.name, model, network.shape, batch)
        yield from update_cases(network.name, model)


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    """Of the fastest of so many calls."""
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of the kernel and of its rival, and the peak in GFLOP/s, in each of the rounds."""
    calls = {run: max(2, round(TURN_S / seconds_of(run, 2))) for run in (case.run, case.rival)}
    rounds = [
        (seconds_of(case.run, calls[case.run]), seconds_of(case.rival, calls[case.rival]), measure_peak_gflops())
        for _ in range(repeats)
    ]
    names = "network", "layer", "name", "is_product", "work"
    columns = dict(zip(("seconds", "rival_seconds", "peak_gflops"), map(list, zip(*rounds, strict=True)), strict=True))
    return {name: getattr(case, name) for name in names} | columns


def row(result: dict[str, Any]) -> str:
    """A table's row: for products GFLOP/s and the fraction of peak, else GB/s; both against the rival."""
    rates = [result["work"] / seconds / 1e9 for seconds in result["seconds"]]
    faster = [rival / ours for rival, ours in zip(result["rival_seconds"], result["seconds"], strict=True)]
    work = f"{result['work'] / 1e6:,.{1 if result['work'] < 1e8 else 0}f}"
    cells = [result["network"], result["layer"], result["name"], work, spread(rates, 1)]
    if result["is_product"]:
        shares = [rate / peak for rate, peak in zip(rates, result["peak_gflops"], strict=True)]
        cells.append(f"{statistics.median(shares):.2f}")
    return f"| {' | '.join([*cells, spread(faster, 2)])} |"


def table(results: dict[str, Any]) -> str:
    """All results as Markdown: the products, then what moves memory."""
    rounds = len(results["kernels"][0]["seconds"])
    return "\n".join(
        [
            "| network | layer | pass | MFLOP | GFLOP/s: median (min to max) | fraction of peak | against BLAS |",
            "|---|---|---|---|---|---|---|",
            *(row(result) for result in results["kernels"] if result["is_product"]),
            "",
            "| network | layer | pass | MB | GB/s: median (min to max) | against a copy of as many bytes |",
            "|---|---|---|---|---|---|",
            *(row(result) for result in results["kernels"] if not result["is_product"]),
            "",
            f"Batches of {results['batch']} samples in {SHARDS} shards, float32, one core of {results['cpu']};"
            f" {rounds} rounds, ratios round by round, more than 1 is faster. BLAS has no im2col to do here."
            f" Numba {results['versions']['numba']}, NumPy {results['versions']['numpy']}.",
        ]
    )


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(network.name for network in NETWORKS)
    parser.add_argument("--networks", default=names, help="separated by commas (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: %(default)s)")
    add_report_options(parser, "kernels")
    options = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        chosen = tuple(network for network in NETWORKS if network.name in options.networks.split(","))
        kernels = [measure(case, options.repeats) for case in cases(chosen, options.batch)]
        about = {"batch": options.batch, "cpu": provenance.cpu_model(), "versions": provenance.versions()}
        return {**about, "kernels": kernels}

    report(options, "benchmarks.kernels", measure_all, table)


if __name__ == "__main__":
    main()
