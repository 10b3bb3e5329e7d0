"""Domains out of files."""

from __future__ import annotations

import operator
from typing import Final

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.domain.save import SAVE, SECURE, runs
from pytest_embedvm.api.domain.save import file as named
from pytest_embedvm.constants import DomainSaveRestoreFlags as Flags
from pytest_embedvm.driver.saving import restore as restoring
from pytest_embedvm.errors import OperationDenied

RESTORE: Final = SAVE | Flags.RESET_NVRAM


class Restore(Base):
    """restore, and what can be asked of an image."""

    @public("virDomainRestore", writes=True)
    def restore(self, frm: str) -> int:
        """Let the machine go on that was saved in the file FRM, which stays.

        :raise libvirtError: OPERATION_FAILED when it is no complete image, OPERATION_INVALID when the domain runs.
        """
        path = named(frm, "from", "virDomainRestore")
        self._order(lambda driver: restoring.restore(driver, self._session.client, path))
        return 0

    @public("virDomainRestoreFlags", writes=True)
    def restoreFlags(self, frm: str, dxml: str | None = None, flags: int = 0) -> int:
        """Like `restore`; DXML is the domain with what stands behind its devices now.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        path = named(frm, "from", "virDomainRestoreFlags")
        running = runs(flags, RESTORE, "qemuDomainRestoreFlags")
        anew = bool(flags & Flags.RESET_NVRAM)
        self._order(
            lambda driver: restoring.restore(
                driver, self._session.client, path, xml=dxml, running=running, reset_nvram=anew
            )
        )
        return 0

    @public("virDomainSaveImageGetXMLDesc")
    def saveImageGetXMLDesc(self, file: str, flags: int = 0) -> str:
        """The domain that is saved in FILE.

        :raise libvirtError: OPERATION_FAILED when it is no complete image; OPERATION_DENIED when passwords are asked
            for (VIR_DOMAIN_SAVE_IMAGE_XML_SECURE) on a read-only connection.
        """
        path = named(file, "file", "virDomainSaveImageGetXMLDesc")
        if self._session.readonly and operator.index(flags) & SECURE:
            raise OperationDenied("virDomainSaveImageGetXMLDesc with secure flag")
        secure = bool(arguments.known(flags, SECURE, "qemuDomainSaveImageGetXMLDesc"))
        return self._ask(lambda _driver: restoring.text(path, secure=secure))

    @public("virDomainSaveImageDefineXML", writes=True)
    def saveImageDefineXML(self, file: str, dxml: str, flags: int = 0) -> int:
        """Have the machine that is saved in FILE restored as the domain DXML.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        path = named(file, "file", "virDomainSaveImageDefineXML")
        text = arguments.text(dxml, "dxml", "virDomainSaveImageDefineXML")
        running = runs(flags, Flags.RUNNING | Flags.PAUSED, "qemuDomainSaveImageDefineXML")
        self._order(lambda driver: restoring.redefine(driver, path, text, running=running))
        return 0
