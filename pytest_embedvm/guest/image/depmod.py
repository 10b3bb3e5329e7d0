"""depmod's tables for a kernel that was unpacked and not installed, out of what the modules say of themselves."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm.files import write_atomically
from pytest_embedvm.guest.image.decompress import decompress
from pytest_embedvm.guest.image.elf import ELF, NotELF


def write_tables(directory: Path) -> None:
    """Write modules.dep, modules.alias and modules.softdep into DIRECTORY, a `/lib/modules/<release>`.

    :raise Undecodable: when a module's compression cannot be undone.
    :raise OSError: when the directory cannot be read or written.
    """
    paths = sorted(directory.glob("kernel/**/*.ko*"))
    said = {path.name.partition(".")[0].replace("-", "_"): (path, modinfo(path.read_bytes())) for path in paths}
    needs = {name: _names(info.get("depends", [])) for name, (_, info) in said.items()}
    place = {name: str(path.relative_to(directory)) for name, (path, _) in said.items()}
    lines = []
    for name in said:
        needed = [place[other] for other in _deepest_last(name, needs)]
        lines.append(" ".join([f"{place[name]}:", *needed]))
    tables = {
        "modules.dep": lines,
        "modules.alias": [
            f"alias {alias} {name}" for name, (_, info) in said.items() for alias in info.get("alias", [])
        ],
        "modules.softdep": [
            f"softdep {name} {soft}" for name, (_, info) in said.items() for soft in info.get("softdep", [])
        ],
    }
    for table, text in tables.items():
        write_atomically(directory / table, "".join(f"{line}\n" for line in text).encode(), 0o644)


def modinfo(module: bytes) -> dict[str, list[str]]:
    """The fields of the module's `.modinfo`; one with no such section has none."""
    found: dict[str, list[str]] = {}
    try:
        text = ELF(decompress(module)).section(".modinfo")
    except NotELF:
        return found
    for item in text.split(b"\0"):
        key, equals, value = item.decode(errors="replace").partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def _names(fields: list[str]) -> list[str]:
    return [name.replace("-", "_") for field in fields for name in field.split(",") if name]


def _deepest_last(name: str, needs: dict[str, list[str]]) -> list[str]:
    """All that NAME needs, each before what it needs itself: kmod's order, which modprobe loads backwards."""
    done: list[str] = []

    def visit(module: str) -> None:
        for other in needs.get(module, []):
            if other not in done and other in needs:
                visit(other)
                done.append(other)

    visit(name)
    return done[::-1]
