"""A template on disk: a guest that was stopped at a point from which any number of clones go on.

Its directory holds `domain.xml`; `ram`, the guest's memory, which clones map; `state`, that of its devices, as QEMU's
migration writes it; and `disks/TARGET.qcow2`, what the guest had written to each of its disks. Nothing of it is ever
written again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_embedvm.domain import definition
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import OperationFailed


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

    def disk(self, target: str) -> Path:
        """The image of the disk TARGET."""
        return self.folder / "disks" / f"{target}.qcow2"

    def domain(self) -> Domain:
        """The domain that was made a template.

        :raise OperationFailed: when there is no template, or not all of one.
        """
        try:
            text = self.xml.read_text("utf-8")
            for path in (self.ram, self.state):
                path.stat()
        except (OSError, UnicodeError) as error:
            raise OperationFailed(f"'{self.folder}' is no template: {error}") from error
        return definition.parse(text)
