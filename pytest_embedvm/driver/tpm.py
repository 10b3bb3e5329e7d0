"""An emulated TPM: its state is made at the first start, kept while the domain is known, and served by a swtpm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import DomainUndefineFlagsValues, ErrorDomain
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import logs
from pytest_embedvm.driver.companions import Companions, last_words
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.driver.secret.sealing import Values
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationInvalid, OperationTimeout, SystemFailure
from pytest_embedvm.files import memory_file, write_atomically
from pytest_embedvm.qemu.parts import Swtpm
from pytest_embedvm.qemu.process import Process

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long a new TPM, or other banks, may take to be made; two RSA keys are drawn.
SETUP_TIMEOUT_S: Final = 60.0

#: How a secret's value encrypts the state. libvirt: qemuTPMVirCommandSwtpmAddEncryption
CIPHER: Final = "aes-256-cbc"

#: Both say what is to become of the state.
DECIDED: Final = DomainUndefineFlagsValues.TPM | DomainUndefineFlagsValues.KEEP_TPM

#: What signs the TPMs' certificates, in the directory of all states: no domain's uuid.
AUTHORITY: Final = "ca"
_SETUP = """\
create_certs_tool = {localca}
create_certs_tool_config = {directory}/swtpm-localca.conf
create_certs_tool_options = {directory}/swtpm-localca.options
active_pcr_banks = sha256
"""
_LOCALCA = """\
statedir = {directory}
signingkey = {directory}/signkey.pem
issuercert = {directory}/issuercert.pem
certserial = {directory}/certserial
"""
_OPTIONS = "--platform-manufacturer QEMU\n--platform-version 2.1\n--platform-model QEMU\n"


@dataclass(frozen=True)
class Tpms:
    """Those of one machine. `secrets` are the values of those that encrypt what they remember."""

    root: Root | None = None
    name: str = ""
    uuid: uuid.UUID | None = None
    secrets: Values = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where what is said of it, and by it, is written."""
        if self.root is None:
            return Path(os.devnull)
        # libvirt: qemuTPMEmulatorInitPaths
        return self.root.place("swtpm-log") / f"{file_name(self.name)}-swtpm.log"

    async def prepare(self, launch: Launch, *, arriving: bool) -> None:
        """Make the state of each TPM of LAUNCH that has none yet, and give it the banks that are asked for.

        :param arriving: the guest brings its TPM's state along, so that there is nothing to be made.
        :raise ConfigUnsupported: when the host lacks a program, or a state's place has a name that it cannot be told.
        :raise InternalError: when swtpm_setup fails; with its own words.
        :raise OperationTimeout: when it takes longer than 60 s.
        """
        # libvirt: qemuTPMEmulatorBuildCommand
        for wanted in (d.opens for d in launch.descriptors if isinstance(d.opens, Swtpm)):
            state = Path(wanted.state)
            if "," in wanted.state:
                raise ConfigUnsupported(f"swtpm cannot be told of a directory with a comma in its name: '{state}'")
            _require("swtpm")
            made = _is_new(state)
            self._root.directory(*state.relative_to(self._root.path).parts)
            if arriving or not (made or wanted.banks):
                continue
            try:
                await self._set_up(wanted, made=made)
            except BaseException:
                if made:
                    shutil.rmtree(state, ignore_errors=True)
                raise

    async def _set_up(self, wanted: Swtpm, *, made: bool) -> None:
        if shutil.which("swtpm_setup") is None:
            if wanted.banks:
                _require("swtpm_setup")
            self._root.log.about(self.name).info("its TPM has no endorsement key: there is no swtpm_setup")
            return
        with contextlib.ExitStack() as stack:
            words = ["swtpm_setup", *_version(wanted), "--tpm-state", wanted.state]
            # libvirt: qemuTPMEmulatorRunSetup, qemuTPMEmulatorReconfigure
            if made:
                words += ["--vmid", f"{self.name}:{self.uuid}", "--createek", *_certificates(self._root)]
                words += ["--lock-nvram", "--not-overwrite"]
            else:
                words += ["--reconfigure"]
            if wanted.banks:
                words += ["--pcr-banks", ",".join(wanted.banks)]
            keys = self._keys(wanted, 1, stack)
            for key in keys:
                words += ["--pwdfile-fd", str(key), "--cipher", CIPHER]
            await _run(words, keys, self.log)

    def serve(
        self, wanted: Swtpm, companions: Companions, stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack
    ) -> int:
        """Start the swtpm that WANTED asks for; returns the other end of its control channel.

        :raise SystemFailure: when it cannot be started.
        """
        # libvirt: qemuTPMEmulatorBuildCommand
        words = ["swtpm", "socket", "--ctrl", "type=unixio,clientfd={fd}", "--terminate", *_version(wanted)]
        words += ["--tpmstate", f"dir={wanted.state},mode=0600"]
        keys = self._keys(wanted, 2, passed)
        for option, key in zip(("--key", "--migration-key"), keys, strict=False):
            words += [option, f"pwdfd={key},mode={CIPHER}"]
        said = stack.enter_context(os.fdopen(logs.open_log(self.log), "r+b", buffering=0))
        return companions.start(wanted.name, tuple(words), socket.socketpair(), stack, passed, said=said, more=keys)

    def _keys(self, wanted: Swtpm, count: int, stack: contextlib.ExitStack) -> list[int]:
        """COUNT descriptors from which the passphrase can be read, each once; none where there is none."""
        if wanted.secret is None:
            return []
        files = [stack.enter_context(memory_file("vtpm")) for _ in range(count)]
        for file in files:
            file.write(self.secrets[wanted.secret])
            file.seek(0)
        return [file.fileno() for file in files]

    @property
    def _root(self) -> Root:
        if self.root is None:
            raise InternalError("a TPM without a root has no place for what it remembers")
        return self.root


