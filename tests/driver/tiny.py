"""A guest of a hundred bytes: firmware that obeys letters on its serial port, and boots in a millisecond."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from pytest_embedvm.driver.descriptors import connect_unix

#: It says this once it listens, and then echoes what it reads.
GREETING = b"K"
RESET, POWER_OFF, PANIC = b"R", b"P", b"C"

_PORT_COM1, _PORT_RESET, _PORT_PANIC, _PORT_PM1A_CONTROL = 0x3F8, 0xCF9, 0x505, 0x604


def firmware() -> bytes:
    """64 KiB of ROM for q35: real-mode code at its start, a jump to it at the reset vector."""
    code, fixups, labels = bytearray(), [], {}

    def jump(opcode: int, label: str) -> None:
        code.extend((opcode, 0))
        fixups.append((len(code) - 1, label))

    def out32(port: int, value: int) -> None:  # mov dx, port; mov eax, value; out dx, eax
        code.extend((0xBA, port & 255, port >> 8, 0x66, 0xB8, *value.to_bytes(4, "little"), 0x66, 0xEF))

    def out8(port: int, value: int) -> None:  # mov dx, port; mov al, value; out dx, al
        code.extend((0xBA, port & 255, port >> 8, 0xB0, value, 0xEE))

    out32(0xCF8, 0x8000F840), out32(0xCFC, 0x601)  # the LPC bridge's PMBASE: ACPI registers at 0x600
    out32(0xCF8, 0x8000F844), out32(0xCFC, 0x80)  # and switched on
    out8(_PORT_COM1, GREETING[0])
    labels["wait"] = len(code)
    code.extend((0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01))  # mov dx, COM1 line status; in al, dx; test al, 1
    jump(0x74, "wait")
    code.extend((0xBA, 0xF8, 0x03, 0xEC, 0xEE))  # mov dx, COM1; in al, dx; out dx, al
    for letter in (RESET, POWER_OFF, PANIC):
        code.extend((0x3C, letter[0]))  # cmp al, letter
        jump(0x74, letter.decode())
    jump(0xEB, "wait")
    labels["R"] = len(code)
    out8(_PORT_RESET, 6)
    jump(0xEB, "wait")
    labels["C"] = len(code)
    out8(_PORT_PANIC, 1)
    jump(0xEB, "wait")
    labels["P"] = len(code)
    code.extend((0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF))  # mov dx, PM1a control; mov ax, SLP_EN | S5; out dx, ax
    jump(0xEB, "wait")
    for at, label in fixups:
        code[at] = (labels[label] - at - 1) & 255
    rom = bytearray(b"\xf4" * 65536)
    rom[: len(code)] = code
    rom[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp 0
    return bytes(rom)


def xml(
    directory: Path,
    name: str = "a",
    *,
    number: int = 1,
    extra: str = "",
    devices: str = "",
    arguments: tuple[str, ...] = (),
    serial: str | None = None,
) -> str:
    """A domain that runs it, with COM1 on a socket in DIRECTORY, unless SERIAL is another one."""
    directory.mkdir(parents=True, exist_ok=True)
    rom = directory / "tiny.fd"
    if not rom.exists():
        rom.write_bytes(firmware())
    serial = serial or f"<serial type='unix'><source mode='bind' path='{directory / 'com1'}'/></serial>"
    return f"""
    <domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
      <name>{name}</name>
      <uuid>11111111-1111-1111-1111-{number:012}</uuid>
      <memory unit='MiB'>32</memory>
      <os><type arch='x86_64' machine='q35'>hvm</type><loader type='rom'>{rom}</loader></os>
      {extra}
      <devices>{serial}{devices}</devices>
      <qemu:commandline>{"".join(f"<qemu:arg value='{word}'/>" for word in arguments)}</qemu:commandline>
    </domain>"""


def _connected(directory: Path) -> socket.socket:
    sock = connect_unix(directory / "com1")
    sock.setblocking(False)
    return sock


async def tell(directory: Path, letter: bytes) -> None:
    """Send LETTER to the guest, which has it when this returns."""
    reader, writer = await asyncio.open_unix_connection(sock=_connected(directory))
    writer.write(letter)
    await asyncio.wait_for(reader.readuntil(letter), 10)
    writer.close()
    await writer.wait_closed()
