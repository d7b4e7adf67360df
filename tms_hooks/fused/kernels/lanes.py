"""Vectors of rows in compiled code: written out, because a compiler's own vectorizing is a matter of luck.

A strip of `LANES` rows is what the stream of random bits and all sums over a batch are laid out in. A part of it, of
`PART` rows, is one register of this processor. What must stay in registers is worked on a part at a time, in tiles that
fit: `PART` and `TILE` decide how fast that is, and no bit of a result.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, no_type_check

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from tms_hooks import rng

# For functions that allocate nothing, and so count no references, and are called by compiled ones alone: a way in from
# Python would be compiled as well.
compiled: Any = partial(njit, cache=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# For functions made at run time: they become part of those that call them, and are cached there. Dividing by zero gives
# infinity: a branch on it would keep loops from vectorizing.
INNER = {"_nrt": False, "forceinline": True, "error_model": "numpy"}
inner: Any = partial(njit, no_cpython_wrapper=True, no_cfunc_wrapper=True, **INNER)

LANES = 16


def _registers() -> tuple[int, int]:
    """Vector registers of the processor that numba compiles for, and floats in one: LLVM is asked for a sum of 16."""
    module, wide = ir.Module(), ir.VectorType(ir.FloatType(), LANES)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [wide.as_pointer()]), "twice")
    builder = ir.IRBuilder(function.append_basic_block())
    value = builder.load(function.args[0])
    builder.store(builder.fadd(value, value), function.args[0])
    builder.ret_void()
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    x86 = {"zmm": (32, 16), "ymm": (16, 8), "xmm": (16, 4)}  # AVX-512, AVX2, SSE
    return next((file for name, file in x86.items() if name in assembly), (32, 4))  # else NEON


REGISTERS, PART = _registers()
TILE = REGISTERS // 8
"""A tile of a matrix product is `TILE` by 4 registers: half of all, so that the others hold what is multiplied."""
# Products may be fused into sums. NaN and infinity keep their meaning, because divergence is detected by them.
FLAGS = ("contract", "nsz")


MASK = ir.IntType(1 if PART == 16 else 32)
"""What a lane of a mask is: only AVX-512 has registers for bits."""


class Vector(types.Type):
    """Values of one scalar type."""

    def __init__(self, of: Any, lanes: int = LANES) -> None:
        self.of, self.lanes = of, lanes
        super().__init__(name=f"Vector({of}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        of = MASK if fe_type.of == types.boolean else dmm.lookup(fe_type.of).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(of, fe_type.lanes))


def _splat(builder: Any, value: Any, count: int) -> Any:
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


def _constant(values: list[int], bits: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(bits), len(values)), [v % 2**bits for v in values])


def _pointer(context: Any, builder: Any, kind: Any, array: Any, where: Any, count: Any) -> Any:
    struct = context.make_array(kind)(context, builder, array)
    at = cgutils.get_item_pointer(context, builder, kind, struct, where, wraparound=False)
    return builder.bitcast(at, count.as_pointer())


def _mask(builder: Any, bits: Any) -> Any:
    return bits if MASK.width == 1 else builder.sext(bits, ir.VectorType(MASK, bits.type.count))


def _bits(builder: Any, mask: Any) -> Any:
    return mask if MASK.width == 1 else builder.icmp_signed("<", mask, ir.Constant(mask.type, None))


def _of_width(lanes: int) -> tuple[Any, Any, Any]:
    """Functions that make vectors of so many lanes."""

    @intrinsic
    @no_type_check
    def splat(typing, value):
        """A scalar in all lanes."""
        return Vector(value, lanes)(value), lambda context, builder, sig, args: _splat(builder, args[0], lanes)

    @intrinsic
    @no_type_check
    def load(typing, array, i, r):
        """`array[i, r : r + lanes]`."""
        kind = Vector(array.dtype, lanes)

        def code(context, builder, sig, args):
            where = [context.cast(builder, v, t, types.intp) for v, t in zip(args[1:], sig.args[1:], strict=True)]
            at = _pointer(context, builder, array, args[0], where, context.get_value_type(kind))
            return builder.load(at, align=array.dtype.bitwidth // 8)

        return kind(array, i, r), code

    @intrinsic
    @no_type_check
    def first_lanes(typing, count):
        """The lanes whose number is below `count`."""

        def code(context, builder, sig, args):
            wide = _splat(builder, context.cast(builder, args[0], count, types.int32), lanes)
            return _mask(builder, builder.icmp_signed(">", wide, _constant(list(range(lanes)), 32)))

        return Vector(types.boolean, lanes)(count), code

    return splat, load, first_lanes


splat, load, first_lanes = _of_width(LANES)
splat_part, load_part, first_of_part = _of_width(PART)


@intrinsic
@no_type_check
def rows_apart(typing, matrix, width):
    """The same matrix, whose rows are said to be `width` entries apart: a stride that is known is not loaded."""

    def code(context, builder, sig, args):
        array = context.make_array(matrix)(context, builder, args[0])
        entry = ir.Constant(context.get_value_type(types.intp), matrix.dtype.bitwidth // 8)
        row = builder.mul(context.cast(builder, args[1], sig.args[1], types.intp), entry)
        array.strides = cgutils.pack_array(builder, [row, entry])
        return array._getvalue()

    return matrix(matrix, width), code


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
        compare = builder.fcmp_ordered if isinstance(a.of, types.Float) else builder.icmp_unsigned
        return _mask(builder, compare("<=", *args))

    return Vector(types.boolean, a.lanes)(a, b), code


@intrinsic
@no_type_check
def where(typing, mask, a, b):
    """`a` where the mask holds, else `b`."""

    def code(context, builder, sig, args):
        return builder.select(_bits(builder, args[0]), *args[1:])

    return a(mask, a, b), code


@intrinsic
@no_type_check
def either(typing, a, b):
    """Where one of two masks holds."""
    return a(a, b), lambda context, builder, sig, args: builder.or_(*args)


@intrinsic
@no_type_check
def both(typing, a, b):
    """The bits that are set in both of two vectors of real numbers."""

    def code(context, builder, sig, args):
        whole = ir.VectorType(ir.IntType(a.of.bitwidth), a.lanes)
        return builder.bitcast(builder.and_(*(builder.bitcast(value, whole) for value in args)), args[0].type)

    return a(a, b), code


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
def counters(typing, z):
    """The states of SplitMix64 that follow `z`, `LANES / 2` of them."""

    def code(context, builder, sig, args):
        half = LANES // 2
        return builder.add(_splat(builder, args[0], half), _constant([rng.GAMMA * (j + 1) for j in range(half)], 64))

    return Vector(types.uint64, LANES // 2)(types.uint64), code


@intrinsic
@no_type_check
def following(typing, z):
    """As many states, those after `z`: kept in registers, they cost an addition a strip."""

    def code(context, builder, sig, args):
        return builder.add(args[0], _constant([rng.GAMMA * z.lanes] * z.lanes, 64))

    return z(z), code


def _times(builder: Any, value: Any, factor: int) -> Any:
    """Whole numbers of 64 bits times a constant: low halves in full, and both mixed products, of 32 bits, in one."""
    count = value.type.count
    if PART != 8:
        return builder.mul(value, _constant([factor] * count, 64))
    low, high = factor % 2**32, factor >> 32
    halves = builder.bitcast(value, ir.VectorType(ir.IntType(32), 2 * count))
    mixed = builder.bitcast(builder.mul(halves, _constant([high, low] * count, 32)), value.type)
    product = builder.mul(builder.and_(value, _constant([2**32 - 1] * count, 64)), _constant([low] * count, 64))
    product = builder.add(product, builder.shl(mixed, _constant([32] * count, 64)))
    return builder.add(product, builder.and_(mixed, _constant([2**64 - 2**32] * count, 64)))


@intrinsic
@no_type_check
def random_bits(typing, z):
    """32 random bits a lane, out of the hashes of SplitMix64 of `counters`, low half first."""

    def code(context, builder, sig, args):
        def xor_shift(value, bits):
            return builder.xor(value, builder.lshr(value, _constant([bits] * z.lanes, 64)))

        v = _times(builder, xor_shift(args[0], 30), rng.MIX_1)
        v = xor_shift(_times(builder, xor_shift(v, 27), rng.MIX_2), 31)
        return builder.bitcast(v, ir.VectorType(ir.IntType(32), LANES))

    return Vector(types.uint32)(z), code


def _to_real(name: str) -> Any:
    @intrinsic
    @no_type_check
    def convert(typing, whole, like):
        kind = Vector(like, whole.lanes)

        def code(context, builder, sig, args):
            return getattr(builder, name)(args[0], context.get_value_type(kind))

        return kind(whole, like), code

    return convert


real = _to_real("uitofp")
"""Whole numbers as real ones of the type of the scalar `like`;"""
real_31 = real if PART == 16 else _to_real("sitofp")
"""right below 2^31 only, but one instruction of any processor, where the other may be five."""


@intrinsic
@no_type_check
def transposed(typing, vectors):
    """As many vectors as each has lanes, with vector and lane exchanged.

    Blocks of 1, 2, 4, ... lanes change places between two vectors so many apart.
    """
    count = len(vectors)

    def code(context, builder, sig, args):
        parts, apart = cgutils.unpack_tuple(builder, args[0]), 1
        while apart < count:
            second = [lane & apart for lane in range(count)]  # whether a lane is in the second block of its pair
            upper = _constant([lane + count - apart if two else lane for lane, two in enumerate(second)], 32)
            lower = _constant([lane + count if two else lane + apart for lane, two in enumerate(second)], 32)
            for j in (j for j in range(count) if not j & apart):
                pair = parts[j], parts[j + apart]
                parts[j], parts[j + apart] = (builder.shuffle_vector(*pair, lanes) for lanes in (upper, lower))
            apart *= 2
        return context.make_tuple(builder, vectors, parts)

    return vectors(vectors), code


@intrinsic
@no_type_check
def totals(typing, vectors):
    """Lane `j` is the sum over the lanes of the `j`-th of some vectors, a power of two of them.

    Halves of a vector are added, then halves of two vectors into one, and so on: a quarter of the work of summing them
    one by one, and the same sums.
    """
    kind = Vector(vectors.dtype.of, len(vectors))

    def code(context, builder, sig, args):
        parts, lanes = [([j], v) for j, v in enumerate(cgutils.unpack_tuple(builder, args[0]))], vectors.dtype.lanes
        while lanes > len(vectors):
            lanes //= 2
            parts = [(j, added(builder, v, v, [list(range(lanes)), list(range(lanes, 2 * lanes))])) for j, v in parts]
        half = lanes // 2
        while half:
            halves = [list(range(first, first + half)) for first in range(0, lanes, 2 * half)]
            low = [k for each in halves for k in each + [k + lanes for k in each]]
            pairs = zip(parts[: len(parts) // 2], parts[len(parts) // 2 :], strict=True)
            parts = [(a + b, added(builder, v, w, [low, [k + half for k in low]])) for (a, v), (b, w) in pairs]
            half //= 2
        ((_, value),) = parts
        return value

    def added(builder, v, w, lanes):
        return builder.fadd(*(builder.shuffle_vector(v, w, _constant(each, 32)) for each in lanes), flags=FLAGS)

    return kind(vectors), code


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
