"""What instructions compute: numbers of 32 bits in registers, and predicates.

What memory holds is not known: every word read is DATA, a small number both as a float and as two of half precision,
and so is what arithmetic in half and double precision gives. No comparison in double precision holds.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.cuda.sass import Constant, Instruction, Predicate, Program, Register, Value, bits_of, number_of

DATA = 0x38003800
WORD, SIGN = 0xFFFFFFFF, 0x80000000
BYTES = {"64": 8, "128": 16, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # of what is read, if not 4
COMPARED: dict[str, Callable[[float, float], bool]] = {
    name: getattr(operator, name.lower()) for name in ("LT", "LE", "GT", "GE", "EQ", "NE")
}


class Arithmetic:
    """The registers of a thread, and for every opcode X a method do_X; UX of a warp is X."""

    program: Program
    constants: bytes  # bank 0: what is known of the launch, and its parameters
    special: dict[str, int]

    def __init__(self) -> None:
        self.registers: dict[Register, int] = {}
        self.predicates: dict[tuple[str, int], bool] = {}

    def execute(self, i: Instruction) -> None:
        plain = i.opcode if hasattr(self, f"do_{i.opcode}") else i.opcode.removeprefix("U")
        getattr(self, f"do_{plain}")(i)

    # Operands.

    def holds(self, p: Predicate) -> bool:
        return (p.number < 0 or self.predicates.get((p.file, p.number), False)) != p.negated

    def of(self, register: Register) -> int:
        return 0 if register.number < 0 else self.registers.get(register, DATA)

    def raw(self, o: Any, next_: int = 0) -> int:
        """The word of an operand, or the one behind it, whatever its signs are."""
        if isinstance(o.source, Register):
            return self.of(o.source.next(next_))
        if isinstance(o.source, Constant):
            return self.constant(o.source, 4 * next_)
        return o.source if next_ == 0 else 0

    def constant(self, c: Constant, more: int = 0, size: int = 4) -> int:
        at = c.offset + more + (self.of(c.register) if c.register else 0) & WORD
        bank = self.constants if c.bank == 0 else self.program.tables
        return int.from_bytes(bank[at : at + size], "little")

    def whole(self, o: Any) -> int:
        """An integer operand; a negated one is 2^32 less it, so that a sum carries as the hardware's does."""
        value = self.raw(o)
        return (value ^ WORD) + ("-" in o.signs) if o.signs else value

    def word(self, o: Any) -> int:
        return self.whole(o) & WORD

    def signed(self, o: Any) -> int:
        return _signed(self.word(o))

    def pair(self, o: Any) -> int:
        value = self.raw(o) | self.raw(o, 1) << 32
        return -value if o.signs else value

    def real(self, o: Any) -> float:
        if isinstance(o, str):
            return float(o)
        value = number_of(self.raw(o))
        value = abs(value) if "|" in o.signs else value
        return -value if "-" in o.signs else value

    def put(self, o: Any, value: int) -> None:
        self.registers[o.source] = value & WORD

    def put_pair(self, o: Any, value: int) -> None:
        self.registers[o.source] = value & WORD
        self.registers[o.source.next()] = value >> 32 & WORD

    def put_real(self, o: Any, value: float) -> None:
        self.put(o, bits_of(value))

    def decide(self, o: Any, value: bool) -> None:
        self.predicates[o.file, o.number] = bool(value)

    def split(self, i: Instruction) -> tuple[list[Any], Any, list[Any]]:
        """The predicates that an integer instruction sets, its result, and what it reads."""
        results: list[Any] = []
        operands = list(i.operands)
        while isinstance(operands[0], Predicate):
            results.append(operands.pop(0))
        result = operands.pop(0)
        while isinstance(operands[0], Predicate):
            results.append(operands.pop(0))
        return results, result, operands

    # Instructions.

    def do_data(self, i: Instruction) -> None:
        self.put(i.operands[0], DATA)
        if i.opcode in ("DADD", "DMUL", "DFMA") or i.has("64") or i.modifiers[:1] == ("F64",):
            self.put_pair(i.operands[0], DATA << 32 | DATA)

    do_HADD2 = do_F2F = do_F2FP = do_DADD = do_DMUL = do_DFMA = do_LDS = do_data

    def do_false(self, i: Instruction) -> None:
        for o in i.operands[:2]:
            if isinstance(o, Predicate):
                self.decide(o, False)

    do_DSETP = do_FCHK = do_false  # FCHK asks for a division that is not like most

    def do_IADD3(self, i: Instruction) -> None:
        carries, result, given = self.split(i)
        total = sum(self.whole(o) for o in given[:3]) + sum(self.holds(o) for o in given[3:])
        self.put(result, total)
        for k, carry in enumerate(carries):
            self.decide(carry, total >> 32 > k)

    do_VIADD = do_IADD3

    def do_IMAD(self, i: Instruction) -> None:
        carries, result, (a, b, c, *carried) = self.split(i)
        long = i.has("WIDE") or i.has("HI")
        read = self.signed if long and not i.has("U32") else self.word
        total = read(a) * read(b) + (self.pair(c) if long else self.word(c)) + sum(self.holds(o) for o in carried)
        if i.has("WIDE"):
            self.put_pair(result, total)
        else:
            self.put(result, total >> 32 if i.has("HI") else total)
        for k, carry in enumerate(carries):
            self.decide(carry, total >> (64 if long else 32) > k)

    def do_LEA(self, i: Instruction) -> None:
        """(a << by) + b; HI of what the shift has moved beyond 32 bits, of a number whose upper half is c."""
        carries, result, given = self.split(i)
        a, b, *rest = (o for o in given if isinstance(o, Value))
        high, by = 0, self.word(rest[-1]) if rest else 0
        if i.has("SX32"):
            high = WORD if self.word(a) & SIGN else 0
        elif i.has("HI"):
            high = self.word(rest[0])
        shifted = (self.word(a) | high << 32) << by
        total = ((shifted >> 32 if i.has("HI") else shifted) & WORD) + self.whole(b)
        total += sum(self.holds(o) for o in given if isinstance(o, Predicate))
        self.put(result, total)
        for k, carry in enumerate(carries):
            self.decide(carry, total >> 32 > k)

    def do_ISETP(self, i: Instruction) -> None:
        read = self.word if i.has("U32") else self.signed
        compare = COMPARED[i.modifiers[0]]
        first, second, x, y, before, *lower = i.operands
        a, b = read(x), read(y)
        found = compare(a, b)
        if lower:  # of a number of 64 bits the lower halves compare like that
            below = self.holds(lower[0])
            found = (found or below) if i.modifiers[0] == "NE" else below if a == b else found
        self.combine(i, first, second, found, before)

    def combine(self, i: Instruction, first: Any, second: Any, found: bool, before: Any) -> None:
        join = operator.or_ if i.has("OR") else operator.xor if i.has("XOR") else operator.and_
        other = self.holds(before)
        self.decide(first, join(found, other))
        self.decide(second, join(not found, other))

    def do_FSETP(self, i: Instruction) -> None:
        first, second, x, y, before = i.operands
        a, b, name = self.real(x), self.real(y), i.modifiers[0]
        unordered = math.isnan(a) or math.isnan(b)
        if name in ("NAN", "NUM"):
            found = unordered == (name == "NAN")
        else:
            found = name.endswith("U") if unordered else COMPARED[name.removesuffix("U")](a, b)
        self.combine(i, first, second, found, before)

    def do_LOP3(self, i: Instruction) -> None:
        results, result, (a, b, c, table, *_) = self.split(i)
        x, y, z, lut, total = self.word(a), self.word(b), self.word(c), self.word(table), 0
        for k in range(8):
            if lut >> k & 1:
                total |= (x if k & 4 else ~x) & (y if k & 2 else ~y) & (z if k & 1 else ~z)
        self.put(result, total)
        for of_result in results:
            self.decide(of_result, total & WORD != 0)

    def do_PLOP3(self, i: Instruction) -> None:
        first, second, a, b, c, *tables = i.operands
        which = self.holds(a) << 2 | self.holds(b) << 1 | self.holds(c)
        for result, table in zip((first, second), tables):
            self.decide(result, bool(self.word(table) >> which & 1))

    def do_SHF(self, i: Instruction) -> None:
        result, a, by, c = i.operands
        shift = self.word(by) & (31 if i.has("W") else WORD)
        shift = min(shift, 64 if i.has("U64") or i.has("S64") else 32)
        low, high = self.word(a), self.signed(c) if i.has("S32") or i.has("S64") else self.word(c)
        both = low | high << 32
        both = both << shift if i.has("L") else both >> shift
        self.put(result, both >> 32 if i.has("HI") else both)

    def do_PRMT(self, i: Instruction) -> None:
        result, a, select, b = i.operands
        both, total = self.word(a) | self.word(b) << 32, 0
        for k in range(4):
            which = self.word(select) >> 4 * k & 15
            byte = both >> 8 * (which & 7) & 255
            total |= (byte if which < 8 else 255 * (byte >> 7)) << 8 * k
        self.put(result, total)

    def do_SEL(self, i: Instruction) -> None:
        result, a, b, which = i.operands
        self.put(result, self.word(a) if self.holds(which) else self.word(b))

    def do_FSEL(self, i: Instruction) -> None:
        result, a, b, which = i.operands
        self.put_real(result, self.real(a if self.holds(which) else b))

    def do_MOV(self, i: Instruction) -> None:
        self.put(i.operands[0], self.word(i.operands[1]))

    do_R2UR = do_MOV

    def do_IABS(self, i: Instruction) -> None:
        self.put(i.operands[0], abs(self.signed(i.operands[1])))

    def do_VIMNMX(self, i: Instruction) -> None:
        result, a, b, least = i.operands
        read = self.word if i.has("U32") else self.signed
        self.put(result, (min if self.holds(least) else max)(read(a), read(b)))

    do_IMNMX = do_VIMNMX  # as it is called before sm_90

    def do_VIADDMNMX(self, i: Instruction) -> None:
        result, a, b, c, least = i.operands
        total = _signed(self.whole(a) + self.whole(b) & WORD)
        self.put(result, (min if self.holds(least) else max)(total, self.signed(c)))

    def do_CS2R(self, i: Instruction) -> None:
        self.put_pair(i.operands[0], 0)

    def do_S2R(self, i: Instruction) -> None:
        name = i.operands[1]
        self.put(i.operands[0], self.special.get(name, 0) if isinstance(name, str) else 0)

    do_S2UR = do_S2R

    def do_LDC(self, i: Instruction) -> None:
        result, given = i.operands
        if i.has("64"):
            self.put_pair(result, self.constant(given.source, size=8))
        else:
            size = next((BYTES[m] for m in i.modifiers if m in BYTES), 4)
            self.put(result, self.constant(given.source, size=size))

    def do_P2R(self, i: Instruction) -> None:
        file = "UP" if i.opcode == "UP2UR" else "P"
        found = sum(self.predicates.get((file, k), False) << k for k in range(7))
        self.put(i.operands[0], found & self.word(i.operands[3]))

    do_UP2UR = do_P2R

    def do_R2P(self, i: Instruction) -> None:
        for k in range(7):
            if self.word(i.operands[2]) >> k & 1:
                self.predicates["P", k] = bool(self.word(i.operands[1]) >> k & 1)

    def do_VOTE(self, i: Instruction) -> None:
        for o in i.operands[:-1]:
            if isinstance(o, Predicate):
                self.decide(o, self.holds(i.operands[-1]))
            else:
                self.put(o, WORD if self.holds(i.operands[-1]) else 0)

    do_VOTEU = do_VOTE

    def do_SHFL(self, i: Instruction) -> None:
        _, result, given, *_ = i.operands
        self.put(result, self.word(given))

    def do_I2F(self, i: Instruction) -> None:
        result, given = i.operands
        if i.has("F64"):
            self.put_pair(result, DATA << 32 | DATA)
            return
        wide = i.has("U64") or i.has("S64")
        value = self.pair(given) if wide else self.word(given)
        if not (i.has("U32") or i.has("U64")):
            value = (value ^ 1 << (63 if wide else 31)) - (1 << (63 if wide else 31))
        rounded = number_of(bits_of(value))
        if i.has("RP") and rounded < value:
            rounded = number_of(bits_of(rounded) + 1)
        self.put_real(result, rounded)

    do_I2FP = do_I2F

    def do_F2I(self, i: Instruction) -> None:
        result, given = i.operands
        if i.has("F64"):
            self.put(result, 0)
            return
        value = self.real(given)
        whole = int(value) if math.isfinite(value) else 0
        if i.has("U64") or i.has("S64"):
            self.put_pair(result, whole)
        else:
            least, most = (0, WORD) if i.has("U32") else (-SIGN, SIGN - 1)
            self.put(result, min(max(whole, least), most))

    def do_FRND(self, i: Instruction) -> None:
        value = self.real(i.operands[1])
        self.put_real(i.operands[0], float(round(value)) if math.isfinite(value) else value)

    def do_FADD(self, i: Instruction) -> None:
        self.put_real(i.operands[0], self.real(i.operands[1]) + self.real(i.operands[2]))

    def do_FMUL(self, i: Instruction) -> None:
        self.put_real(i.operands[0], self.real(i.operands[1]) * self.real(i.operands[2]))

    def do_FFMA(self, i: Instruction) -> None:
        result, a, b, c = i.operands
        total = self.real(a) * self.real(b) + self.real(c)
        self.put_real(result, min(max(total, 0.0), 1.0) if i.has("SAT") else total)

    def do_FMNMX(self, i: Instruction) -> None:
        result, a, b, least = i.operands
        self.put_real(result, (min if self.holds(least) else max)(self.real(a), self.real(b)))

    def do_HFMA2(self, i: Instruction) -> None:
        """Only as nvcc writes a number into a register: 0 times 0 and two halves of it."""
        result, _, _, high, low = i.operands
        both = [int(struct.unpack("<H", struct.pack("<e", self.real(o)))[0]) for o in (low, high)]
        self.put(result, both[0] | both[1] << 16)

    def do_MUFU(self, i: Instruction) -> None:
        result, given = i.operands
        name = i.modifiers[0]
        if name.endswith("64H"):
            self.put(result, DATA)
            return
        value = self.real(given)
        try:
            found = {"RCP": lambda: 1 / value, "EX2": lambda: 2.0**value, "RSQ": lambda: value**-0.5,
                     "SQRT": lambda: value**0.5, "LG2": lambda: math.log2(value)}[name]()  # fmt: skip
        except (ZeroDivisionError, OverflowError, ValueError):
            found = math.inf
        self.put_real(result, found)


def _signed(word: int) -> int:
    return (word ^ SIGN) - SIGN
