"""Float32 numbers as 16-bit words, and back: half the bytes to send.

Both formats round to nearest, ties to even. bfloat16 has float32's exponent and 8 significant bits; float16 has 11, and
exponents for 2^-24 to 2^16 only, so each block of numbers is multiplied by a power of two that brings its largest
below 2^15 and not below 2^14. A block is sent as a head and its words; the head is the exponent, biased as a float32's,
of the power of two that the words are multiplied by on their way back: for bfloat16, that of 1.

Axes: N numbers, M blocks of them; N + M words, for block m begins behind m heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Int64, UInt16
from ddp.kernels.vector import FLOAT, INT32, Builder, Value, intrinsic

__all__ = ["compress", "expand_sum"]

WORD = ir.IntType(16)
MAGNITUDE, INFINITY, HALF = 0x7FFFFFFF, 0x7F800000, 0x3F000000  # bits of float32 numbers
REBIAS = 112
"""By how much a float32's exponent is biased more than a float16's."""
ONE = 127
"""The head of a block that is not scaled."""


def _int32(value: int) -> Value:
    return ir.Constant(INT32, value)


@intrinsic
def _magnitude(typing_context: Any, x: Any) -> Any:
    """The bits of |x|, as an integer: of the order of |x|, with infinities and then NaNs above all numbers."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        return builder.and_(builder.bitcast(values[0], INT32), _int32(MAGNITUDE))

    return types.int32(types.float32), generate


@intrinsic
def _to_bfloat16(typing_context: Any, x: Any) -> Any:
    """The upper half of a float32's bits, rounded; a NaN stays a NaN, as the addition might carry it to infinity."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        bits = builder.bitcast(values[0], INT32)
        upper = builder.lshr(bits, _int32(16))
        half_less_one_if_even = builder.add(_int32(0x7FFF), builder.and_(upper, _int32(1)))
        rounded = builder.lshr(builder.add(bits, half_less_one_if_even), _int32(16))
        is_nan = builder.fcmp_unordered("uno", values[0], values[0])
        return builder.trunc(builder.select(is_nan, builder.or_(upper, _int32(0x40)), rounded), WORD)

    return types.uint16(types.float32), generate


@intrinsic
def _from_bfloat16(typing_context: Any, word: Any) -> Any:
    """The float32 whose upper half the word is."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        return builder.bitcast(builder.shl(builder.zext(values[0], INT32), _int32(16)), FLOAT)

    return types.float32(types.uint16), generate


@intrinsic
def _to_float16(typing_context: Any, x: Any) -> Any:
    """Sign, 5 bits of exponent, 10 of fraction, of a number below 65504, an infinity or a NaN.

    Not LLVM's fptrunc: where the processor cannot do it, that is a call of a function that Numba does not have.
    """

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        bits = builder.bitcast(values[0], INT32)
        size = builder.and_(bits, _int32(MAGNITUDE))
        odd = builder.and_(builder.lshr(size, _int32(13)), _int32(1))
        carried = builder.add(size, builder.add(odd, _int32(0xFFF - (REBIAS << 23))))
        # Below 2^-14 words are multiples of 2^-24, as are the float32 numbers from 0.5 on: adding 0.5 rounds to them.
        half = ir.Constant(FLOAT, 0.5)
        multiple = builder.sub(builder.bitcast(builder.fadd(builder.bitcast(size, FLOAT), half), INT32), _int32(HALF))
        is_small = builder.icmp_unsigned("<", size, _int32((REBIAS + 1) << 23))
        word = builder.select(is_small, multiple, builder.lshr(carried, _int32(13)))
        is_nan = builder.icmp_unsigned(">", size, _int32(INFINITY))
        beyond = builder.select(is_nan, _int32(0x7E00), _int32(0x7C00))
        word = builder.select(builder.icmp_unsigned(">=", size, _int32(INFINITY)), beyond, word)
        sign = builder.and_(builder.lshr(bits, _int32(16)), _int32(0x8000))
        return builder.trunc(builder.or_(word, sign), WORD)

    return types.uint16(types.float32), generate


