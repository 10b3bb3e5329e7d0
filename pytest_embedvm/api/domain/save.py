"""A domain that goes into a file."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Final

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainCoreDumpFlags, DomainCoreDumpFormat, DomainSaveImageXMLFlags
from pytest_embedvm.constants import DomainSaveRestoreFlags as Flags
from pytest_embedvm.driver.saving import restore as restoring
from pytest_embedvm.driver.saving import save as saving
from pytest_embedvm.driver.saving.dump import Wish, dump
from pytest_embedvm.errors import InvalidCall, OperationDenied

#: BYPASS_CACHE is a hint that nothing depends on.
SAVE: Final = Flags.BYPASS_CACHE | Flags.RUNNING | Flags.PAUSED
#: What shows an image's passwords.
SECURE: Final = DomainSaveImageXMLFlags.SAVE_IMAGE_XML_SECURE
DUMP: Final = (
    DomainCoreDumpFlags.CRASH
    | DomainCoreDumpFlags.LIVE
    | DomainCoreDumpFlags.BYPASS_CACHE
    | DomainCoreDumpFlags.RESET
    | DomainCoreDumpFlags.MEMORY_ONLY
)


class Save(Base):
    """save, managedSave, and what can be asked of the managed image; coreDump."""

    @public("virDomainSave", writes=True)
    def save(self, to: str) -> int:
        """Write the running machine into the file TO, and end it; `restore` of the connection lets it go on.

        :raise libvirtError: whatever happens, the machine then runs on.
        """
        path = file(to, "to", "virDomainSave")
        self._order(lambda machine: saving.save(machine, path))
        return 0

    @public("virDomainSaveFlags", writes=True)
    def saveFlags(self, to: str, dxml: str | None = None, flags: int = 0) -> int:
        """Like `save`; DXML is the domain with what is to stand behind its devices when it is restored.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        path = file(to, "to", "virDomainSaveFlags")
        running = runs(flags, SAVE, "qemuDomainSaveFlags")
        self._order(lambda machine: saving.save(machine, path, xml=dxml, running=running))
        return 0

    @public("virDomainManagedSave", writes=True)
    def managedSave(self, flags: int = 0) -> int:
        """Write the running machine into a file of the root, and end it; its next `create` lets it go on.

        :raise libvirtError: OPERATION_INVALID when it is transient, or does not run.
        """
        running = runs(flags, SAVE, "qemuDomainManagedSave")
        self._order(lambda machine: saving.managed_save(machine, running=running))
        return 0

    @public("virDomainManagedSaveRemove", writes=True)
    def managedSaveRemove(self, flags: int = 0) -> int:
        """Forget what `managedSave` wrote.

        :raise libvirtError: SYSTEM_ERROR when there is nothing.
        """
        arguments.none(flags, "qemuDomainManagedSaveRemove")
        self._order(saving.remove_managed)
        return 0

    @public("virDomainHasManagedSaveImage")
    def hasManagedSaveImage(self, flags: int = 0) -> int:
        """1 when its next `create` lets it go on where `managedSave` left it."""
        arguments.none(flags, "qemuDomainHasManagedSaveImage")
        return int(self._ask(saving.has_managed))

    @public("virDomainManagedSaveGetXMLDesc")
    def managedSaveGetXMLDesc(self, flags: int = 0) -> str:
        """The domain as `managedSave` wrote it.

        :raise libvirtError: OPERATION_INVALID when there is nothing; OPERATION_DENIED when passwords are asked for
            (VIR_DOMAIN_SAVE_IMAGE_XML_SECURE) on a read-only connection.
        """
        if self._session.readonly and operator.index(flags) & SECURE:
            raise OperationDenied("virDomainManagedSaveGetXMLDesc with secure flag")
        secure = bool(arguments.known(flags, SECURE, "qemuDomainManagedSaveGetXMLDesc"))
        return self._ask(lambda machine: restoring.text(saving.require_managed(machine), secure=secure))

    @public("virDomainManagedSaveDefineXML", writes=True)
    def managedSaveDefineXML(self, dxml: str, flags: int = 0) -> int:
        """Have it go on as the domain DXML.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        text = arguments.text(dxml, "dxml", "virDomainManagedSaveDefineXML")
        running = runs(flags, Flags.RUNNING | Flags.PAUSED, "qemuDomainManagedSaveDefineXML")
        self._order(
            lambda m: restoring.redefine(m.driver, saving.require_managed(m), text, running=running),
        )
        return 0

    @public("virDomainCoreDump", writes=True)
    def coreDump(self, to: str, flags: int = 0) -> int:
        """Write the machine's memory into the file TO; it runs on, unless `VIR_DUMP_*` says otherwise.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        return self._dump(file(to, "to", "virDomainCoreDump"), DomainCoreDumpFormat.RAW, flags)

    @public("virDomainCoreDumpWithFormat", writes=True)
    def coreDumpWithFormat(self, to: str, dumpformat: int, flags: int = 0) -> int:
        """Like `coreDump`, in one of `VIR_DOMAIN_CORE_DUMP_FORMAT_*`.

        :raise libvirtError: INVALID_ARG when this QEMU does not have the format.
        """
        path = file(to, "to", "virDomainCoreDumpWithFormat")
        if operator.index(dumpformat) not in tuple(DomainCoreDumpFormat):
            raise InvalidCall(f"dumpformat '{dumpformat}' is not supported")
        return self._dump(path, DomainCoreDumpFormat(dumpformat), flags)

    def _dump(self, path: Path, dumpformat: DomainCoreDumpFormat, flags: int) -> int:
        crash, live, reset = DomainCoreDumpFlags.CRASH, DomainCoreDumpFlags.LIVE, DomainCoreDumpFlags.RESET
        for one, other in ((crash, live), (crash, reset), (live, reset)):
            if operator.index(flags) & (one | other) == one | other:
                raise InvalidCall(f"Flags 'VIR_DUMP_{one.name}' and 'VIR_DUMP_{other.name}' are mutually exclusive")
        checked = arguments.known(flags, DUMP, "qemuDomainCoreDumpWithFormat")
        wish = Wish(
            format=dumpformat,
            memory_only=DomainCoreDumpFlags.MEMORY_ONLY in checked,
            live=live in checked,
            crash=crash in checked,
            reset=reset in checked,
        )
        self._order(lambda machine: dump(machine, path, wish))
        return 0


def file(path: str | None, name: str, function: str) -> Path:
    """The file that a caller names, from where the process is."""
    # libvirt: virFileAbsPath
    return Path(os.path.abspath(arguments.text(path, name, function)))  # noqa: PTH100 - of a file that need not exist


def runs(flags: int, allowed: Flags, function: str) -> bool | None:
    """Whether a guest is to run when it is restored; None for as it is.

    :raise InvalidCall: when FLAGS say both, or what FUNCTION does not know.
    """
    both = Flags.RUNNING | Flags.PAUSED
    if int(flags) & both == both:
        raise InvalidCall("Flags 'VIR_DOMAIN_SAVE_RUNNING' and 'VIR_DOMAIN_SAVE_PAUSED' are mutually exclusive")
    checked = arguments.known(flags, allowed, function)
    return (Flags.RUNNING in checked) if checked & both else None
