"""What a run says of itself when it starts: where, with what, how large."""

from __future__ import annotations

from typing import Any

from ddp.comm.world import World
from ddp.config import CommConfig
from ddp.observe import provenance
from ddp.trained import InputFormat
from ddp.trainer import Trainer


def start_facts(world: World, trainer: Trainer) -> dict[str, Any]:
    """The fields of the `start` record; collective."""
    threads = trainer.threads
    ranks = world.gather((world.host, provenance.affinity()), "facts of every rank")
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
        "inputs": InputFormat.of(trainer.dataset).to_record(),
        "parameters": trainer.model.num_parameters,
        "workspace_bytes": trainer.model.workspace_bytes(),
        "samples": {"train": len(trainer.dataset.train), "test": len(trainer.dataset.test)},
        "steps": trainer.total_steps,
    }


def start_text(facts: dict[str, Any]) -> str:
    """The same for a person, on one line."""
    samples = facts["samples"]
    return (
        f"{facts['model']} ({facts['parameters']:,} parameters) on {facts['data']}"
        f" ({samples['train']:,} training samples, {samples['test']:,} test): {_count(facts['world_size'], 'rank')} x"
        f" {_count(facts['threads_per_rank'], 'thread')} on {_count(facts['num_nodes'], 'node')},"
        f" {facts['mpi_library']}"
    )


def start_warnings(facts: dict[str, Any], num_shards: int, comm: CommConfig) -> list[str]:
    """What the user should know before waiting for results: sums that are not exact, idle ranks, shared cores."""
    warnings = []
    if comm.exact and not comm.sums_exactly:
        is_local = comm.sync_every > 1
        why = f"sync_every = {comm.sync_every} averages" if is_local else f"compression = {comm.compression} sums"
        warnings.append(
            f"comm.{why} in float32: comm.exact does not hold, the trained weights depend on the number of ranks"
        )
    size, threads = facts["world_size"], facts["threads_per_rank"]
    if size > num_shards:
        warnings.append(
            f"{size} ranks for {num_shards} logical shards: {size - num_shards} stay idle; use"
            f" --batch.shards {size}, or {num_shards} ranks"
        )
    narrow = [rank for rank, cores in enumerate(facts["affinity"]) if len(cores) < threads]
    if narrow:
        rank, cores = narrow[0], facts["affinity"][narrow[0]]
        others = f" (and {_count(len(narrow) - 1, 'other rank')})" if len(narrow) > 1 else ""
        warnings.append(
            f"rank {rank} on {facts['hosts'][rank]} runs {_count(threads, 'thread')} on {_count(len(cores), 'core')},"
            f" {_listed(cores)}{others}: its threads take turns; let mpirun bind {_count(threads, 'core')} a rank or"
            " none, as `python -m launch run` does"
        )
    for host in dict.fromkeys(facts["hosts"]):
        masks = [set(cores) for other, cores in zip(facts["hosts"], facts["affinity"], strict=True) if other == host]
        cores = len(set().union(*masks))
        if len(masks) * threads > cores:
            ranks = _count(len(masks), "rank")
            warnings.append(
                f"{ranks} x {_count(threads, 'thread')} share {_count(cores, 'core')} of {host}:"
                f" they take turns, and run slower than {_count(cores, 'rank')} would"
            )
            break
    return warnings


def _listed(cores: list[int]) -> str:
    return ", ".join(map(str, cores))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