@intrinsic
def _from_float16(typing_context: Any, word: Any) -> Any:
    """The inverse; exact."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        bits = builder.zext(values[0], INT32)
        size = builder.shl(builder.and_(bits, _int32(0x7FFF)), _int32(13))
        number = builder.add(size, _int32(REBIAS << 23))
        beyond = builder.add(size, _int32(2 * REBIAS << 23))
        # Exponent 0 means that of 1, without the leading bit that a float32 has: it is subtracted.
        with_leading_bit = builder.bitcast(builder.add(size, _int32((REBIAS + 1) << 23)), FLOAT)
        smallest = ir.Constant(FLOAT, 2.0**-14)
        small = builder.bitcast(builder.fsub(with_leading_bit, smallest), INT32)
        value = builder.select(builder.icmp_unsigned("<", size, _int32(1 << 23)), small, number)
        value = builder.select(builder.icmp_unsigned(">=", size, _int32(31 << 23)), beyond, value)
        sign = builder.shl(builder.and_(bits, _int32(0x8000)), _int32(16))
        return builder.bitcast(builder.or_(value, sign), FLOAT)

    return types.float32(types.uint16), generate


@intrinsic
def _power_of_two(typing_context: Any, head: Any) -> Any:
    """2^(head - 127)."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        return builder.bitcast(builder.shl(values[0], _int32(23)), FLOAT)

    return types.float32(types.int32), generate


@inline
def _head(x: Float32) -> int:
    """That of the power of two by which numbers are divided to lie below 2^15, the largest not below 2^14.

    At least 1 and at most 241, so that this power and its inverse are normal numbers.
    """
    largest = 0
    for n in range(x.size):
        largest = max(largest, _magnitude(x[n]))
    return max((largest >> 23) - 14, 1)


@kernel
def compress(x: Float32, residual: Float32, blocks: Int64, half: bool, words: UInt16) -> None:
    """Write x + residual in words; what they lack becomes the residual, to be added the next time.

    v = x + residual;  words = round(v);  residual = v - words: without rounding, for v has no more digits than the
    words and it together. Where that is not finite, the residual is 0: an infinity or a NaN is sent, and not kept.

    Args:
        x: (N,) float32.
        residual: (N,) float32, updated.
        blocks: (M, 3) int64, from `make_blocks`.
        half: whether the words are float16, else bfloat16.
        words: (N + M,) uint16, overwritten.

    Source: F. Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
    Training of Speech DNNs", Interspeech 2014 (the residual, there called error feedback).
    """
    for m in prange(blocks.shape[0]):
        start, end = blocks[m, 0], blocks[m, 1]
        x_m, e_m = x[start:end], residual[start:end]  # counted from 0: the compiler then uses vectors
        words_m = words[start + m + 1 : end + m + 1]
        for n in range(x_m.size):
            e_m[n] += x_m[n]
        head = np.int32(_head(e_m) if half else ONE)
        words[start + m] = head
        factor, inverse = _power_of_two(head), _power_of_two(np.int32(2 * ONE - head))
        for n in range(x_m.size):
            v = e_m[n]
            word = _to_float16(v * inverse) if half else _to_bfloat16(v)
            sent = _from_float16(word) * factor if half else _from_bfloat16(word)
            words_m[n] = word
            rest = v - sent
            e_m[n] = rest if abs(rest) < np.inf else np.float32(0)


@kernel
def expand_sum(words: UInt16, blocks: Int64, half: bool, total: Float32) -> None:
    """Write the sum of several ranks' words, in float32 and in the order of the ranks.

    Args:
        words: (P, N + M) uint16, from `compress`, a row for each rank.
        blocks: (M, 3) int64, as they were given to it.
        half: whether the words are float16, else bfloat16.
        total: (N,) float32, overwritten.
    """
    for m in prange(blocks.shape[0]):
        start, end = blocks[m, 0], blocks[m, 1]
        total_m = total[start:end]
        for rank in range(words.shape[0]):
            words_m = words[rank, start + m + 1 : end + m + 1]
            factor = _power_of_two(np.int32(words[rank, start + m]))
            for n in range(total_m.size):
                value = _from_float16(words_m[n]) * factor if half else _from_bfloat16(words_m[n])
                total_m[n] = value + total_m[n] if rank else value
