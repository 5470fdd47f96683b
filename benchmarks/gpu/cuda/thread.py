"""One thread's way through a kernel: what it executes, how often it waits for memory, and what it asks of it.

The numbers that addresses and branches are made of are computed, from the parameters of the launch. A branch that
depends on what memory holds is taken as if all elements were alike. What lies in a line of 128 bytes that the thread
has read before comes from the cache, and is not waited for. Every address must lie in a tensor of the launch.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.gpu.cuda.arithmetic import BYTES, DATA, Arithmetic
from benchmarks.gpu.cuda.sass import Instruction, Predicate, Program, Register, Value

PARAMETERS = {"sm_80": 0x160, "sm_90": 0x210}  # where they begin in bank 0
LINE = 128
MOST = 2_000_000  # instructions of a thread
NOTHING = {"BSSY", "BSYNC", "NOP", "BAR", "WARPSYNC", "STS"}  # of which only time matters here
MEMORY = {"LDG", "LD", "LDL", "STG", "ST", "STL"}


@dataclass
class Work:
    """What a thread has done: instructions, loads waited for in turn, and by tensor the bytes that it asked for."""

    instructions: int = 0
    waits: int = 0
    asked: collections.Counter[int] = field(default_factory=collections.Counter)


class Thread(Arithmetic):
    """A thread of 256 of a block, in a launch with those parameters, which point to `memory`: beginnings and sizes."""

    def __init__(
        self,
        program: Program,
        target: str,
        parameters: bytes,
        memory: Sequence[tuple[int, int]],
        block: int,
        thread: int,
    ) -> None:
        super().__init__()
        self.program, self.memory = program, memory
        self.constants = struct.pack("<III", 256, 1, 1).ljust(PARAMETERS[target], b"\0") + parameters
        self.special = {"SR_CTAID.X": block, "SR_TID.X": thread, "SR_LANEID": thread % 32}
        self.stack: dict[int, int] = {}
        self.pending: set[Register] = set()  # what loads that have not been waited for will fill
        self.lines: set[int] = set()
        self.work = Work()

    def run(self) -> Work:
        at = 0
        while at >= 0:
            instruction = self.program.instructions[at]
            self.work.instructions += 1
            if self.work.instructions > MOST:
                raise RuntimeError("a thread that does not end")
            at = self.step(instruction, at + 1) if self.holds(instruction.guard) else at + 1
        return self.work

    def step(self, i: Instruction, following: int) -> int:
        """Execute an instruction, and return the place of the next; -1 at the end."""
        if i.opcode == "EXIT":
            return -1
        if i.opcode in ("BRA", "CALL"):
            taken = all(self.holds(o) for o in i.operands if isinstance(o, Predicate)) and not i.has("DIV")
            (label,) = [o for o in i.operands if isinstance(o, str)]
            return self.program.places[label] if taken else following
        if i.opcode in ("RET", "BRX", "BRXU"):
            return self.program.places[self.word(i.operands[0])]
        if i.opcode not in NOTHING:
            self.wait(i)
            (self.access if i.opcode in MEMORY else self.execute)(i)
        return following

    def wait(self, i: Instruction) -> None:
        """Count a wait, and take all loads to have come, if the instruction needs one of them."""
        sources = i.operands if i.opcode.startswith("ST") else i.operands[1:]
        if any(isinstance(o, Value) and o.source in self.pending for o in sources):
            self.work.waits += 1
            self.pending.clear()

    def access(self, i: Instruction) -> None:
        """A load fills its registers with data, and a store is looked at for its address alone; but for the stack."""
        loads = i.opcode.startswith("LD")
        address, other = i.operands[1::-1] if loads else i.operands[:2]
        at = address.offset
        if address.register is not None:
            at += self.of(address.register) | (self.of(address.register.next()) << 32 if address.wide else 0)
        if address.uniform is not None:
            at += self.of(address.uniform) | self.of(address.uniform.next()) << 32
        size = next((BYTES[m] for m in i.modifiers if m in BYTES), 4)
        registers = [other.source.next(k) for k in range(-(-size // 4))]
        if i.opcode == "STL":
            self.stack.update({at + 4 * k: self.of(register) for k, register in enumerate(registers)})
        elif i.opcode == "LDL":
            self.registers.update({register: self.stack[at + 4 * k] for k, register in enumerate(registers)})
        elif loads:
            self.registers.update(dict.fromkeys(registers, DATA))
            if at // LINE not in self.lines:
                self.pending.update(registers)
            self.lines.add(at // LINE)
        if i.opcode in ("LDG", "STG"):
            self.work.asked[self.tensor(at, size)] += size

    def tensor(self, at: int, size: int) -> int:
        """The beginning of the launch's tensor that has these bytes."""
        for begin, length in self.memory:
            if begin <= at and at + size <= begin + length and at % size == 0:
                return begin
        raise RuntimeError(f"an access of {size} bytes at {at:#x}, which is in no tensor of the launch, or not aligned")
