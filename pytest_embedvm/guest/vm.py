"""A virtual machine as a test wants it: run, read, write, type, wait. `vm.domain` is the libvirt object beneath."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from pytest_embedvm import embed, libvirt
from pytest_embedvm.embed import CAPTURE_BYTES, Capture
from pytest_embedvm.guest import files, install, network, power, reset, shell
from pytest_embedvm.guest.addresses import Address, Source, addresses
from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.console import Console
from pytest_embedvm.guest.exec_channel import ExecChannel
from pytest_embedvm.guest.files import Files
from pytest_embedvm.guest.forward import Protocol, forward
from pytest_embedvm.guest.network import Direction, Network, Undo, Which
from pytest_embedvm.guest.shell import Command, RunResult, Shell
from pytest_embedvm.guest.templates.origin import BOOTED, Origin
from pytest_embedvm.guest.transcript import Transcript
from pytest_embedvm.guest.wait import Deadline, Watch, describe

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")

#: Told a domain's name and a line of its console.
Show = Callable[[str, str], None]

#: An emulated guest boots in two to five seconds, and many may boot at once.
READY_TIMEOUT_S: Final = 120.0
SHUTDOWN_TIMEOUT_S: Final = 60.0
UNTIL_TIMEOUT_S: Final = 60.0


class VM:
    """A running domain with a Linux guest.

    It listens to the console and to the domain's events until `close`. `run` and the file methods need the guest
    agent in the guest and its channel in the domain; `console` needs a serial port.
    """

    def __init__(
        self,
        domain: libvirt.virDomain,
        *,
        show: Show | None = None,
        history: bytes = b"",
        origin: Origin = BOOTED,
    ) -> None:
        """Begin to listen to DOMAIN, which must be active; start it paused, or what it says before is lost.

        :param history: what its console has shown already; a clone's, when it was its template's.
        :param origin: where it came from.
        :raise libvirtError: when it is not active, or its console is in use.
        """
        self.domain = domain
        self.connection = domain.connect()
        self.name = domain.name()
        #: Whether it booted or was cloned, and why: `str(vm.origin)` is a sentence.
        self.origin = origin
        #: Every `capture` of it, those that have ended included.
        self.captures: list[Capture] = []
        transcript = Transcript(history)
        self._watch = Watch(domain, transcript)
        try:
            #: Everything the guest's first serial port has shown.
            self.console = Console(domain, transcript, self._watch, show=show and partial(show, self.name))
        except BaseException:
            self._watch.close()
            raise
        self._agent = Agent(domain, self._watch)
        self._channel = ExecChannel(domain, self._watch)
        self._shell = Shell(self._channel, self._agent, self._watch)
        self._files = Files(self._channel, self._agent, self._shell)

    @classmethod
    def boot(
        cls,
        connection: libvirt.virConnect,
        xml: str,
        *,
        show: Show | None = None,
        capture: bool = False,
        origin: Origin = BOOTED,
    ) -> Self:
        """Start the domain that XML describes, listening before its CPUs run; it ends with CONNECTION.

        Returns as soon as it runs; `wait_ready` waits for the guest.

        :param show: called with the domain's name and each line of the console, on another thread.
        :param capture: write what passes each network card into a file, from its first frame on.
        :param origin: why it boots, where somebody may ask.
        :raise libvirtError: when it cannot start.
        """
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        domain = connection.createXML(xml, flags)
        with contextlib.ExitStack() as undo:
            undo.callback(domain.destroy)
            vm = cls(domain, show=show, origin=origin)
            undo.callback(vm.close)
            for card in network.cards(domain) if capture else ():
                vm.capture(card.mac)
            domain.resume()
            undo.pop_all()
        return vm

    def close(self) -> None:
        """Listen no more. The domain goes on; what the console has shown stays readable."""
        self._watch.close()
        self._channel.close()
        self.console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VM {self.name!r}>"

    def _follow(self, domain: libvirt.virDomain, note: str) -> None:
        """Go on with DOMAIN, a new run of its domain, which must be active, and paused, or what it says before is lost.

        The console's transcript goes on, with NOTE on a line of its own, and `console.wait_for` finds what comes from
        then on. Whoever waits for something of the last run is told that it was reset. Captures have ended with it.

        :raise libvirtError: when it is not active, or its console is in use.
        """
        self.console.close()  # what the last run has still said says nothing about this one
        self.domain = domain
        self._watch.follow(domain)
        self._channel.follow(domain)
        self.console.follow(domain, note)

    @property
    def is_running(self) -> bool:
        """Whether the domain has a QEMU, paused or not."""
        return self._watch.active

    def run(
        self,
        command: Sequence[str] | str,
        *,
        input: bytes | str | None = None,  # noqa: A002 - subprocess's name for it
        timeout: float = shell.TIMEOUT_S,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> RunResult:
        """Run COMMAND in the guest as the agent's user, root mostly; wait until it ended and closed its outputs.

        :param command: the words of a command, or a script for the guest's /bin/sh.
        :param input: its standard input; without it, that is empty.
        :param timeout: seconds; then the command is killed with all its descendants.
        :param check: raise when it fails.
        :param env: variables to add to the agent's own.
        :param cwd: the directory to run it in, instead of the agent's.
        :raise CommandFailed: when CHECK and it ends with another status than 0. A command that cannot be
            started has status 127.
        :raise CommandTimeout: when it does not end in time; with what it wrote.
        :raise OutputTruncated: when it writes more than 16 MiB to one of its outputs.
        :raise GuestStopped: as soon as the guest ends, panics or is reset.
        :raise WaitTimeout: when the agent itself does not answer in time.
        :raise AgentError: when there is no agent, or it runs no commands.
        :raise GuestError: when COMMAND or ENV is nothing that can be run.
        """
        return self._shell.run(Command.read(command, input, env, cwd), Deadline(timeout), check=check)

    def read_bytes(self, path: str, *, timeout: float = files.TIMEOUT_S) -> bytes:
        """What the guest's file PATH holds; TIMEOUT is in seconds, here and below.

        :raise GuestFileError: when the guest cannot read it.
        """
        return self._files.read_bytes(path, Deadline(timeout))

    def read_text(self, path: str, *, timeout: float = files.TIMEOUT_S) -> str:
        """`read_bytes` as UTF-8.

        :raise GuestFileError: when the guest cannot read it.
        :raise UnicodeDecodeError: when it is no UTF-8.
        """
        return self.read_bytes(path, timeout=timeout).decode()

    def write_bytes(self, path: str, data: bytes, mode: int | None = None, *, timeout: float = files.TIMEOUT_S) -> None:
        """Make the guest's file PATH hold DATA.

        :param mode: its permissions; without it they stay as they are, and a new file has 0644.
        :raise GuestFileError: when the guest cannot write it.
        """
        self._files.write_from(path, io.BytesIO(data), mode, Deadline(timeout))

    def write_text(self, path: str, text: str, mode: int | None = None, *, timeout: float = files.TIMEOUT_S) -> None:
        """`write_bytes` of TEXT as UTF-8."""
        self.write_bytes(path, text.encode(), mode, timeout=timeout)

    def push(self, local: str | os.PathLike[str], remote: str, *, timeout: float = files.TIMEOUT_S) -> None:
        """Copy the host's file or directory LOCAL to REMOTE in the guest, with its modes.

        A directory's contents go into the directory REMOTE, which is made; they become root's.

        :raise GuestFileError: when the guest cannot write it.
        :raise OSError: when LOCAL cannot be read.
        """
        self._files.push(Path(local), remote, Deadline(timeout))

    def pull(self, remote: str, local: str | os.PathLike[str], *, timeout: float = files.TIMEOUT_S) -> None:
        """Copy the guest's file or directory REMOTE to LOCAL on the host, with its modes.

        A directory's files, directories and links go into the directory LOCAL, which is made.

        :raise GuestFileError: when the guest cannot read it.
        :raise OSError: when LOCAL cannot be written.
        """
        self._files.pull(remote, Path(local), Deadline(timeout))

    def install_program(self, program: str, *, package: str | None = None, timeout: float = files.TIMEOUT_S) -> str:
        """Put a program of the host's into the guest, with all libraries that it needs; returns its path there.

        It is called by its name, which is in the guest's PATH; in the guest's process list it is its loader's.

        :param program: a path on the host, or a name: the host's own, else that of PACKAGE, fetched with apt-get
            into the cache and not installed.
        :param package: the name of the package, where it is not the program's.
        :raise NoProgram: when it is nowhere; says what to install. Also when it is no ELF program.
        :raise GuestFileError: when the guest cannot write it.
        """
        deadline = Deadline(timeout)
        arch = self._shell.run(Command(("uname", "-m")), deadline).text.strip()
        return install.install(self._files, program, package, arch, deadline)

    def wait_until(
        self, condition: Callable[[], T], timeout: float = UNTIL_TIMEOUT_S, *, message: str | None = None
    ) -> T:
        """Call CONDITION, at growing intervals up to 0.1 s, until what it returns is true; return that.

        :param message: what is awaited, for the error; else CONDITION's name.
        :raise WaitTimeout: after TIMEOUT seconds; with the last value.
        :raise GuestStopped: as soon as the guest is dead and CONDITION is still false.
        """
        return self._watch.poll(message or describe(condition), condition, Deadline(timeout))

    def wait_ready(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Return once the guest agent answers.

        :raise WaitTimeout: after TIMEOUT seconds.
        :raise GuestStopped: as soon as the guest is dead.
        :raise AgentError: when the domain has no channel for an agent.
        """
        deadline = Deadline(timeout)
        self._watch.catch_up()
        self._agent.wait_ready(deadline)

    def shutdown(self, timeout: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Ask the guest to power off, and return once the machine has ended; at once when it had already.

        :raise WaitTimeout: when it goes on for TIMEOUT seconds.
        :raise GuestStopped: when it panics or crashes instead.
        :raise libvirtError: when it cannot be asked.
        """
        power.shutdown(self.domain, self._watch, Deadline(timeout))

    def reboot(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Ask the guest to reboot, and return once its agent answers again.

        :raise WaitTimeout: when that takes longer than TIMEOUT seconds.
        :raise GuestStopped: when it ends or panics instead.
        :raise libvirtError: when it cannot be asked.
        """
        power.reboot(self.domain, self._watch, self._agent, Deadline(timeout))

    def reset_to_template(self, timeout: float = reset.TIMEOUT_S) -> None:
        """Have the guest be again where its template was stopped, as a new clone would; it may have ended, or be dead.

        Name, uuid, MAC and IP addresses stay, time and randomness are new. All else that happened is undone: in its
        memory, on its disks, to its devices and its `link`. Captures and forwarded ports have ended; ask for them anew.

        :param timeout: seconds until the guest must answer.
        :raise libvirtError: OPERATION_INVALID when it is no clone: it booted (see `origin`).
        :raise WaitTimeout: when the guest does not answer in time.
        """
        reset.reset_to_template(self, timeout)

    def checkpoint(self, name: str = reset.CHECKPOINT) -> None:
        """Remember where the guest is, for `restore`; it goes on. One of the same NAME is forgotten.

        It takes as much of the disk as the guest uses of its memory; until the machine has ended, or is reset.

        :raise libvirtError: OPERATION_INVALID when it does not run, or writes to a disk that is not a clone's own;
            OPERATION_FAILED when QEMU cannot do it.
        """
        reset.checkpoint(self, name)

    def restore(self, name: str = reset.CHECKPOINT, timeout: float = reset.TIMEOUT_S) -> None:
        """Have the guest be again where it was at the checkpoint NAME, as often as is wanted.

        What ran then runs on; time and randomness are new. As with `reset_to_template`, what `link` did is undone, and
        captures and forwarded ports have ended.

        :param timeout: seconds until the guest must answer.
        :raise libvirtError: OPERATION_FAILED when there is no such checkpoint, with those that there are; NO_DOMAIN
            when the machine has ended.
        :raise WaitTimeout: when the guest does not answer in time.
        """
        reset.restore(self, name, timeout)

    @property
    def network(self) -> Network:
        """The private network that it is on.

        :raise NoCard: when it is on none, or on several.
        """
        return network.network_of(self.domain)

    def addresses(self, source: Source = "lease") -> list[Address]:
        """The addresses of its cards: `vm.wait_until(vm.addresses)` waits for the first.

        :param source: whom to ask: `lease`, what its private networks gave it, which it has a moment later; `arp`,
            what these heard that it has; `agent`, all that the guest itself has, but for those of its loopback and
            links.
        :raise libvirtError: OPERATION_INVALID when it does not run; and when the agent is asked and is not there.
        """
        return addresses(self.domain, source)

    def forward(self, port: int, protocol: Protocol = "tcp", *, card: Which = None) -> tuple[str, int]:
        """An address and port of the host's loopback that lead to PORT of the guest: `connect(vm.forward(22))`.

        The port is free by construction, the same when asked for again, and gone with the machine. The guest sees its
        network's own host as who connects; it gains no way to the host. What connects waits until the guest has an
        address, and is hung up on when nobody listens there.

        :param card: its MAC, or its number from 0; else the first that is on a private network or of type `user`.
        :raise NoCard: when there is none.
        :raise libvirtError: OPERATION_UNSUPPORTED when nothing can be forwarded to that card; passt takes no ports
            while it runs. INVALID_ARG when there is no such port.
        """
        return forward(self.domain, port, protocol, card)

    def link(
        self,
        card: Which = None,
        *,
        up: bool | None = None,
        delay: float | None = None,
        jitter: float | None = None,
        loss: float | None = None,
        duplicate: float | None = None,
        reorder: float | None = None,
        seed: int | None = None,
        direction: Direction = "both",
    ) -> Undo:
        """Pull the cable, or have frames come late, twice, or not; what is not named stays as it is.

        `with vm.link(up=False):` puts back at the end what was there before; without `with` it lasts as long as the
        machine. `up` works on every card, all else on those of private networks.

        :param card: its MAC, or its number in the domain's XML; without it, all.
        :param up: False takes the guest's carrier away.
        :param delay: seconds that each frame takes, give or take up to JITTER; the share REORDER overtakes the others.
        :param loss: the share of frames, 0 to 1, that is lost; DUPLICATE is the share that arrives twice.
        :param seed: another number loses other frames; with one and the same, each run loses the same.
        :param direction: `in` is what the guest receives, `out` what it sends.
        :raise NoCard: when it has no such card.
        :raise libvirtError: INVALID_ARG when a value cannot be one, OPERATION_UNSUPPORTED when a card is on no private
            network.
        """
        wrong = {
            "delay": delay, "jitter": jitter, "loss": loss, "duplicate": duplicate, "reorder": reorder, "seed": seed,
        }  # fmt: skip
        return network.change_link(self.domain, card, up, direction, wrong)

    def capture(self, card: Which = None, *, limit: int = CAPTURE_BYTES) -> Capture:
        """Write what passes a network card into a pcap file, from now on until `stop`, or the end of a `with` block.

        The file, `path`, is valid while it grows (`flush` completes it); it goes with the machine's root, and is kept
        when the test fails.

        :param card: its MAC, or its number in the domain's XML; without it, the only one.
        :param limit: the most bytes in the file; `left_out` counts the frames that came too late.
        :raise NoCard: when it has no such card, or several.
        :raise libvirtError: when QEMU cannot do it, or the file cannot be made.
        """
        begun = embed.capture(self.domain, network.the_card(self.domain, card).mac, limit=limit)
        self.captures.append(begun)
        return begun
