"""A domain that goes to another root, and what can be asked of it on its way."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm import constants
from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Identity
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainGetJobStatsFlags, ErrorDomain
from pytest_embedvm.constants import DomainMigrateFlags as Flags
from pytest_embedvm.driver.long_job import UNLIMITED, info
from pytest_embedvm.driver.migration import client as migration_client
from pytest_embedvm.driver.migration import control as migration_control
from pytest_embedvm.driver.migration.outgoing import Plan
from pytest_embedvm.errors import ArgumentUnsupported, InvalidCall, InvalidConnection, NumericalOverflow

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect
    from pytest_embedvm.api.domain import virDomain

#: What is honoured; UNSAFE and CHANGE_PROTECTION ask for what is always so.
MIGRATE: Final = (
    Flags.LIVE
    | Flags.PEER2PEER
    | Flags.PERSIST_DEST
    | Flags.UNDEFINE_SOURCE
    | Flags.PAUSED
    | Flags.CHANGE_PROTECTION
    | Flags.UNSAFE
    | Flags.OFFLINE
    | Flags.ABORT_ON_ERROR
    | Flags.AUTO_CONVERGE
)
STATS: Final = DomainGetJobStatsFlags.COMPLETED | DomainGetJobStatsFlags.KEEP_COMPLETED
UNSIGNED_LONG: Final = 2**64 - 1

#: The parameters that are honoured, and their types.
_PARAMETERS: Final[Mapping[str, type]] = {
    constants.VIR_MIGRATE_PARAM_URI: str,
    constants.VIR_MIGRATE_PARAM_DEST_NAME: str,
    constants.VIR_MIGRATE_PARAM_DEST_XML: str,
    constants.VIR_MIGRATE_PARAM_PERSIST_XML: str,
    constants.VIR_MIGRATE_PARAM_BANDWIDTH: int,
    constants.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: int,
    constants.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: int,
}
#: QEMU's names for how a guest is slowed down.
_THROTTLE: Final = {
    constants.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: "cpu-throttle-initial",
    constants.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: "cpu-throttle-increment",
}


class Migration(Base):
    """migrate… to a connection, migrateToURI… to a root by its name; jobInfo, jobStats, abortJob."""

    @public("virDomainMigrate", writes=True)
    def migrate(
        self,
        dconn: virConnect,
        flags: int = 0,
        dname: str | None = None,
        uri: str | None = None,
        bandwidth: int = 0,
    ) -> virDomain:
        """Move the running machine, or with VIR_MIGRATE_OFFLINE its definition, to another root of this process.

        :param dname: the name it is to have there; None: the same.
        :param bandwidth: MiB/s; 0: what migrateSetMaxSpeed said.
        :raise libvirtError: whatever happens, the machine then runs on here.
        """
        params = _given(destination_name=dname, migrate_uri=uri, bandwidth=bandwidth)
        return self._migrate_to(dconn, params, flags, "virDomainMigrate")

    @public("virDomainMigrate2", writes=True)
    def migrate2(
        self,
        dconn: virConnect,
        dxml: str | None = None,
        flags: int = 0,
        dname: str | None = None,
        uri: str | None = None,
        bandwidth: int = 0,
    ) -> virDomain:
        """Like `migrate`; DXML is the domain with what stands behind its devices there.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        params = _given(destination_name=dname, destination_xml=dxml, migrate_uri=uri, bandwidth=bandwidth)
        return self._migrate_to(dconn, params, flags, "virDomainMigrate2")

    @public("virDomainMigrate3", writes=True)
    def migrate3(self, dconn: virConnect, params: dict[str, Any], flags: int = 0) -> virDomain:
        """Like `migrate`; PARAMS are `VIR_MIGRATE_PARAM_*`.

        :raise libvirtError: ARGUMENT_UNSUPPORTED for a parameter that this driver does not honour.
        """
        # libvirt: virDomainMigrate3
        if operator.index(flags) & Flags.PEER2PEER:
            raise InvalidCall("use virDomainMigrateToURI3 for peer-to-peer migration")
        if operator.index(flags) & Flags.TUNNELLED:
            raise InvalidCall("cannot perform tunnelled migration without using peer2peer flag")
        return self._migrate_to(dconn, params, flags, "virDomainMigrate3")

    @public("virDomainMigrateToURI", writes=True)
    def migrateToURI(self, duri: str, flags: int = 0, dname: str | None = None, bandwidth: int = 0) -> int:
        """Move it to the root that the URI DURI names, whether it is closed, open here, or in another process.

        VIR_MIGRATE_PEER2PEER must be set. A root that was closed stays open in this process until the machine ends.

        :raise libvirtError: whatever happens, the machine then runs on here.
        """
        uri = arguments.text(duri, "duri", "virDomainMigrateToURI")
        _require_peer2peer(flags)
        return self._migrate_to_uri(uri, _given(destination_name=dname, bandwidth=bandwidth), flags)

    @public("virDomainMigrateToURI2", writes=True)
    def migrateToURI2(
        self,
        dconnuri: str | None = None,
        miguri: str | None = None,
        dxml: str | None = None,
        flags: int = 0,
        dname: str | None = None,
        bandwidth: int = 0,
    ) -> int:
        """Like `migrateToURI`; DXML is the domain with what stands behind its devices there.

        :raise libvirtError: CONFIG_UNSUPPORTED when DXML is another machine for the guest.
        """
        _require_peer2peer(flags)
        params = _given(destination_name=dname, destination_xml=dxml, migrate_uri=miguri, bandwidth=bandwidth)
        return self._migrate_to_uri(arguments.text(dconnuri, "dconnuri", "virDomainMigrateToURI2"), params, flags)

    @public("virDomainMigrateToURI3", writes=True)
    def migrateToURI3(self, dconnuri: str, params: dict[str, Any], flags: int = 0) -> int:
        """Like `migrateToURI`; PARAMS are `VIR_MIGRATE_PARAM_*`.

        :raise libvirtError: ARGUMENT_UNSUPPORTED for a parameter that this driver does not honour.
        """
        _require_peer2peer(flags)
        return self._migrate_to_uri(arguments.text(dconnuri, "dconnuri", "virDomainMigrateToURI3"), params, flags)

    def _migrate_to(self, dconn: virConnect, params: Mapping[str, Any], flags: int, function: str) -> virDomain:
        session = getattr(dconn, "_session", None)
        if session is None:
            raise InvalidConnection(function, origin=ErrorDomain.DOMAIN)
        session.check(function, ErrorDomain.DOMAIN, writes=True)
        plan = _plan(params, flags, "qemuDomainMigrateBegin3Params")
        arrival = self._order(lambda machine: migration_client.to_driver(machine, session.driver, session.client, plan))
        return dconn._domain(Identity(arrival.name, uuid.UUID(arrival.uuid)))

    def _migrate_to_uri(self, uri: str, params: Mapping[str, Any], flags: int) -> int:
        plan = _plan(params, flags, "qemuDomainMigratePerform3Params")
        self._order(lambda machine: migration_client.to_uri(machine, uri, plan))
        return 0

    @public("virDomainMigrateSetMaxSpeed", writes=True)
    def migrateSetMaxSpeed(self, bandwidth: int, flags: int = 0) -> int:
        """Send at most BANDWIDTH MiB/s in migrations of this domain, the one under way too.

        :raise libvirtError: OVERFLOW when it is too much to count.
        """
        arguments.none(flags, "qemuDomainMigrateSetMaxSpeed")
        speed = operator.index(bandwidth) & UNSIGNED_LONG
        self._order(lambda machine: migration_control.set_max_speed(machine, speed))
        return 0

    @public("virDomainMigrateGetMaxSpeed")
    def migrateGetMaxSpeed(self, flags: int = 0) -> int:
        """What migrations of this domain send at most, in MiB/s."""
        arguments.none(flags, "qemuDomainMigrateGetMaxSpeed")
        return self._ask(lambda machine: machine.long_job.max_speed)

    @public("virDomainMigrateSetMaxDowntime", writes=True)
    def migrateSetMaxDowntime(self, downtime: int, flags: int = 0) -> int:
        """Let the guest stand still for DOWNTIME ms at most when it moves.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        arguments.none(flags, "qemuDomainMigrateSetMaxDowntime")
        milliseconds = operator.index(downtime)
        self._order(lambda machine: migration_control.set_max_downtime(machine, milliseconds))
        return 0

    @public("virDomainMigrateGetMaxDowntime")
    def migrateGetMaxDowntime(self, flags: int = 0) -> int:
        """For how many ms the guest may stand still when it moves.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        arguments.none(flags, "qemuDomainMigrateGetMaxDowntime")
        return self._order(migration_control.max_downtime)

    @public("virDomainGetJobInfo")
    def jobInfo(self) -> list[int]:
        """Type; ms elapsed and remaining; total, processed, remaining bytes of all data, of memory, of disks.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        return info(self._order(migration_control.stats))

    @public("virDomainGetJobStats")
    def jobStats(self, flags: int = 0) -> dict[str, Any]:
        """The figures of the job under way, by `VIR_DOMAIN_JOB_*`, and its `type`; or of the last one.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        checked = arguments.known(flags, STATS, "qemuDomainGetJobStats")
        return self._order(lambda machine: migration_control.stats(machine, checked))

    @public("virDomainAbortJob", writes=True)
    def abortJob(self) -> int:
        """Call the job off that is under way; what waits for it raises OPERATION_ABORTED.

        :raise libvirtError: OPERATION_INVALID when there is none.
        """
        self._order(migration_control.abort)
        return 0

    @public("virDomainAbortJobFlags", writes=True)
    def abortJobFlags(self, flags: int = 0) -> int:
        """Like `abortJob`.

        :raise libvirtError: OPERATION_INVALID when there is none.
        """
        arguments.none(flags, "qemuDomainAbortJobFlags")
        self._order(migration_control.abort)
        return 0


