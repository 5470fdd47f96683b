"""The machine code of NVIDIA's GPUs as nvdisasm prints it: what an instruction says, and where its operands are."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Register(NamedTuple):
    """One of the file "R" of a thread or "UR" of a warp, of which RZ and URZ are number -1 and zero."""

    file: str
    number: int

    def next(self, by: int = 1) -> Register:
        return self if self.number < 0 else Register(self.file, self.number + by)


@dataclass(frozen=True)
class Predicate:
    """P0 to P6 or UP0 to UP6; PT and UPT are number -1 and true."""

    file: str
    number: int
    negated: bool


@dataclass(frozen=True)
class Value:
    """A register, a number or a parameter, and what is done to it: "-", "~" or "|" for the absolute value."""

    source: Register | int | Constant
    signs: str = ""


@dataclass(frozen=True)
class Constant:
    """c[bank][offset], or c[bank][register + offset]."""

    bank: int
    offset: int
    register: Register | None = None


@dataclass(frozen=True)
class Address:
    """[register + uniform + offset]; a register of 64 bits is two."""

    register: Register | None
    uniform: Register | None
    offset: int
    wide: bool


@dataclass(frozen=True)
class Instruction:
    guard: Predicate
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Any, ...]  # Value, Predicate, Address, or the text of what is none: a label, a real number

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers


@dataclass
class Program:
    """The instructions of a kernel, the places in it that labels and addresses name, and where its tables jump to."""

    tables: bytes
    instructions: list[Instruction] = field(default_factory=list)
    places: dict[str | int, int] = field(default_factory=dict)


def programs(text: str) -> dict[str, Program]:
    """Return every kernel of a disassembly by its symbol."""
    parts = re.split(r"^//-+ (\.\S+) -+$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2]))
    return {
        name.removeprefix(".text."): _program(body, sections.get(name.replace(".text.", ".nv.constant2."), ""))
        for name, body in sections.items()
        if name.startswith(".text.")
    }


def _program(text: str, tables: str) -> Program:
    numbers = "".join(re.findall(r"\.byte(.*)", tables))
    found = Program(bytes(int(number, 16) for number in re.findall(r"0x(\w\w)", numbers)))
    for line in text.splitlines():
        if label := re.match(r"\s*([.$][\w$.]+):", line):
            found.places[label[1]] = len(found.instructions)
        elif code := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            address, guard, name, operands = code.groups()
            found.places[int(address, 16)] = len(found.instructions)
            opcode, *modifiers = name.split(".")
            found.instructions.append(
                Instruction(
                    _predicate(guard or "PT"), opcode, tuple(modifiers), tuple(_operand(o) for o in _split(operands))
                )
            )
    return found


def _split(operands: str) -> list[str]:
    operands = re.sub(r"\(\*.*?\*\)", "", operands)
    return [part for part in (o.strip() for o in operands.split(",")) if part]


def _operand(text: str) -> Value | Predicate | Address | str:
    text = text.replace(".reuse", "")
    if re.fullmatch(r"!?U?P[\dT]", text):
        return _predicate(text)
    bare = text.lstrip("-~|")
    signs, bare = text.removesuffix(bare), bare.rstrip("|")
    if "[" in bare and not bare.startswith("c["):
        return _address(bare)
    if target := re.fullmatch(r"(U?R\d+) .*", text):  # of a jump, with what is added to it
        return Value(_register(target[1]))
    if label := re.search(r"`\(([^)]*)\)", text):
        return label[1]
    if constant := re.fullmatch(r"c\[0x([0-9a-f]+)\]\[(?:(U?R\w+)\+?)?(-?0x[0-9a-f]+)?\](\.\w+)?", bare):
        register = _register(constant[2]) if constant[2] else None
        return Value(Constant(int(constant[1], 16), int(constant[3] or "0", 16), register), signs)
    if name := re.fullmatch(r"(U?R(?:\d+|Z))(\.\w+)*", bare):
        return Value(_register(name[1]), signs)
    if re.fullmatch(r"0x[0-9a-f]+", bare):
        return Value(int(bare, 16), signs)
    return text.replace("QNAN", "nan")


def _register(text: str) -> Register:
    file = text.rstrip("0123456789Z")
    return Register(file, -1 if text.endswith("Z") else int(text[len(file) :]))


def _predicate(text: str) -> Predicate:
    bare = text.lstrip("!")
    return Predicate(bare[:-1], -1 if bare[-1] == "T" else int(bare[-1]), text.startswith("!"))


def _address(text: str) -> Address:
    inside = text[text.rindex("[") + 1 : -1]
    register = uniform = None
    offset, wide = 0, False
    for part in re.findall(r"[+-]?[^+-]+", inside):
        part = part.lstrip("+")
        if part.startswith("UR"):
            uniform = _register(part.split(".")[0])
        elif part.startswith("R"):
            register, wide = _register(part.split(".")[0]), part.endswith(".64")
        else:
            offset += int(part, 16)
    return Address(register, uniform, offset, wide)


def bits_of(number: float) -> int:
    try:
        return int(struct.unpack("<I", struct.pack("<f", number))[0])
    except OverflowError:
        return 0x7F800000 | (0x80000000 if number < 0 else 0)


def number_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0])