def of(machine: Machine, secrets: Values) -> Tpms:
    """Those of MACHINE."""
    return Tpms(machine.root, machine.name, machine.uuid, secrets)


def _is_new(state: Path) -> bool:
    return not any(state.glob("*.permall"))


def _version(wanted: Swtpm) -> tuple[str, ...]:
    return ("--tpm2",) if wanted.version == "2.0" else ()


def _require(program: str) -> None:
    if shutil.which(program) is None:
        # libvirt: virTPMEmulatorInit
        raise ConfigUnsupported(f"Unable to find '{program}' binary in $PATH", origin=ErrorDomain.NONE)


async def _run(words: list[str], inherited: list[int], path: Path) -> None:
    """Run swtpm_setup, whose words go into the log at PATH."""
    with os.fdopen(logs.open_log(path), "r+b", buffering=0) as log:
        start = os.fstat(log.fileno()).st_size
        process = Process.spawn(words, output=log, pass_fds=inherited)
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                status = await process.wait()
        except TimeoutError:
            said = last_words(log, start)
            raise OperationTimeout(f"swtpm_setup did not end within {SETUP_TIMEOUT_S:g} s; it said: {said}") from None
        finally:
            await process.kill()
        if status:
            raise InternalError(
                f"Could not run 'swtpm_setup'. exitstatus: {status}; Check error log '{path}' for details: "
                f"{last_words(log, start)}"
            )


def _certificates(root: Root) -> tuple[str, ...]:
    """A word for each certificate, and where the root has its authority; nothing where swtpm_localca is missing."""
    localca = shutil.which("swtpm_localca")
    if localca is None:
        return ()
    directory = root.directory(*PLACES["swtpm-state"], AUTHORITY)
    files = {"swtpm_setup.conf": _SETUP, "swtpm-localca.conf": _LOCALCA, "swtpm-localca.options": _OPTIONS}
    for name, content in files.items():
        try:
            write_atomically(directory / name, content.format(localca=localca, directory=directory).encode())
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{directory / name}': {error.strerror}") from error
    return "--config", f"{directory}/swtpm_setup.conf", "--create-ek-cert", "--create-platform-cert"


def check_flags(flags: int) -> None:
    """:raise OperationInvalid: when FLAGS of an undefine contradict each other."""
    # libvirt: qemuDomainUndefineFlags
    if flags & DECIDED == DECIDED:
        raise OperationInvalid("cannot both keep and delete TPM")


def forget(root: Root, domain: Domain, flags: int = 0) -> None:
    """DOMAIN is no longer known: remove what its TPM remembers, unless it or FLAGS of an undefine say otherwise."""
    # libvirt: qemuTPMEmulatorCleanupHost
    keeps = any(device.keeps_state for device in domain.devices.all)
    if (keeps and flags & DomainUndefineFlagsValues.TPM) or not (keeps or flags & DomainUndefineFlagsValues.KEEP_TPM):
        shutil.rmtree(root.path.joinpath(*PLACES["swtpm-state"], str(domain.uuid)), ignore_errors=True)
