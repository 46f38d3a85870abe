"""Vectors in LLVM IR: what the processor has, and loads, stores and multiply-adds of whole registers.

Numba cannot say "keep this in a register"; the tiles are therefore written as LLVM IR, with these words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from llvmlite import binding, ir
from numba import types
from numba.core import config
from numba.extending import intrinsic as _intrinsic

Value = Any  # llvmlite and Numba's extension API have no types
Builder = Any
F = TypeVar("F", bound=Callable[..., Any])
intrinsic = cast("Callable[[F], Any]", _intrinsic)

FLOAT, INT32, INT64, BIT = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(1)

LINE_BYTES = 64
"""Of a cache line, as `prefetch` fetches it."""
SUFFIXES = {FLOAT: "f32", INT32: "i32"}  # in the names of LLVM's functions


@dataclass(frozen=True)
class VectorUnit:
    """A processor's float32 arithmetic, and the tile that fills its registers."""

    lanes: int
    """Float32 numbers of a register."""
    rows: int
    """Rows of the largest tile."""
    vectors: int
    """Registers of a row of it."""
    dot_rows: int
    """Rows of the largest block of dot products, which has four columns: a multiple of `lanes` sums in all."""
    shard_rows: int
    """Rows of the largest tile that keeps a total beside each accumulator."""


# The first whose feature the target has; the last one is for every other processor.
VECTOR_UNITS = {
    "avx512f": VectorUnit(lanes=16, rows=14, vectors=2, dot_rows=4, shard_rows=7),
    "fma": VectorUnit(lanes=8, rows=6, vectors=2, dot_rows=2, shard_rows=3),
    "neon": VectorUnit(lanes=4, rows=12, vectors=2, dot_rows=4, shard_rows=6),
    "": VectorUnit(lanes=4, rows=6, vectors=2, dot_rows=2, shard_rows=3),
}


def target_vector_unit() -> VectorUnit:
    """The widest vector unit that Numba compiles for: the host's, unless NUMBA_CPU_FEATURES restricts it."""
    restricted: str | None = getattr(config, "CPU_FEATURES", None)
    if restricted is None:
        features = {name for name, present in binding.get_host_cpu_features().items() if present}
    else:
        features = {name[1:] for name in restricted.split(",") if name.startswith("+")}
    return next(unit for feature, unit in VECTOR_UNITS.items() if not feature or feature in features)


UNIT = target_vector_unit()
VECTOR = ir.VectorType(FLOAT, UNIT.lanes)


def integer(value: int) -> Value:
    """A constant for counts and distances."""
    return ir.Constant(INT64, value)


def splat(builder: Builder, scalar: Value, vector: Value) -> Value:
    """The scalar in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def shuffle(builder: Builder, first: Value, second: Value, lanes: list[int]) -> Value:
    """The named lanes of two vectors, those of the second counted on from the first's."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def declare(builder: Builder, name: str, result: Value, arguments: list[Value]) -> Value:
    """An LLVM function of the module being built, declared on first use."""
    existing = builder.module.globals.get(name)
    return existing or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """A * b + c in every lane, rounded once."""
    function = declare(builder, f"llvm.fma.v{UNIT.lanes}f32", VECTOR, [VECTOR] * 3)
    return builder.call(function, [a, b, c])


def first_lanes(builder: Builder, count: Value, lanes: int = UNIT.lanes) -> Value:
    """A mask of the first `count` lanes, at least none and at most all.

    Made as bits of an integer, which a loop holds in one register: compared lane by lane, the comparison is
    repeated in every step (three instructions of the 64 in the tile's loop).
    """
    bits = ir.IntType(lanes)
    least = builder.select(builder.icmp_signed("<", count, integer(0)), integer(0), count)
    most = builder.select(builder.icmp_signed(">", least, integer(lanes)), integer(lanes), least)
    ones = builder.sub(builder.shl(integer(1), most), integer(1))
    return builder.bitcast(builder.trunc(ones, bits), ir.VectorType(BIT, lanes))


