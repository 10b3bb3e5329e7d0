from __future__ import annotations

import pytest

from pytest_embedvm.constants import (
    ConnectDomainEventBlockJobStatus,
    DomainBlockJobType,
    DomainEventStoppedDetailType,
    DomainEventType,
    DomainMetadataType,
)
from pytest_embedvm.driver.events import BlockJob2, Event, Lifecycle, MetadataChange, MonitorEvent, Reboot, RtcChange
from pytest_embedvm.driver.restart import pending
from pytest_embedvm.driver.restart.record import Pending


@pytest.mark.parametrize(
    "event",
    [
        Lifecycle(DomainEventType.STOPPED, DomainEventStoppedDetailType.FAILED, "a"),
        Reboot(),
        RtcChange(-3),
        MetadataChange(DomainMetadataType.TITLE, None),
        MetadataChange(DomainMetadataType.ELEMENT, "http://x"),
        BlockJob2("vda", DomainBlockJobType.PULL, ConnectDomainEventBlockJobStatus.READY),
        MonitorEvent("STOP", 1, 2, None),
    ],
)
def test_goes_there_and_back(event: Event) -> None:
    back = pending.read(pending.write(event))
    assert back == event
    assert {name: type(value) for name, value in vars(back).items()} == {
        name: type(value) for name, value in vars(event).items()
    }


@pytest.mark.parametrize(
    "record",
    [
        Pending("Event", {}),
        Pending("Nonsense", {}),
        Pending("Lifecycle", {"event": "x"}),
        Pending("Lifecycle", {"event": "99", "detail": "0", "name": "a"}),
        Pending("Lifecycle", {"event": "5", "detail": "99", "name": "a"}),
        Pending("RtcChange", {}),
    ],
)
def test_what_is_no_event_is_an_error(record: Pending) -> None:
    with pytest.raises(ValueError):
        pending.read(record)
