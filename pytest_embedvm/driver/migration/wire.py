"""How two processes speak about a migration: a line of JSON each, over a root's `driver.sock`.

`{"version": 1, "call": NAME, "arguments": {…}}` is answered by `{"return": {…}}` or `{"error": {…}}`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import struct
import typing
from typing import Any, Final, TypeVar

from pytest_embedvm import errors
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import EmbedError, InternalError, InvalidArgument, OperationFailed, SystemFailure

VERSION: Final = 1
#: The most that a line may have: a domain's XML is far shorter.
LINE_BYTES: Final = 16 * 1024 * 1024

D = TypeVar("D")


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side has hung up.

    :raise InvalidArgument: when it is no JSON object, or too long.
    """
    try:
        line = await reader.readline()
    except ConnectionError:
        return None
    except ValueError:
        raise InvalidArgument(f"a message has more than {LINE_BYTES} bytes") from None
    if not line.endswith(b"\n"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise InvalidArgument("a message is no JSON object")
    return message


async def write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Send MESSAGE.

    :raise OperationFailed: when the other side has hung up.
    """
    try:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()
    except ConnectionError:
        raise hung_up() from None


def hung_up() -> OperationFailed:
    # libvirt: qemuMigrationAnyCompleted
    return OperationFailed("Lost connection to destination host")


def read_fields(kind: type[D], values: object) -> D:
    """An object of dataclass KIND out of VALUES.

    :raise InvalidArgument: when a field is missing, unknown, or of another type.
    """
    types = typing.get_type_hints(kind)
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise InvalidArgument(f"{kind.__name__} must have {', '.join(types)}")
    for name, wanted in types.items():
        if not isinstance(values[name], wanted):
            raise InvalidArgument(f"'{name}' of {kind.__name__} is {values[name]!r}, which is no {wanted}")
    return kind(**values)


def spell_fields(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)


def spell_error(error: EmbedError) -> dict[str, Any]:
    """ERROR for the other side: as the nearest of the classes that both know."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
    return {"class": name, "detail": error.detail, "origin": int(error.origin)}


def read_error(values: object) -> EmbedError:
    """The error that the other side raised."""
    said = values if isinstance(values, dict) else {}
    kind, origin = getattr(errors, str(said.get("class")), None), said.get("origin")
    if isinstance(kind, type) and issubclass(kind, EmbedError) and origin in tuple(ErrorDomain):
        return kind(str(said.get("detail")), origin=ErrorDomain(origin))
    return InternalError(f"the destination said something unexpected: {values!r}")


def require_same_user(sock: socket.socket) -> None:
    """Return if the process at the other end of SOCK is the same user's.

    :raise SystemFailure: when it is not; its files and its guests are none of ours.
    """
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the socket's mode alone keeps others out
        return
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.geteuid():
        raise SystemFailure(f"process {pid} at the other end belongs to user {uid}, not to {os.geteuid()}")