def _given(**params: object) -> dict[str, Any]:
    """Those of PARAMS that say something."""
    return {name: value for name, value in params.items() if value}


def _require_peer2peer(flags: int) -> None:
    # libvirt: virDomainMigrateUnmanagedCheckCompat
    if not operator.index(flags) & Flags.PEER2PEER:
        raise ArgumentUnsupported("direct migration is not supported by the source host", origin=ErrorDomain.DOMAIN)


def _plan(params: Mapping[str, Any], flags: int, function: str) -> Plan:
    disks = Flags.NON_SHARED_DISK | Flags.NON_SHARED_INC
    if operator.index(flags) & disks == disks:
        raise InvalidCall("Flags 'VIR_MIGRATE_NON_SHARED_DISK' and 'VIR_MIGRATE_NON_SHARED_INC' are mutually exclusive")
    checked = arguments.known(flags, MIGRATE, function)
    _check(params)
    uri = params.get(constants.VIR_MIGRATE_PARAM_URI)
    if uri is not None:
        # libvirt: qemuMigrationDstPrepareDirect; the driver chooses its own socket
        raise ArgumentUnsupported(f"unsupported scheme {uri.partition(':')[0]} in migration URI {uri}")
    bandwidth = params.get(constants.VIR_MIGRATE_PARAM_BANDWIDTH, 0) & UNSIGNED_LONG
    if bandwidth > UNLIMITED:
        raise NumericalOverflow(f"bandwidth must be less than {UNLIMITED + 1}")
    return Plan(
        live=Flags.LIVE in checked,
        paused=Flags.PAUSED in checked,
        offline=Flags.OFFLINE in checked,
        persist=Flags.PERSIST_DEST in checked,
        undefine=Flags.UNDEFINE_SOURCE in checked,
        abort_on_error=Flags.ABORT_ON_ERROR in checked,
        throttle=_throttle(params, checked),
        bandwidth=bandwidth or None,
        name=params.get(constants.VIR_MIGRATE_PARAM_DEST_NAME),
        xml=params.get(constants.VIR_MIGRATE_PARAM_DEST_XML),
        persistent_xml=params.get(constants.VIR_MIGRATE_PARAM_PERSIST_XML),
    )


def _check(params: Mapping[str, Any]) -> None:
    if not isinstance(params, dict):
        raise TypeError("migration params must be a dictionary")
    for name, value in params.items():
        if name not in _PARAMETERS:
            # libvirt: virTypedParamsValidate
            raise ArgumentUnsupported(f"parameter '{name}' not supported", origin=ErrorDomain.NONE)
        if not isinstance(value, _PARAMETERS[name]):
            raise TypeError(f"migration parameter '{name}' must be {_PARAMETERS[name].__name__}")
    arguments.c_strings(params.values())


def _throttle(params: Mapping[str, Any], flags: Flags) -> dict[str, int] | None:
    throttle = {theirs: params[name] for name, theirs in _THROTTLE.items() if name in params}
    if Flags.AUTO_CONVERGE in flags:
        return throttle
    if throttle:
        # libvirt: qemuMigrationParamsFromFlags
        raise ArgumentUnsupported("Turn auto convergence on to tune it", origin=ErrorDomain.QEMU)
    return None
