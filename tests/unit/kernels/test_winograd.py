"""Winograd's convolutions against the direct reference, within the bound that their matrices imply.

A result is a sum of products of transformed numbers. Take the absolute values of all matrices and inputs: that is
the sum of the sizes of everything that was added up, and each addition and multiplication on the way from an input to
an output rounds by at most u = 2**-24 of it (Higham, "Accuracy and Stability of Numerical Algorithms", section 3).
The way has at most 8 roundings in B^T x B, 10 in G w G^T, whose fractions are rounded too, 12 in A^T M A, one for the
bias, and one for each term of the sum over channels, or over patches. Run as a program, this file checks a few
shapes: so it is run again with the processor's features restricted.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddp.kernels import panel, reference
from ddp.kernels.winograd import winograd_backward_input, winograd_forward
from ddp.kernels.winograd_transform import INPUT, OUTPUT, WEIGHT
from ddp.kernels.winograd_weight import winograd_backward_weight
from ddp.kernels.winograd_workspace import chunk_of_weight, make_blocks, make_chunks

U = 2.0**-24
TRANSFORMS = 8 + 10 + 12 + 1
GUARD = 9  # numbers around every array that must be neither used nor changed
SIZES = [1, 3, 16, 17, 33, 70]
SHAPES = [(2, 5, 9, 3, 20, 1), (1, 7, 6, 33, 17, 0), (3, 3, 2, 16, 70, 2)]


def guarded(values):
    """The same values as part of an array that is NaN elsewhere; a NaN used would spread to the result."""
    whole = np.full(values.size + 2 * GUARD, np.nan, values.dtype)
    inner = whole[GUARD:-GUARD].reshape(values.shape)
    inner[...] = values
    return inner


def is_guarded(inner):
    whole = inner.base
    return np.isnan(whole[:GUARD]).all() and np.isnan(whole[-GUARD:]).all()


def cut(image, size, stride, offset, patches):
    """(B, rows, columns, size, size, C): square parts of an image with zeros around, from -offset on."""
    far = offset + size + stride * max(patches) + 9
    wide = np.pad(image, [(0, 0), (far, far), (far, far), (0, 0)])[:, far - offset :, far - offset :]
    rows = [wide[:, i * stride : i * stride + size] for i in range(patches[0])]
    return np.stack(
        [np.stack([row[:, :, j * stride : j * stride + size] for j in range(patches[1])], 1) for row in rows], 1
    )


def both_sides(matrix, values):
    return np.einsum("ai,...ijc,bj->...abc", np.abs(matrix), np.abs(values), np.abs(matrix), optimize=True)


def magnitude(m, x, w, padding, size):
    """The forward pass with absolute values everywhere."""
    B, IC, OC = len(x), *w.shape[2:]
    patches = -(-size[0] // m), -(-size[1] // m)
    v = both_sides(INPUT[m], cut(x, m + 2, m, padding, patches))
    u = both_sides(WEIGHT[m], w.reshape(3, 3, IC * OC)).reshape(m + 2, m + 2, IC, OC)
    y = both_sides(OUTPUT[m], np.einsum("...abi,abio->...abo", v, u, optimize=True))
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(B, patches[0] * m, patches[1] * m, OC)
    return y[:, : size[0], : size[1]]


def weight_magnitude(m, x, dy, padding):
    patches = -(-dy.shape[1] // m), -(-dy.shape[2] // m)
    v = both_sides(INPUT[m], cut(x, m + 2, m, padding, patches))
    points = both_sides(OUTPUT[m].T, cut(dy, m, m, 0, patches))
    products = np.einsum("stuabi,stuabo->abio", v, points, optimize=True)
    IC, OC = products.shape[2:]
    return both_sides(WEIGHT[m].T, products.reshape(m + 2, m + 2, IC * OC)).reshape(3, 3, IC, OC)


def channels_first(image):
    return image.astype(np.float64).transpose(0, 3, 1, 2)


def check(
    m, B, H, W, IC, OC, padding, seed, shards, has_bias=True, relu=False, masked=False, workers=2,
    patches=70, kept=2**20,
):  # fmt: skip
    generator = np.random.default_rng(seed)
    OH, OW = H + 2 * padding - 2, W + 2 * padding - 2

    def values(*shape):
        return guarded(generator.standard_normal(shape).astype(np.float32))

    x, w, dy, b = values(B, H, W, IC), values(3, 3, IC, OC), values(B, OH, OW, OC), values(OC if has_bias else 0)

    def room(arrays):
        return tuple(guarded(np.full(array.shape, np.nan, array.dtype)) for array in arrays)

    y, dx, dw = values(B, OH, OW, OC), values(B, H, W, IC), guarded(np.full((3, 3, IC, OC), np.nan, np.float32))
    panels, turned = room((panel.make_panels(3, IC, OC), panel.make_panels(3, OC, IC)))
    forward = room(make_blocks(m, IC, OC, workers, patches, kept=kept))
    backward = room(make_blocks(m, OC, IC, workers, patches, kept=kept))
    chunk = chunk_of_weight(IC, OC, workers)
    chunks = room(make_chunks(m, chunk, workers, np.float32, 13))
    panel.pack_weight(w, panels)
    winograd_forward(x, padding, panels, b, relu, forward, y)
    panel.turn_weight(w, turned)
    winograd_backward_input(dy, padding, turned, x if masked else x[:0], backward, dx)
    winograd_backward_weight(x, padding, dy, shards, chunk, chunks, np.float32(1), dw, np.zeros(16, np.int64))
    assert all(map(is_guarded, [x, w, dy, y, dx, dw, panels, turned, *forward, *backward, *chunks]))

    filters = w.astype(np.float64).transpose(3, 2, 0, 1)
    expected_y = reference.conv2d_forward(channels_first(x), filters, b if has_bias else np.zeros(OC), padding)
    expected_y = (reference.relu_forward(expected_y) if relu else expected_y).transpose(0, 2, 3, 1)
    expected_dx = reference.conv2d_backward_input(channels_first(dy), filters, padding, (H, W)).transpose(0, 2, 3, 1)
    expected_dx = reference.relu_backward(x.astype(np.float64), expected_dx) if masked else expected_dx
    expected_dw = reference.conv2d_backward_weight(channels_first(x), channels_first(dy), 3, padding)
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    patches = B * -(-OH // m) * -(-OW // m)
    sizes = (
        (y, expected_y, IC, magnitude(m, x, w, padding, (OH, OW)) + (np.abs(b) if has_bias else 0)),
        (dx, expected_dx, OC, magnitude(m, dy, turned, 2 - padding, (H, W))),
        (dw, expected_dw.transpose(2, 3, 1, 0), patches, weight_magnitude(m, x, dy, padding)),
    )
    for actual, expected, terms, size in sizes:
        assert np.all(np.abs(actual - expected) <= (TRANSFORMS + terms) * U * size)
    return y.tobytes() + dx.tobytes() + dw.tobytes()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_all_passes_equal_the_reference(data):
    draw = data.draw
    B, H, W, padding = draw(st.sampled_from([0, 1, 2, 5])), draw(st.integers(1, 11)), draw(st.integers(1, 11)), None
    padding = draw(st.sampled_from([0, 1, 1, 2, 3]))
    assume(min(H, W) + 2 * padding >= 3)
    inner = draw(st.lists(st.integers(0, B), max_size=3))
    check(
        draw(st.sampled_from([2, 4])), B, H, W, draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES)), padding,
        draw(st.integers(0, 2**32 - 1)), np.array([0, *sorted(inner), B]), *(draw(st.booleans()) for _ in range(3)),
        draw(st.integers(1, 4)), draw(st.sampled_from([1, 5, 70])), draw(st.sampled_from([0, 2**20])),
    )  # fmt: skip


@pytest.mark.parametrize("m", [2, 4])
def test_the_number_of_workers_changes_no_bit(m):
    """Nor do the chunks of dw, of which there are more for more workers, nor the blocks of patches of an image."""
    cases = [(1, 70, 2**20), (1, 70, 0), (2, 70, 0), (4, 13, 2**20), (4, 13, 0), (5, 7, 0), (16, 70, 0)]
    digests = {
        check(m, 4, 18, 19, 20, 140, 1, 0, np.array([0, 3, 4]), workers=workers, patches=patches, kept=kept)
        for workers, patches, kept in cases
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("channels", "workers", "chunk"),
    [
        ((32, 64), 1, (32, 64)),
        ((32, 64), 2, (32, 32)),
        ((32, 64), 8, (16, 16)),
        ((3, 64), 4, (3, 16)),
        ((512, 512), 4, (32, 128)),
        ((512, 512), 80, (32, 64)),
        ((16, 16), 9, (16, 16)),
        ((50, 7), 2, (32, 7)),
    ],
)
def test_chunks_leave_every_worker_one(channels, workers, chunk):
    assert chunk_of_weight(*channels, workers) == chunk


def test_nan_spreads_from_a_pixel_to_its_patch():
    x = np.zeros((1, 10, 10, 3), np.float32)
    x[0, 1, 1, 2] = np.nan
    panels, y = panel.make_panels(3, 3, 5), np.zeros((1, 8, 8, 5), np.float32)
    panel.pack_weight(np.ones((3, 3, 3, 5), np.float32), panels)
    winograd_forward(x, 0, panels, np.zeros(0, np.float32), True, make_blocks(4, 3, 5, 1), y)
    assert np.isnan(y[0, :2, :2]).all()
    assert not np.isnan(y[0, 4:, 4:]).any()


def check_shapes():
    for m in 2, 4:
        for B, *shape in SHAPES:
            check(m, B, *shape, 0, np.array([0, B]), relu=True, masked=True)


@pytest.mark.parametrize(("features", "name"), [("+avx,+avx2,+fma", "haswell"), ("+sse2,+sse4.2", "nehalem")])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="restricts the features of an x86-64 processor")
def test_other_vector_units_compute_the_same(features, name):
    restricted = {"NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | restricted,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    check_shapes()
