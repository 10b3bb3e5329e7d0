"""virConnect, assembled from its topics."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Self

from pytest_embedvm.api._object import Session, answering
from pytest_embedvm.api.connect.capabilities import Capabilities
from pytest_embedvm.api.connect.creation import Creation
from pytest_embedvm.api.connect.identity import Identification
from pytest_embedvm.api.connect.listing import Listing
from pytest_embedvm.api.connect.lookup import Lookup
from pytest_embedvm.api.connect.monitor_event import MonitorEvents
from pytest_embedvm.api.connect.networks import Networks
from pytest_embedvm.api.connect.save import Restore
from pytest_embedvm.api.connect.secrets import Secrets
from pytest_embedvm.api.connect.storage import Storage
from pytest_embedvm.api.unsupported import unsupported

#: pytest shows the line that called, not these.
__tracebackhide__ = True


@unsupported
class virConnect(
    Identification, Creation, Lookup, Listing, MonitorEvents, Capabilities, Restore, Networks, Secrets, Storage
):
    """A connection to one root. Made by `open`; also a context manager that closes it.

    A connection that nobody holds any more is closed when it is collected.
    """

    def __init__(self, _obj: Session) -> None:
        self._session = _obj
        weakref.finalize(self, _obj.abandon).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type_: type[BaseException] | None,
        exc_value_: BaseException | None,
        traceback_: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> int:
        """End the connection: its AUTO_DESTROY machines end, and all its domains and streams become unusable.

        Its callbacks are told what happened before, unless one of them is who calls this.

        Returns 0: unlike libvirt's, a connection does not live on in its domains.

        :raise libvirtError: INVALID_CONN when it is closed already.
        """
        with answering():  # no policy is asked: what is open can be closed
            self._run(self._session.end(drain=not self._session.delivers_here()))
            return 0
