"""Vectors of `LANES` rows in compiled code: written out, because a compiler's own vectorizing is a matter of luck.

LLVM turns them into whatever registers a processor has: one or two of AVX-512, four of AVX2, eight of NEON.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, no_type_check

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from tms_hooks import rng

# For functions that allocate nothing: passing an array on then costs no atomic reference count.
compiled: Any = partial(njit, cache=True, _nrt=False)
# For functions made at run time: they become part of those that call them, and are cached there. Dividing by zero gives
# infinity: a branch on it would keep loops from vectorizing.
inner: Any = partial(
    compiled, cache=False, forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)

LANES = 16
# Products may be fused into sums. NaN and infinity keep their meaning, because divergence is detected by them.
FLAGS = ("contract", "nsz")


class Vector(types.Type):
    """`LANES` values of one scalar type."""

    def __init__(self, of: Any) -> None:
        self.of = of
        super().__init__(name=f"Vector({of}, {LANES})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        of = ir.IntType(1) if fe_type.of == types.boolean else dmm.lookup(fe_type.of).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(of, LANES))


def _splat(builder: Any, value: Any, count: int = LANES) -> Any:
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


def _constant(values: list[int], bits: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(bits), len(values)), [v % 2**bits for v in values])


def _pointer(context: Any, builder: Any, kind: Any, array: Any, where: Any, count: Any) -> Any:
    struct = context.make_array(kind)(context, builder, array)
    at = cgutils.get_item_pointer(context, builder, kind, struct, where, wraparound=False)
    return builder.bitcast(at, count.as_pointer())


@intrinsic
@no_type_check
def splat(typing, value):
    """A scalar in all lanes."""
    return Vector(value)(value), lambda context, builder, sig, args: _splat(builder, args[0])


@intrinsic
@no_type_check
def load(typing, array, i, r):
    """`array[i, r : r + LANES]`."""
    kind = Vector(array.dtype)

    def code(context, builder, sig, args):
        where = [context.cast(builder, v, t, types.intp) for v, t in zip(args[1:], sig.args[1:], strict=True)]
        at = _pointer(context, builder, array, args[0], where, context.get_value_type(kind))
        return builder.load(at, align=array.dtype.bitwidth // 8)

    return kind(array, i, r), code


@intrinsic
@no_type_check
def store(typing, array, i, r, value):
    """`array[i, r : r + LANES] = value`."""

    def code(context, builder, sig, args):
        where = [context.cast(builder, v, t, types.intp) for v, t in zip(args[1:3], sig.args[1:3], strict=True)]
        at = _pointer(context, builder, array, args[0], where, args[3].type)
        builder.store(args[3], at, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, i, r, value), code


def _operation(name: str) -> Any:
    @intrinsic
    @no_type_check
    def operation(typing, a, b):
        return a(a, b), lambda context, builder, sig, args: getattr(builder, name)(*args, flags=FLAGS)

    return operation


add, sub, mul = _operation("fadd"), _operation("fsub"), _operation("fmul")


@intrinsic
@no_type_check
def fma(typing, a, b, c):
    """`a * b + c`."""

    def code(context, builder, sig, args):
        return builder.fadd(builder.fmul(args[0], args[1], flags=FLAGS), args[2], flags=FLAGS)

    return a(a, b, c), code


@intrinsic
@no_type_check
def at_most(typing, a, b):
    """Where `a <= b`, as whole numbers without sign or as real ones."""

    def code(context, builder, sig, args):
        if isinstance(a.of, types.Float):
            return builder.fcmp_ordered("<=", *args)
        return builder.icmp_unsigned("<=", *args)

    return Vector(types.boolean)(a, b), code


@intrinsic
@no_type_check
def where(typing, mask, a, b):
    """`a` where the mask holds, else `b`."""
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
@no_type_check
def either(typing, a, b):
    """Where one of two masks holds."""
    return a(a, b), lambda context, builder, sig, args: builder.or_(*args)


@intrinsic
@no_type_check
def first_lanes(typing, count):
    """The lanes whose number is below `count`."""

    def code(context, builder, sig, args):
        wide = _splat(builder, context.cast(builder, args[0], count, types.int32))
        return builder.icmp_signed(">", wide, _constant(list(range(LANES)), 32))

    return Vector(types.boolean)(count), code


@intrinsic
@no_type_check
def nonzero(typing, a):
    """A whole number whose bit `r` says that lane `r` is not 0."""

    def code(context, builder, sig, args):
        mask = builder.fcmp_ordered("!=", args[0], ir.Constant(args[0].type, [0.0] * LANES))
        return builder.zext(builder.bitcast(mask, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(a), code


@intrinsic
@no_type_check
def lowest_bit(typing, bits):
    """Number of the lowest bit that is set, of which there must be one."""
    return bits(bits), lambda context, builder, sig, args: builder.cttz(args[0], ir.IntType(1)(1))


@intrinsic
@no_type_check
def random_bits(typing, z):
    """32 random bits a lane, out of the `LANES / 2` hashes of SplitMix64 that follow `z`, low half first."""

    def code(context, builder, sig, args):
        def xor_shift(value, bits):
            return builder.xor(value, builder.lshr(value, _constant([bits] * half, 64)))

        half = LANES // 2
        v = builder.add(_splat(builder, args[0], half), _constant([rng.GAMMA * (j + 1) for j in range(half)], 64))
        v = builder.mul(xor_shift(v, 30), _constant([rng.MIX_1] * half, 64))
        v = builder.mul(xor_shift(v, 27), _constant([rng.MIX_2] * half, 64))
        return builder.bitcast(xor_shift(v, 31), ir.VectorType(ir.IntType(32), LANES))

    return Vector(types.uint32)(types.uint64), code


@intrinsic
@no_type_check
def real(typing, whole, like):
    """Whole numbers as real ones of the type of the scalar `like`."""
    kind = Vector(like)

    def code(context, builder, sig, args):
        return builder.uitofp(args[0], context.get_value_type(kind))

    return kind(whole, like), code


@intrinsic
@no_type_check
def totals(typing, vectors):
    """Lane `j` is the sum over the lanes of the `j`-th of `LANES` vectors.

    Halves of two vectors are added into one, and so on: a quarter of the work of summing them one by one.
    """

    def code(context, builder, sig, args):
        parts = [([j], v) for j, v in enumerate(cgutils.unpack_tuple(builder, args[0], LANES))]
        half = LANES // 2
        while half:
            pairs = zip(parts[: len(parts) // 2], parts[len(parts) // 2 :], strict=True)
            parts = [(a + b, folded(builder, v, w, half)) for (a, v), (b, w) in pairs]
            half //= 2
        ((_, value),) = parts
        return value

    def folded(builder, v, w, half):
        lanes = [lane for block in range(0, LANES, 2 * half) for lane in range(block, block + half)]
        low = [
            k
            for b in range(0, len(lanes), half)
            for k in lanes[b : b + half] + [k + LANES for k in lanes[b : b + half]]
        ]
        first = builder.shuffle_vector(v, w, _constant(low, 32))
        return builder.fadd(first, builder.shuffle_vector(v, w, _constant([k + half for k in low], 32)), flags=FLAGS)

    return vectors.dtype(vectors), code


@intrinsic
@no_type_check
def total(typing, a):
    """The sum over the lanes of one vector."""

    def code(context, builder, sig, args):
        value, half = args[0], LANES // 2
        while half:
            parts = (_constant(list(range(start, start + half)), 32) for start in (0, half))
            value = builder.fadd(*(builder.shuffle_vector(value, value, part) for part in parts), flags=FLAGS)
            half //= 2
        return builder.extract_element(value, ir.IntType(32)(0))

    return a.of(a), code


def choice(functions: Sequence[Any]) -> Any:
    """A compiled function `(number, arguments)` that calls the function of that number, from 0."""
    chosen = _only(functions[-1])
    for number, function in reversed(list(enumerate(functions[:-1]))):
        chosen = _either(number, function, chosen)
    return chosen


def _only(function: Any) -> Any:
    @njit(inline="always")
    @no_type_check
    def call(which, arguments):
        function(*arguments)

    return call


def _either(number: int, function: Any, rest: Any) -> Any:
    @njit(inline="always")
    @no_type_check
    def call(which, arguments):
        if which == number:
            function(*arguments)
        else:
            rest(which, arguments)

    return call
