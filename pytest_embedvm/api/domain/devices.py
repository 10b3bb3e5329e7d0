"""Devices that a domain gets and loses."""

from __future__ import annotations

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainDeviceModifyFlags, DomainModificationImpact
from pytest_embedvm.driver.hotplug import attach, detach, update

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG

MODIFY = DomainDeviceModifyFlags.LIVE | DomainDeviceModifyFlags.CONFIG | DomainDeviceModifyFlags.FORCE


class Devices(Base):
    """attachDevice… and detachDevice…."""

    @public("virDomainAttachDevice", writes=True)
    def attachDevice(self, xml: str) -> int:
        """Plug the device that XML describes into the running domain; its definition stays as it is.

        :raise libvirtError: OPERATION_INVALID when the domain does not run, OPERATION_UNSUPPORTED for a device that
            cannot be plugged in.
        """
        text = arguments.text(xml, "xml", "virDomainAttachDevice")
        uri = self._session.client.uri
        self._order(lambda machine: attach.attach(machine, text, DomainModificationImpact.LIVE, uri))
        return 0

    @public("virDomainAttachDeviceFlags", writes=True)
    def attachDeviceFlags(self, xml: str, flags: int = 0) -> int:
        """Add the device that XML describes to the running domain (LIVE), its definition (CONFIG), or both.

        :raise libvirtError: as `attachDevice`; neither has it then.
        """
        text = arguments.text(xml, "xml", "virDomainAttachDeviceFlags")
        checked = arguments.known(flags, IMPACT, "qemuDomainAttachDeviceFlags")
        uri = self._session.client.uri
        self._order(lambda machine: attach.attach(machine, text, checked, uri))
        return 0

    @public("virDomainDetachDevice", writes=True)
    def detachDevice(self, xml: str) -> int:
        """Take the device that XML describes from the running domain; its definition stays as it is.

        Returns after 5 s while the guest still has it: the event DEVICE_REMOVED tells when it is gone.

        :raise libvirtError: DEVICE_MISSING when there is no such device.
        """
        text = arguments.text(xml, "xml", "virDomainDetachDevice")
        self._order(lambda machine: detach.detach(machine, text, DomainModificationImpact.LIVE))
        return 0

    @public("virDomainDetachDeviceFlags", writes=True)
    def detachDeviceFlags(self, xml: str, flags: int = 0) -> int:
        """Take the device that XML describes from the running domain (LIVE), its definition (CONFIG), or both.

        :raise libvirtError: as `detachDevice`; with LIVE and CONFIG both must have it.
        """
        text = arguments.text(xml, "xml", "virDomainDetachDeviceFlags")
        checked = arguments.known(flags, IMPACT, "qemuDomainDetachDeviceFlags")
        self._order(lambda machine: detach.detach(machine, text, checked))
        return 0

    @public("virDomainUpdateDeviceFlags", writes=True)
    def updateDeviceFlags(self, xml: str, flags: int = 0) -> int:
        """Change the device that XML describes: the link of an interface, the medium of a drive.

        FORCE opens a tray that the guest has locked; else it has 5 s to open it.

        :raise libvirtError: OPERATION_UNSUPPORTED when something changes that cannot.
        """
        text = arguments.text(xml, "xml", "virDomainUpdateDeviceFlags")
        checked = arguments.known(flags, MODIFY, "qemuDomainUpdateDeviceFlags")
        self._order(lambda machine: update.update(machine, text, checked))
        return 0

    @public("virDomainDetachDeviceAlias", writes=True)
    def detachDeviceAlias(self, alias: str, flags: int = 0) -> int:
        """Take the device with this ALIAS away, as `detachDeviceFlags`.

        :raise libvirtError: as `detachDeviceFlags`.
        """
        name = arguments.text(alias, "alias", "virDomainDetachDeviceAlias")
        checked = arguments.known(flags, IMPACT, "qemuDomainDetachDeviceAlias")
        self._order(lambda machine: detach.detach_alias(machine, name, checked))
        return 0
