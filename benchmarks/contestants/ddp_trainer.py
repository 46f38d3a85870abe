"""This project's trainer: its own `train_step`, on its own generated data, with all that belongs to it."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants.task import LEARNING_RATE, MOMENTUM, SAMPLES, Task

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "": {},
    "direct": {"model": {"convolution": "direct"}},
    "float32 sums": {"comm": {"exact": False}},
}
"""What is configured besides the network, by section."""


class Contestant:
    """A trainer that is ready to step; built on all ranks at once."""

    def __init__(self, task: Task) -> None:
        """Join the world, generate the data, compile."""
        from ddp.comm import environment

        environment.prepare()
        from ddp import config
        from ddp.comm.world import World
        from ddp.data import load_dataset
        from ddp.kernels.jit import exclusive_cache
        from ddp.trainer import Trainer

        data = config.DataConfig(
            name="synthetic", shape=task.network.shape, samples=SAMPLES, classes=task.network.classes
        )
        world = World()
        self.trainer = Trainer(
            config.Config(
                model=config.ModelConfig(**task.network.model, **VARIANTS[task.variant].get("model", {})),
                comm=config.CommConfig(**VARIANTS[task.variant].get("comm", {})),
                data=data,
                batch=config.BatchConfig(size=task.batch),
                optimizer=config.OptimizerConfig(lr=LEARNING_RATE, momentum=MOMENTUM),
                train=config.TrainConfig(epochs=10**6),
            ),
            world,
            load_dataset(data, seed=0),
        )

        def compile_kernels() -> None:
            with exclusive_cache():
                self.trainer.warm_up()

        world.first_on_node(compile_kernels, self.trainer.warm_up)

    def run(self, steps: int) -> None:
        """Train."""
        for _ in range(steps):
            self.trainer.train_step()

    def facts(self) -> dict[str, Any]:
        """The peak of this rank's cores just now, and the network's operations."""
        from ddp.kernels.peak import measure_peak_gflops
        from ddp.observe import provenance

        return {
            "peak_gflops": measure_peak_gflops(),
            "flops_per_sample": self.trainer.model.flops(),
            "versions": provenance.versions(),
            "cpu": provenance.cpu_model(),
            "mpi_library": self.trainer.world.mpi_library(),
        }
