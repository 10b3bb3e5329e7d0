"""One connection, as the driver sees it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_embedvm.driver.uri import Uri


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `open` was told besides the URI."""

    #: Configuration instead of the root's own file: a path, or keys and values.
    config: str | os.PathLike[str] | Mapping[str, object] | None = field(default=None, repr=False)  # a password's too
    #: Whether the machines that it starts have a second monitor that others can connect to.
    debug: bool = True
    #: Whether the machines that it starts without AUTO_DESTROY outlive the process.
    keep_running: bool = False


@dataclass(eq=False)
class Client:
    """Who has a root open; the owner of the machines that it started with AUTO_DESTROY."""

    options: Options = field(default_factory=Options)
    #: What it opened; None: a root with nothing said about it.
    uri: Uri | None = None
