"""QEMU's ends of the cables: it takes each up in its own time, after it has begun to answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pytest_embedvm.errors import OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.running import Running

#: How long QEMU may take, whose thread for this a busy host may not have begun.
JOIN_TIMEOUT_S: Final = 10.0


async def wait_joined(running: Running) -> None:
    """Return when QEMU has taken up the cable of each card.

    QEMU 7.2 ends by SIGSEGV when a card sends before (net/stream.c: net_stream_receive), and a guest that is loaded and
    goes on at once does: what QEMU tells the network in its name waits for it to run.

    :raise OperationTimeout: when that takes longer than 10 s.
    """
    awaited = set(_cables(running.argv))
    if not awaited:
        return
    # Of those that were taken up before the monitor was there no event tells.
    text = str(await running.monitor.execute("human-monitor-command", {"command-line": "info network"}))
    awaited -= {found[1] for found in re.finditer(r"(\S+): index=\d+,type=stream,\S", text)}
    try:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while awaited - running.joined:
                running.has_joined.clear()
                await running.has_joined.wait()
    except TimeoutError:
        missing = ", ".join(sorted(awaited - running.joined))
        raise OperationTimeout(
            f"QEMU did not take up the cable of {missing} within {JOIN_TIMEOUT_S:g} s; last seen: {text.strip()}"
        ) from None


def _cables(argv: Sequence[str]) -> Iterator[str]:
    """The names of QEMU's ends that listen."""
    for option, value in pairwise(argv):
        if option == "-netdev" and value.startswith("{"):
            netdev = json.loads(value)
            if netdev["type"] == "stream" and netdev.get("server"):
                yield netdev["id"]