def _suffix(vector: Value) -> str:
    name = f"v{vector.count}{SUFFIXES[vector.element]}"
    return f"{name}.p0{name}"


def load(builder: Builder, pointer: Value, vector: Value, mask: Value) -> Value:
    """The lanes that the mask selects, 0 in the others."""
    arguments = [vector.as_pointer(), ir.IntType(32), mask.type, vector]
    function = declare(builder, f"llvm.masked.load.{_suffix(vector)}", vector, arguments)
    alignment = ir.Constant(ir.IntType(32), 4)
    pointer = builder.bitcast(pointer, vector.as_pointer())
    return builder.call(function, [pointer, alignment, mask, ir.Constant(vector, None)])


def store(builder: Builder, value: Value, pointer: Value, mask: Value) -> None:
    """Write the lanes that the mask selects."""
    vector = value.type
    arguments = [vector, vector.as_pointer(), ir.IntType(32), mask.type]
    function = declare(builder, f"llvm.masked.store.{_suffix(vector)}", ir.VoidType(), arguments)
    alignment = ir.Constant(ir.IntType(32), 4)
    builder.call(function, [value, builder.bitcast(pointer, vector.as_pointer()), alignment, mask])


def element_pointer(context: Any, builder: Builder, array_type: Any, array: Value, offset: Value) -> Value:
    """The address of an array's element, counted in elements from its first."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic
def prefetch(typing_context: Any, array: Any, offset: Any) -> Any:
    """Have the cache line of an element fetched, which may lie outside the array: then nothing happens."""
    signature = types.void(array, types.int64)

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(element_pointer(context, builder, signature.args[0], *values), byte)
        function = declare(builder, "llvm.prefetch.p0i8", ir.VoidType(), [byte, *[word] * 3])
        read, most_local, data = (ir.Constant(word, number) for number in (0, 3, 1))
        builder.call(function, [place, read, most_local, data])
        return context.get_dummy_value()

    return signature, generate


# What is done with a finished element before it is stored; each is emitted for one vector of a row:
# (builder, value, mask, pointers of the vector in c and in the extra array, flag) -> None.
Epilogue = Callable[[Builder, Value, Value, Value, Value, Value], None]

WITH_BIAS, RELU, ACCUMULATE = 1, 2, 4


def lanes_if(builder: Builder, flags: Value, flag: int, mask: Value) -> Value:
    """The mask if the flag is set, else no lane."""
    is_set = builder.icmp_signed("!=", builder.and_(flags, integer(flag)), integer(0))
    return builder.and_(mask, splat(builder, is_set, mask.type))


def store_plain(builder: Builder, value: Value, mask: Value, c: Value, _: Value, flags: Value) -> None:
    """Write c = value: what the two below do where no flag is set."""
    store(builder, value, c, mask)


def store_activation(builder: Builder, value: Value, mask: Value, c: Value, bias: Value, flags: Value) -> None:
    """Write c = value (+ c if ACCUMULATE) (+ bias if WITH_BIAS), of that max(., 0) if RELU; a NaN stays a NaN."""
    zero = ir.Constant(value.type, None)
    value = builder.fadd(value, load(builder, c, value.type, lanes_if(builder, flags, ACCUMULATE, mask)))
    value = builder.fadd(value, load(builder, bias, value.type, lanes_if(builder, flags, WITH_BIAS, mask)))
    clipped = lanes_if(builder, flags, RELU, builder.fcmp_ordered("<=", value, zero))
    store(builder, builder.select(clipped, zero, value), c, mask)


def store_masked(builder: Builder, value: Value, mask: Value, c: Value, y: Value, flags: Value) -> None:
    """Write c = value where flags is 0 or y > 0, else 0: the derivative of the ReLU that made y."""
    zero = ir.Constant(value.type, None)
    always = splat(builder, builder.icmp_signed("==", flags, integer(0)), mask.type)
    wanted = builder.and_(mask, builder.not_(always))
    active = builder.fcmp_ordered(">", load(builder, y, value.type, wanted), zero)
    store(builder, builder.select(builder.or_(always, active), value, zero), c, mask)
