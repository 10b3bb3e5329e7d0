"""Files out of a distribution's packages, fetched by name and not installed: for hosts that lack them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.files import make_private_directory

QUERY_TIMEOUT_S: Final = 30.0
DOWNLOAD_TIMEOUT_S: Final = 600.0


def fetch(package: str, into: Path, *, libraries: bool = False) -> Path:
    """The directory that holds PACKAGE's files, below INTO; downloaded by apt-get where it is not there yet.

    With LIBRARIES, all that the package depends on is unpacked with it. Needs no privileges. A metapackage is
    followed to the one package it depends on.

    :raise OperationUnsupported: when this host has no apt, or apt cannot get it; the detail says what apt said.
    """
    tree = into / (f"{package}+libraries" if libraries else package)
    if tree.is_dir():
        return tree
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise OperationUnsupported(f"cannot fetch the package {package}: this host has no {tool}")
    make_private_directory(into)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=into) as temporary:
        root = Path(temporary) / "root"
        names = _with_dependencies(package) if libraries else [_concrete(package)]
        _run(["apt-get", "download", *names], Path(temporary), DOWNLOAD_TIMEOUT_S)
        for archive in sorted(Path(temporary).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(root)], Path(temporary), DOWNLOAD_TIMEOUT_S)
        _publish(root, tree)
    return tree


def _publish(root: Path, tree: Path) -> None:
    try:
        root.rename(tree)
    except OSError:
        if not tree.is_dir():  # else somebody else fetched it meanwhile
            raise


def _concrete(package: str) -> str:
    """PACKAGE, or the versioned package that the metapackage PACKAGE stands for (linux-image-cloud-amd64)."""
    shown = _run(["apt-cache", "show", "--no-all-versions", package], None, QUERY_TIMEOUT_S)
    depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
    names = [name.strip().split(" ")[0] for name in depends[1].split(",")] if depends else []
    images = [name for name in names if re.match(r"linux-image-.*\d", name)]
    return images[0] if images and not re.search(r"-\d", package) else package


def _with_dependencies(package: str) -> list[str]:
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    shown = _run(["apt-cache", "depends", "--recurse", *options, package], None, QUERY_TIMEOUT_S)
    return sorted({line for line in shown.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]*(:\w+)?", line)})


def _run(command: list[str], directory: Path | None, timeout: float) -> str:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=timeout, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OperationUnsupported(f"{' '.join(command)} took longer than {timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        raise OperationUnsupported(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout
