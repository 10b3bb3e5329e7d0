"""What cloud-init in a stock cloud image is told at its first boot: a NoCloud seed, a disk with the label `cidata`."""

from __future__ import annotations

import base64
import io
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pycdlib

from pytest_embedvm.files import PRIVATE_FILE

# cloud-init: doc/rtd/reference/datasources/nocloud.rst
LABEL: Final = "cidata"


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A guest's configuration. What is left out stays as the image has it.

    `user` is made, may become root by sudo without a password, and is let in with `ssh_keys` (public keys, as in
    authorized_keys); without a user the keys are the image's default user's. `files` maps paths to contents;
    `commands`, words or scripts for the shell, run at the end of the first boot, after `packages` were installed.
    `network` is cloud-init's network configuration, version 1 or 2; without one cloud-init uses DHCP.
    `config` has further keys of cloud-config, and wins. The guest takes another `instance_id` for another first boot.
    """

    hostname: str | None = None
    user: str | None = None
    ssh_keys: Sequence[str] = ()
    files: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)
    packages: Sequence[str] = ()
    commands: Sequence[str | Sequence[str]] = ()
    network: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    instance_id: str = field(default_factory=lambda: f"embedvm-{uuid.uuid4()}")

    def user_data(self) -> str:
        """cloud-config, in the part of YAML that is JSON."""
        config: dict[str, Any] = {}
        if self.hostname is not None:
            config |= {"hostname": self.hostname}
        if self.user is not None:
            config["users"] = [self._user(self.user)]
        elif self.ssh_keys:
            config["ssh_authorized_keys"] = list(self.ssh_keys)
        if self.files:
            config["write_files"] = [_file(path, content) for path, content in self.files.items()]
        if self.packages:
            config["packages"] = list(self.packages)
        if self.commands:
            config["runcmd"] = [command if isinstance(command, str) else list(command) for command in self.commands]
        return f"#cloud-config\n{_yaml({**config, **self.config})}"

    def meta_data(self) -> str:
        """Which guest this is."""
        names = {} if self.hostname is None else {"local-hostname": self.hostname}
        return _yaml({"instance-id": self.instance_id, **names})

    def network_config(self) -> str | None:
        """The network's configuration; None where the guest is to find one itself."""
        return None if self.network is None else _yaml(self.network)

    def write(self, path: Path) -> Path:
        """Make at PATH an ISO 9660 image of the seed, 0600.

        :raise FileExistsError: when something is there.
        :raise OSError: when it cannot be written.
        """
        texts = {"user-data": self.user_data(), "meta-data": self.meta_data(), "network-config": self.network_config()}
        data = _iso({name: text.encode() for name, text in texts.items() if text is not None})
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE), "wb") as file:
            file.write(data)
        return path

    def _user(self, name: str) -> dict[str, Any]:
        user: dict[str, Any] = {"name": name, "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/sh"}
        return user | ({"ssh_authorized_keys": list(self.ssh_keys)} if self.ssh_keys else {})


def _file(path: str, content: str | bytes) -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    return {"path": path, "encoding": "b64", "content": base64.b64encode(data).decode()}


def _yaml(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


def _iso(files: Mapping[str, bytes]) -> bytes:
    image = pycdlib.PyCdlib()
    # Rock Ridge: the plain format has no name with a "-" in it
    image.new(interchange_level=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, data) in enumerate(files.items()):
        image.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name)
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()
