"""The guest's own programs, from their sources to static ELF files: no compiler is needed on the host.

The language looks like Python and has numbers of 64 bits alone. At the top of a source stand constants,
`NAME = room(n)` for n bytes of zeroed memory (NAME is its address), and functions of such numbers; `main` is given the
address of the stack as the kernel made it, and returns the exit status. In functions: variables, `if`, `while`,
`break`, `continue`, `return`, arithmetic, comparisons (signed), `and`, `or`, `not`; `byte[a]`, `half[a]`, `word[a]`,
`long[a]` are the memory at an address, unsigned; b"…" is the address of those bytes and a NUL; `syscall(number, …)`
asks the kernel, and `copy(to, from, count)` moves bytes.
"""

from __future__ import annotations

import ast
import struct
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.native import x86_64 as cpu

#: Where a program's file and its zeroed memory are put.
FILE_ADDRESS: Final = 0x400000
ROOM_ADDRESS: Final = 0x10000000
_PAGE: Final = 4096
_ALIGNMENT: Final = 16
_HEADERS: Final = 64 + 3 * 56


class SourceError(ValueError):
    """A source has what the language has not; the message says where."""


def compiled(source: Path) -> bytes:
    """The program for x86-64 Linux whose source is in the file SOURCE.

    :raise SourceError: when that is not in the language.
    """
    module = _Module()
    for node in ast.parse(source.read_text(), str(source)).body:
        module.add(node)
    return module.link()


def _refuse(node: ast.AST) -> SourceError:
    return SourceError(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)} is not in the language")


class _Module:
    """A program in the making: code, and where in it addresses are still missing."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.numbers: dict[str, int] = {}
        self.functions: dict[str, int] = {}
        self._calls: list[tuple[int, str, ast.AST]] = []
        self._strings: list[tuple[int, bytes]] = []
        self._room = 0
        self.emit(cpu.ENTRY)
        self.call("main", ast.Name("main"))
        self.emit(cpu.EXIT)

    def emit(self, code: bytes) -> None:
        self.code += code

    def call(self, name: str, node: ast.AST) -> None:
        self.emit(cpu.CALL + bytes(4))
        self._calls.append((len(self.code), name, node))

    def string(self, data: bytes) -> None:
        self.emit(cpu.CONSTANT + bytes(8))
        self._strings.append((len(self.code), data + b"\0"))

    def add(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.numbers[name] = self._constant(value)
            case ast.FunctionDef():
                self.functions[node.name] = len(self.code)
                _Function(self, node).compile()
            case _:
                raise _refuse(node)

    def _constant(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if name in self.numbers:
                return self.numbers[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._constant(left) + self._constant(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self._constant(left) * self._constant(right)
            case ast.Call(func=ast.Name(id="room"), args=[size]):
                address = ROOM_ADDRESS + self._room
                self._room += -(-self._constant(size) // _ALIGNMENT) * _ALIGNMENT
                return address
        raise _refuse(node)

    def link(self) -> bytes:
        """The ELF file of what was added."""
        for place, name, node in self._calls:
            if name not in self.functions:
                raise _refuse(node)
            self.code[place - 4 : place] = struct.pack("<i", self.functions[name] - place)
        data = bytearray()
        for place, text in self._strings:
            address = FILE_ADDRESS + _HEADERS + len(self.code) + len(data)
            self.code[place - 8 : place] = struct.pack("<q", address)
            data += text
        body = bytes(self.code + data)
        return _headers(_HEADERS + len(body), self._room) + body


def _headers(size: int, room: int) -> bytes:
    # elf(5): a static program, one segment to read and run, one of zeroes, a stack that cannot be run
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, FILE_ADDRESS + _HEADERS, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, FILE_ADDRESS, FILE_ADDRESS, size, size, _PAGE)
    zeroed = struct.pack("<IIQQQQQQ", 1, 6, 0, ROOM_ADDRESS, ROOM_ADDRESS, 0, max(room, 1), _PAGE)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, _ALIGNMENT)
    return identity + head + code + zeroed + stack


class _Function:
    """One function: each expression leaves its value in rax."""

    def __init__(self, module: _Module, node: ast.FunctionDef) -> None:
        self._module = module
        self._emit = module.emit
        self._node = node
        parameters = [argument.arg for argument in node.args.args]
        self._places = {name: 8 * (1 + len(parameters) - index) for index, name in enumerate(parameters)}
        self._variables = 0
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id not in self._places:
                self._variables += 1
                self._places[part.id] = -8 * self._variables
        #: Of each loop around: where it begins, and the jumps to its end.
        self._loops: list[tuple[int, list[int]]] = []

    def compile(self) -> None:
        self._emit(cpu.enter(self._variables))
        self._block(self._node.body)
        self._emit(cpu.constant(0) + cpu.LEAVE)

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Expr(value=value):
                self._value(value)
            case ast.Assign(targets=[target], value=value):
                self._value(value)
                self._store(target)
            case ast.AugAssign(target=ast.Name() as target, op=op, value=value):
                self._binary(ast.Name(target.id), op, value)
                self._store(target)
            case ast.Return(value=value):
                if value is not None:
                    self._value(value)
                self._emit(cpu.LEAVE)
            case _:
                self._control(node)

    def _control(self, node: ast.stmt) -> None:
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                self._value(test)
                over = self._jump(cpu.JUMP_IF_ZERO)
                self._block(body)
                end = self._jump(cpu.JUMP) if orelse else None
                self._land(over)
                self._block(orelse)
                if end is not None:
                    self._land(end)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(test, body)
            case ast.Break() if self._loops:
                self._loops[-1][1].append(self._jump(cpu.JUMP))
            case ast.Continue() if self._loops:
                self._back(self._loops[-1][0])
            case _:
                raise _refuse(node)

    def _while(self, test: ast.expr, body: list[ast.stmt]) -> None:
        start, ends = len(self._module.code), list[int]()
        self._value(test)
        ends.append(self._jump(cpu.JUMP_IF_ZERO))
        self._loops.append((start, ends))
        self._block(body)
        self._loops.pop()
        self._back(start)
        for end in ends:
            self._land(end)

    def _jump(self, code: bytes) -> int:
        self._emit(code + bytes(4))
        return len(self._module.code)

    def _land(self, jump: int) -> None:
        self._module.code[jump - 4 : jump] = struct.pack("<i", len(self._module.code) - jump)

    def _back(self, start: int) -> None:
        self._emit(cpu.JUMP + struct.pack("<i", start - len(self._module.code) - 5))

    def _store(self, target: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                self._emit(cpu.put(self._places[name]))
            case ast.Subscript(value=ast.Name(id=size), slice=address) if size in cpu.STORE:
                self._emit(cpu.PUSH)
                self._value(address)
                self._emit(cpu.STORE[size])
            case _:
                raise _refuse(target)

    def _value(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=int(number)):
                self._emit(cpu.constant(number))
            case ast.Constant(value=bytes(data)):
                self._module.string(data)
            case ast.Name(id=name) if name in self._places:
                self._emit(cpu.get(self._places[name]))
            case ast.Name(id=name) if name in self._module.numbers:
                self._emit(cpu.constant(self._module.numbers[name]))
            case ast.Subscript(value=ast.Name(id=size), slice=address) if size in cpu.LOAD:
                self._value(address)
                self._emit(cpu.LOAD[size])
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                self._call(name, arguments, node)
            case _:
                self._operation(node)

    def _operation(self, node: ast.expr) -> None:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op).__name__ in cpu.ARITHMETIC:
                self._binary(left, op, right)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                self._operands(left, right)
                self._emit(cpu.compare(type(op).__name__))
            case ast.BoolOp(op=op, values=values):
                self._either(cpu.JUMP_IF_ZERO if isinstance(op, ast.And) else cpu.JUMP_IF_NOT, values)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert() as op, operand=operand):
                self._value(operand)
                self._emit({"Not": cpu.NOT, "USub": cpu.NEGATE, "Invert": cpu.INVERT}[type(op).__name__])
            case _:
                raise _refuse(node)

    def _either(self, jump: bytes, values: list[ast.expr]) -> None:
        ends = []
        for value in values[:-1]:
            self._value(value)
            ends.append(self._jump(jump))
        self._value(values[-1])
        for end in ends:
            self._land(end)

    def _binary(self, left: ast.expr, op: ast.operator, right: ast.expr) -> None:
        self._operands(left, right)
        self._emit(cpu.ARITHMETIC[type(op).__name__])

    def _operands(self, left: ast.expr, right: ast.expr) -> None:
        self._value(left)
        self._emit(cpu.PUSH)
        self._value(right)
        self._emit(cpu.OPERANDS)

    def _call(self, name: str, arguments: list[ast.expr], node: ast.AST) -> None:
        for argument in arguments:
            self._value(argument)
            self._emit(cpu.PUSH)
        if name == "syscall" and 1 <= len(arguments) <= 7:
            self._emit(cpu.system_call(len(arguments)))
        elif name == "copy" and len(arguments) == 3:
            self._emit(cpu.COPY)
        else:
            self._module.call(name, node)
            self._emit(cpu.drop(len(arguments)))
