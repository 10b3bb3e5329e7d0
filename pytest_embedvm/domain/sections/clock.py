"""`<clock>`: the guest's real-time clock and timers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Json, KeyvalPart, Part, option
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Scalar, Where, Whole, YesNo

#: Timers and what of them can be given; what is not listed is refused.
_HONOURED: Final = {("rtc", "tickpolicy"), ("pit", "tickpolicy"), ("hpet", "present"), ("kvmclock", "present")}


class _Adjustment(Scalar[int]):
    """Seconds, or `reset` for none."""

    def read(self, text: str, where: Where) -> int:
        return 0 if text == "reset" else Whole(signed=True, bits=63).read(text, where)

    def write(self, value: int) -> str:
        return str(value)


@dataclass(kw_only=True)
class Timer:
    """`<timer name='rtc' tickpolicy='catchup'/>`."""

    name: Annotated[
        Literal["platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer"],
        Refusal("invalid timer name '{}'", ConfigUnsupported),
    ]
    present: Annotated[bool | None, YesNo()] = None
    tickpolicy: Literal["delay", "catchup", "merge", "discard"] | None = None
    track: Literal["boot", "guest", "wall", "realtime"] | None = None


@dataclass(kw_only=True)
class Clock(Section):
    """Where the guest's clock starts."""

    offset: Annotated[
        Literal["utc", "localtime", "variable", "timezone", "absolute"],
        Refusal("unknown clock offset '{}'", ConfigUnsupported),
    ] = "utc"
    adjustment: Annotated[int | None, _Adjustment()] = None  # seconds
    basis: Literal["utc", "localtime"] | None = None
    timezone: str | None = None
    start: Annotated[int | None, Whole(bits=63)] = None  # seconds since the epoch
    timers: Annotated[list[Timer], At("timer")] = field(default_factory=list)

    def complete(self, context: Context) -> None:
        if self.offset == "variable":
            self.adjustment, self.basis = self.adjustment or 0, self.basis or "utc"

    def check(self, context: Context) -> None:
        for timer in self.timers:
            for name in ("present", "tickpolicy", "track"):
                value = getattr(timer, name)
                if value is not None and (timer.name, name) not in _HONOURED:
                    raise ConfigUnsupported(f"unsupported timer type (name) '{timer.name}' with {name}='{value}'")
        if self.basis == "localtime":
            raise ConfigUnsupported("clock basis 'localtime' is not supported")

    def _timer(self, name: str) -> Timer:
        return next((timer for timer in self.timers if timer.name == name), Timer(name="platform"))

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildClockCommandLine
        props: dict[str, Json] = {"base": self._base(context)}
        if self._timer("rtc").tickpolicy == "catchup":
            props["driftfix"] = "slew"
        yield KeyvalPart("-rtc", "", props)
        pit = self._timer("pit").tickpolicy
        if pit in ("delay", "discard"):
            yield option("-global", f"kvm-pit.lost_tick_policy={pit}")

    def machine_props(self, context: Context) -> Mapping[str, Json]:
        present = self._timer("hpet").present
        return {} if present is None else {"hpet": present}

    def cpu_props(self, context: Context) -> Mapping[str, Json]:
        present = self._timer("kvmclock").present
        return {} if present is None else {"kvmclock": present}

    def environment(self, context: Context) -> Mapping[str, str]:
        return {"TZ": self.timezone} if self.offset == "timezone" and self.timezone else {}

    def _base(self, context: Context) -> str:
        if self.offset == "variable":
            moment = context.host.now() + timedelta(seconds=self.adjustment or 0)
        elif self.offset == "absolute":
            moment = datetime.fromtimestamp(self.start or 0, UTC)
        else:
            return "localtime" if self.offset == "timezone" else self.offset
        return moment.strftime("%Y-%m-%dT%H:%M:%S")
