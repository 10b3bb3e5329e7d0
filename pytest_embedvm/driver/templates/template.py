"""A template on disk: a guest that was stopped at a point from which any number of clones go on.

Its directory holds `ram`, the guest's memory, which clones map; `state`, that of its devices, as QEMU's migration
writes it; `disks/TARGET.qcow2`, what the guest had written to each of its disks; `nvram`, the variables of its UEFI
firmware; and, written last of all, `domain.xml`. Nothing of it is ever written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_embedvm.domain import clonable, definition
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.errors import EmbedError, OperationFailed
from pytest_embedvm.units import KIB


@dataclass(frozen=True)
class Template:
    """The template in `folder`."""

    folder: Path

    @property
    def ram(self) -> Path:
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def xml(self) -> Path:
        return self.folder / "domain.xml"

    @property
    def nvram(self) -> Path:
        """The variables of its UEFI firmware, if it has one."""
        return self.folder / "nvram"

    def disk(self, target: str) -> Path:
        """The image of the disk TARGET."""
        return self.folder / "disks" / f"{target}.qcow2"

    def domain(self) -> Domain:
        """The domain that was made a template.

        :raise OperationFailed: when there is no template, or not all of one.
        """
        try:
            domain = definition.parse(self.xml.read_text("utf-8"))
        except (OSError, UnicodeError, EmbedError) as error:
            raise OperationFailed(f"'{self.folder}' is no template: {error}") from error
        self.require_whole(domain)
        return domain

    def require_whole(self, domain: Domain) -> None:
        """:raise OperationFailed: when something is not there of what this template of DOMAIN consists of."""
        try:
            for path in self._files(domain):
                path.stat()
            size = self.ram.stat().st_size
        except OSError as error:
            raise OperationFailed(f"'{self.folder}' is no template: {error}") from error
        if size != domain.memory * KIB:  # QEMU would make it as long as it has to be
            raise OperationFailed(f"'{self.folder}' is no template: '{self.ram}' has {size} bytes")

    def _files(self, domain: Domain) -> list[Path]:
        """What has to be there beside the XML."""
        disks = [self.disk(image.device) for image in clonable.written_images(domain)]
        return [self.ram, self.state, *([self.nvram] if domain.os.nvram else []), *disks]


@dataclass(frozen=True)
class Cloned:
    """What a clone was made of: where its guest went on from, and the domain it is, before its disks were its own."""

    template: Template
    domain: Completed
    #: The template's MAC addresses, by those of `domain`: the guest has them until it is told.
    former_macs: Mapping[str, str]
