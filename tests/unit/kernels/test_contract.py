"""What every kernel promises beyond its values.

The same bits for any number of threads and for any neighbours in the batch; and no allocation. Run as a program, this
file prints a digest of every kernel's results for 1, 2 and 3 threads.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from ddp.kernels import (
    adadelta,
    adam,
    augment,
    batchnorm,
    compress,
    conv2d,
    decode,
    dropout,
    flatten,
    linear,
    panel,
    pool,
    powers,
    relu,
    sgd,
    shuffle,
    softmax,
    squared_error,
    update,
    winograd,
    winograd_weight,
)
from ddp.kernels.jit import set_num_threads
from ddp.kernels.panel import make_panels
from ddp.kernels.shard_sum import sum_shards
from ddp.kernels.update import make_blocks as make_update_blocks
from ddp.kernels.winograd_workspace import make_blocks, make_chunks

GENERATOR = np.random.default_rng(0)
WORDS = np.array([1, 2, 3, 2**31], np.uint64)
SHARDS = np.array([0, 3, 3, 5, 7])
SCALE, HALF, BLOCKS = np.float32(2**20), np.float32(0.5), make_update_blocks([slice(0, 7000), slice(7000, 10_007)])
THREADS = 16
BATCH, NUMBERS = 7, 10_007  # prime, so that threads and vector lanes never divide them


def f(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def i(*shape):
    return np.full(shape, 7, np.int32)


def largest():
    """Of each thread, so the only output that the threads may change; what counts is the largest of them."""
    return np.zeros(THREADS, np.int64)


def words(*shape):
    """None of them a NaN."""
    return GENERATOR.integers(0, 100, shape).astype(np.uint16)


def d(*shape):
    return f(*shape).astype(np.float64)


def labels():
    return GENERATOR.integers(0, 10, BATCH)


def pixels(width, channels):
    return conv2d.locate_pixels((9, 17), width, channels)


def panels(*sizes):
    """Weights of 3x3 filters in panels."""
    return f(*make_panels(3, *sizes).shape)


def blocks(m, *channels):
    """Workspaces of five patches for three workers."""
    return make_blocks(m, *channels, 3, 5)


# Shapes other than the batch differ from 7 and 10007. Kernels of the first table act on each index of
# the arrays' first axis alone; those of the second combine them.
BY_SAMPLE = [
    (linear.linear_forward, lambda: (f(BATCH, 37), f(37, 19), f(19), True, f(BATCH, 19))),
    (linear.linear_backward_input, lambda: (f(BATCH, 19), f(37, 19), f(BATCH, 37), f(BATCH, 37))),
    (
        conv2d.conv2d_forward,
        lambda: (f(BATCH, 11, 19, 3), panels(3, 18), pixels(19, 3), f(18), True, f(BATCH, 9, 17, 18)),
    ),
    (
        conv2d.conv2d_backward_input,
        lambda: (f(BATCH, 11, 19, 18), panels(18, 5), pixels(19, 18), f(BATCH, 9, 17, 5), f(BATCH, 9, 17, 5)),
    ),
    (
        winograd.winograd_forward,
        lambda: (f(BATCH, 9, 11, 3), 1, panels(3, 18), f(18), True, blocks(4, 3, 18), f(BATCH, 9, 11, 18)),
    ),
    (
        winograd.winograd_backward_input,
        lambda: (
            f(BATCH, 9, 11, 3),
            0,
            panels(3, 18),
            f(BATCH, 11, 13, 18),
            blocks(2, 3, 18),
            f(BATCH, 11, 13, 18),
        ),
    ),
    (conv2d.pad_image, lambda: (f(BATCH, 9, 8, 5), 2, f(BATCH, 13, 12, 5))),
    (relu.relu_forward, lambda: (f(NUMBERS), f(NUMBERS))),
    (relu.relu_backward, lambda: (f(NUMBERS), f(NUMBERS), f(NUMBERS))),
    (
        dropout._dropout,
        lambda: (f(BATCH, 37), *WORDS[:3], np.arange(BATCH), WORDS[3], np.float32(2), f(BATCH, 37)),
    ),
    (dropout.dropout_relu_backward, lambda: (f(NUMBERS), f(NUMBERS), np.float32(2), f(NUMBERS))),
    (
        pool.max_pool2d_forward,
        lambda: (f(BATCH, 9, 8, 18), 2, True, f(BATCH, 4, 4, 18), np.zeros((BATCH, 4, 4, 18), np.uint8)),
    ),
    (
        pool.max_pool2d_backward,
        lambda: (f(BATCH, 4, 4, 18), np.ones((BATCH, 4, 4, 18), np.uint8), 2, f(BATCH, 9, 8, 18)),
    ),
    (flatten.flatten_forward, lambda: (f(BATCH, 5, 4, 18), f(BATCH, 360))),
    (flatten.flatten_backward, lambda: (f(BATCH, 360), f(BATCH, 5, 4, 18))),
    (softmax.softmax_forward, lambda: (f(BATCH, 10), f(BATCH, 10))),
    (softmax.softmax_backward, lambda: (f(BATCH, 10), f(BATCH, 10), f(BATCH, 10))),
    (softmax.cross_entropy_forward, lambda: (np.abs(f(BATCH, 10)), labels(), f(BATCH))),
    (softmax.cross_entropy_backward, lambda: (f(BATCH, 10), labels(), f(BATCH, 10))),
    (softmax.softmax_cross_entropy, lambda: (f(BATCH, 10), labels(), f(BATCH), f(BATCH, 10))),
    (squared_error.squared_error, lambda: (f(BATCH, 37), f(BATCH, 37), f(BATCH), f(BATCH, 37))),
    (powers.powers_forward, lambda: (f(BATCH, 1), f(BATCH, 5))),
    (powers.powers_backward, lambda: (f(BATCH, 1), f(BATCH, 5), f(BATCH, 1))),
]
OVER_SAMPLES = [
    (
        linear.linear_backward_weight,
        lambda: (f(BATCH, 37), f(BATCH, 19), SHARDS, SCALE, i(37, 19), largest()),
    ),
    (linear.linear_backward_bias, lambda: (f(BATCH, 83), SHARDS, SCALE, i(83), largest())),
    (
        conv2d.conv2d_backward_weight,
        lambda: (
            f(BATCH, 11, 10, 5),
            f(BATCH, 9, 8, 18),
            conv2d.locate_taps(3, 10, 5),
            SHARDS,
            conv2d.make_leaves(45, 18, 3),
            SCALE,
            i(3, 3, 5, 18),
            largest(),
        ),
    ),
    (
        winograd_weight.winograd_backward_weight,
        lambda: (
            f(BATCH, 9, 11, 20),
            1,
            f(BATCH, 9, 11, 50),
            SHARDS,
            (16, 16),
            make_chunks(4, (16, 16), 3, np.int32, 5),
            SCALE,
            i(3, 3, 20, 50),
            largest(),
        ),
    ),
    (panel.pack_weight, lambda: (f(3, 3, 5, 18), panels(5, 18))),
    (panel.turn_weight, lambda: (f(3, 3, 5, 18), panels(18, 5))),
]
# Rows of four shards, in parts of three rows; P parts.
ROWS, ROW_SHARDS = 41, np.array([0, 12, 12, 13, 41])
PARTS = np.array([[n, min(n + 3, end), shard, end - start] for shard, (start, end) in enumerate(
    itertools.pairwise(ROW_SHARDS.tolist())) for n in range(start, end, 3)])  # fmt: skip
FIRST_PARTS = np.searchsorted(PARTS[:, 2], np.arange(5)).astype(np.int64)
P = len(PARTS)
BATCHNORM = [
    (batchnorm.batchnorm_forward_sums, lambda: (f(ROWS, 131), PARTS, d(P, 2, 131))),
    (
        batchnorm.batchnorm_statistics,
        lambda: (d(P, 2, 131), PARTS, FIRST_PARTS, 1e-5, d(4, 131), f(4, 131), f(4, 131)),
    ),
    (
        batchnorm.batchnorm_normalise,
        lambda: (f(ROWS, 131), PARTS, f(131), f(131), d(4, 131), f(4, 131), True, f(ROWS, 131)),
    ),
    (
        batchnorm.batchnorm_backward_sums,
        lambda: (f(ROWS, 131), f(ROWS, 131), PARTS, d(4, 131), d(P, 2, 131)),
    ),
    (
        batchnorm.batchnorm_gradients,
        lambda: (d(P, 2, 131), FIRST_PARTS, f(4, 131), f(4, 131), f(4, 131)),
    ),
    (
        batchnorm.batchnorm_backward_input,
        lambda: (
            *(f(ROWS, 131), f(ROWS, 131), PARTS, f(131)),
            *(d(4, 131), f(4, 131), f(4, 131), f(4, 131)),
            *(True, f(ROWS, 131)),
        ),
    ),
]
STORED = GENERATOR.integers(0, 256, (13, 3, 9, 17), dtype=np.uint8)
CHOSEN = (GENERATOR.integers(0, 13, BATCH), GENERATOR.permutation(BATCH))
OTHERS = [
    (decode.decode, lambda: (*CHOSEN, STORED.reshape(13, 3, 153), f(3), f(3), f(BATCH, 3, 153))),
    (shuffle._draw_keys, lambda: (*WORDS[:3], np.zeros(NUMBERS, np.uint64))),
    (
        augment._augment,
        lambda: (*CHOSEN, STORED, 100, *WORDS[:3], 2, True, 0.5, f(3), f(3), f(BATCH, 3, 9, 17)),
    ),
    (
        augment._augment,
        lambda: (*CHOSEN, STORED, 100, *WORDS[:3], 2, True, 0.0, f(3), f(3), f(BATCH, 3, 9, 17)),
    ),
    (sum_shards, lambda: (f(BATCH), SHARDS, d(4))),
    (
        sgd.sgd_update,
        lambda: (
            *(f(NUMBERS), f(3, NUMBERS), 1, 0, f(NUMBERS), BLOCKS, *(SCALE * f(4, 2)), SCALE, True),
            *(d(len(BLOCKS), update.LANES), d(len(BLOCKS))),
        ),
    ),
    (
        adadelta.adadelta_update,
        lambda: (
            *(f(NUMBERS), f(3, NUMBERS), 1, 0, *np.abs(f(2, NUMBERS)), BLOCKS, *(SCALE * f(2, 2))),
            *(SCALE, HALF, HALF, HALF, d(len(BLOCKS), update.LANES), d(len(BLOCKS))),
        ),
    ),
    *[
        (
            adam.adam_update,
            lambda flags=flags: (
                *(f(NUMBERS), f(3, NUMBERS), 1, 0, f(NUMBERS), np.abs(f(NUMBERS)), BLOCKS, *(SCALE * f(4, 2))),
                *(HALF, HALF, HALF, HALF, SCALE, HALF, HALF, *flags),
                *(d(len(BLOCKS), update.LANES), d(len(BLOCKS)), d(len(BLOCKS))),
            ),
        )
        for flags in ((True, True), (True, False), (False, True))
    ],
    (update.square_blocks, lambda: (f(NUMBERS), BLOCKS, d(len(BLOCKS), update.LANES), d(len(BLOCKS)))),
    (compress.compress, lambda: (f(NUMBERS), f(NUMBERS), BLOCKS, True, words(NUMBERS + len(BLOCKS)))),
    (compress.expand_sum, lambda: (words(3, NUMBERS + len(BLOCKS)), BLOCKS, True, f(NUMBERS))),
    (
        update.add_up,
        lambda: (f(3, NUMBERS), 1, 0, BLOCKS, SCALE * f(2), d(len(BLOCKS), update.LANES), d(len(BLOCKS))),
    ),
    (update.add_part, lambda: (f(NUMBERS), False, f(NUMBERS))),
]
CALLS = [*BY_SAMPLE, *OVER_SAMPLES, *BATCHNORM, *OTHERS]
KERNELS = [pytest.param(*call, id=call[0].__name__) for call in CALLS]


def copies(arguments):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


def flat(arguments):
    """Those in tuples too, which are workspaces."""
    return [item for a in arguments for item in (a if isinstance(a, tuple) else (a,))]


def digest(arguments):
    arrays = [a for a in flat(arguments) if isinstance(a, np.ndarray)]
    return hashlib.sha256(b"".join((a.max() if a.shape == (THREADS,) else a).tobytes() for a in arrays)).hexdigest()


def print_digests():
    for kernel, make in CALLS:
        original = make()
        for threads in 1, 2, 3:
            set_num_threads(threads)
            arguments = copies(original)
            kernel(*arguments)
            print(kernel.__name__, threads, digest(arguments))


def test_results_do_not_depend_on_the_number_of_threads():
    environment = os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == 3 * len(KERNELS)
    assert {threads for _, threads, _ in lines} == {"1", "2", "3"}
    differing = [lines[i][0] for i in range(0, len(lines), 3) if len({d for *_, d in lines[i : i + 3]}) > 1]
    assert differing == []


@pytest.mark.parametrize(("kernel", "make"), KERNELS[: len(BY_SAMPLE)])
def test_a_sample_does_not_depend_on_its_neighbours(kernel, make):
    original = make()
    together, batch = copies(original), len(original[0])
    kernel(*together)
    for part in slice(0, 1), slice(1, 4), slice(4, batch):
        alone = copies(original)
        for index, a in enumerate(alone):
            if isinstance(a, np.ndarray) and len(a) == batch:
                alone[index] = np.ascontiguousarray(a[part])
        kernel(*alone)
        for whole, own in zip(together, alone, strict=True):
            if isinstance(whole, np.ndarray) and len(whole) == batch:
                assert whole[part].tobytes() == own.tobytes()


@pytest.mark.parametrize(("kernel", "make"), [call for call in OVER_SAMPLES if "backward" in call[0].__name__])
def test_a_shard_gives_the_same_bits_wherever_it_is_computed(kernel, make):
    """All shards in one sweep, and each by itself: the sums of integers, and the largest leaves, are the same."""
    *inputs, together, found = make()
    kernel(*inputs, together, found)
    total, leaves = np.zeros_like(together), []
    for first, last in itertools.pairwise(SHARDS):
        alone = [np.array([0, last - first]) if a is SHARDS else a for a in inputs]
        alone = [a[first:last].copy() if isinstance(a, np.ndarray) and len(a) == BATCH else a for a in alone]
        part = np.full_like(together, 7)
        of_part = largest()
        kernel(*alone, part, of_part)
        leaves.append(np.int32(of_part.max()).view(np.float32))
        assert np.rint(leaves[-1]) == np.abs(part).max()
        total += part
    assert total.tobytes() == together.tobytes()
    assert np.int32(found.max()).view(np.float32) == max(leaves)


def normalised(x, dy, gamma, beta, shards):
    """Both directions of batch normalisation: by rows, then by shards."""
    parts, first_parts = batchnorm.cut_shards(shards, x.shape[1])
    y, dx, sums = np.empty_like(x), np.empty_like(x), np.empty((len(parts), 2, x.shape[1]))
    variance, inv_std, dgamma, dbeta = np.empty((4, len(shards) - 1, x.shape[1]), np.float32)
    mean = np.empty(variance.shape)
    batchnorm.batchnorm_forward_sums(x, parts, sums)
    batchnorm.batchnorm_statistics(sums, parts, first_parts, 1e-5, mean, variance, inv_std)
    batchnorm.batchnorm_normalise(x, parts, gamma, beta, mean, inv_std, True, y)
    batchnorm.batchnorm_backward_sums(x, dy, parts, mean, sums)
    batchnorm.batchnorm_gradients(sums, first_parts, inv_std, dgamma, dbeta)
    batchnorm.batchnorm_backward_input(x, dy, parts, gamma, mean, inv_std, dgamma, dbeta, True, dx)
    return (y, dx), (mean, variance, inv_std, dgamma, dbeta)


@pytest.mark.parametrize("part", [1, 600, batchnorm.PART])
def test_a_shard_is_normalised_alike_wherever_it_is_computed(part, monkeypatch):
    """All shards in one sweep, and each by itself: activations, statistics and leaf gradients have the same bits."""
    monkeypatch.setattr(batchnorm, "PART", part)
    x, dy, gamma, beta = f(ROWS, 131), f(ROWS, 131), f(131), f(131)
    rows, leaves = normalised(x, dy, gamma, beta, ROW_SHARDS)
    for shard, (first, last) in enumerate(itertools.pairwise(ROW_SHARDS)):
        own_rows, own_leaves = normalised(x[first:last], dy[first:last], gamma, beta, np.array([0, last - first]))
        assert all(a[first:last].tobytes() == b.tobytes() for a, b in zip(rows, own_rows, strict=True))
        assert all(a[shard].tobytes() == b[0].tobytes() for a, b in zip(leaves, own_leaves, strict=True))


def test_shards_are_cut_from_their_beginnings(monkeypatch):
    monkeypatch.setattr(batchnorm, "PART", 20)
    parts, first_parts = batchnorm.cut_shards(np.array([0, 0, 5, 12, 12]), 7)
    assert parts.tolist() == [[0, 2, 1, 5], [2, 4, 1, 5], [4, 5, 1, 5]] + [[n, n + 2, 2, 7] for n in (5, 7, 9)] + [
        [11, 12, 2, 7]
    ]
    assert first_parts.tolist() == [0, 0, 3, 7, 7]


@pytest.mark.parametrize(("kernel", "make"), KERNELS)
def test_kernel_allocates_nothing(kernel, make):
    arguments = make()
    kernel(*arguments)
    was_enabled = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        kernel(*arguments)
        after = rtsys.get_allocation_stats()
    finally:
        if not was_enabled:
            _nrt_python.memsys_disable_stats()
    # Numba makes one small record of each array that is passed in, whatever its size.
    arrays = sum(isinstance(a, np.ndarray) for a in flat(arguments))
    assert after.alloc - before.alloc == arrays
    assert after.free - before.free == arrays


if __name__ == "__main__":
    print_digests()
