"""What a run says of itself when it starts: where, with what, how large."""

from __future__ import annotations

from typing import Any

from ddp.comm.world import World
from ddp.observe import provenance
from ddp.trainer import Trainer


def start_facts(world: World, trainer: Trainer) -> dict[str, Any]:
    """The fields of the `start` record; collective."""
    threads = trainer.threads
    ranks = world.comm.gather((world.host, provenance.affinity()), root=0) or []
    return {
        "versions": provenance.versions(),
        "hosts": [host for host, _ in ranks],
        "cpu": provenance.cpu_model(),
        "mpi_library": world.mpi_library(),
        "world_size": world.size,
        "num_nodes": world.num_nodes,
        "threads_per_rank": threads,
        "affinity": [cores for _, cores in ranks],
        "git_revision": provenance.git_revision(),
        "model": trainer.config.model.name,
        "data": trainer.dataset.name,
        "parameters": trainer.model.num_parameters,
        "samples": {"train": len(trainer.dataset.train), "test": len(trainer.dataset.test)},
        "steps": trainer.total_steps,
    }


def start_text(facts: dict[str, Any]) -> str:
    """The same for a person, on one line; and a warning about idle ranks."""
    samples = facts["samples"]
    return (
        f"{facts['model']} ({facts['parameters']:,} parameters) on {facts['data']}"
        f" ({samples['train']:,} training samples, {samples['test']:,} test): {facts['world_size']} ranks x"
        f" {facts['threads_per_rank']} threads on {facts['num_nodes']} node(s), {facts['mpi_library']}"
    )
