"""An emulated TPM: its state is made at the first start, kept while the domain is known, and served by a swtpm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import DomainUndefineFlagsValues, ErrorDomain
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import logs
from pytest_embedvm.driver.companions import Companions, last_words
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationInvalid, OperationTimeout, SystemFailure
from pytest_embedvm.files import write_atomically
from pytest_embedvm.qemu.parts import Swtpm
from pytest_embedvm.qemu.process import Process

#: How long a new TPM, or other banks, may take to be made; two RSA keys are drawn.
SETUP_TIMEOUT_S: Final = 60.0

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


def log_path(root: Root, name: str) -> Path:
    """Where what is said by the TPM of domain NAME is written."""
    # libvirt: qemuTPMEmulatorInitPaths
    return root.place("swtpm-log") / f"{file_name(name)}-swtpm.log"


async def prepare(root: Root, domain: Domain, launch: Launch, *, arriving: bool) -> None:
    """Make the state of each TPM that LAUNCH has and that has none yet, and give it the banks that are asked for.

    :param arriving: the guest brings its TPM's state along, so that there is nothing to be made.
    :raise ConfigUnsupported: when the host lacks a program, or the state's place has a name that it cannot be told.
    :raise InternalError: when swtpm_setup fails; with its own words.
    :raise OperationTimeout: when it takes longer than 60 s.
    """
    # libvirt: qemuTPMEmulatorBuildCommand
    for wanted in _emulated(launch):
        if wanted.secret is not None:
            raise ConfigUnsupported(f"there is no private secret driver yet, to ask for the secret '{wanted.secret}'")
        state = Path(wanted.state)
        if "," in wanted.state:
            raise ConfigUnsupported(f"swtpm cannot be told of a directory with a comma in its name: '{wanted.state}'")
        _require("swtpm")
        made = _is_new(state)
        root.directory(*state.relative_to(root.path).parts)
        if arriving or not (made or wanted.banks):
            continue
        if shutil.which("swtpm_setup") is None:
            _do_without(root, domain, wanted)
            continue
        try:
            await _set_up(root, domain, wanted, made=made)
        except BaseException:
            if made:
                shutil.rmtree(state, ignore_errors=True)
            raise


def _emulated(launch: Launch) -> Iterator[Swtpm]:
    return (descriptor.opens for descriptor in launch.descriptors if isinstance(descriptor.opens, Swtpm))


def _is_new(state: Path) -> bool:
    return not any(state.glob("*.permall"))


def _require(program: str) -> None:
    if shutil.which(program) is None:
        # libvirt: virTPMEmulatorInit
        raise ConfigUnsupported(f"Unable to find '{program}' binary in $PATH", origin=ErrorDomain.NONE)


def _do_without(root: Root, domain: Domain, wanted: Swtpm) -> None:
    """Without swtpm_setup, swtpm makes a TPM, too: one that no manufacturer has signed, with all banks."""
    if wanted.banks:
        _require("swtpm_setup")
    root.log.about(domain.name).info("its TPM has no endorsement key and no certificates: there is no swtpm_setup")


async def _set_up(root: Root, domain: Domain, wanted: Swtpm, *, made: bool) -> None:
    with contextlib.ExitStack() as stack:
        words = ["swtpm_setup", *(("--tpm2",) if wanted.version == "2.0" else ()), "--tpm-state", wanted.state]
        # libvirt: qemuTPMEmulatorRunSetup, qemuTPMEmulatorReconfigure
        if made:
            words += ["--vmid", f"{domain.name}:{domain.uuid}", "--createek", *_certificates(root), "--lock-nvram"]
            words += ["--not-overwrite"]
        else:
            words += ["--reconfigure"]
        if wanted.banks:
            words += ["--pcr-banks", ",".join(wanted.banks)]
        path = log_path(root, domain.name)
        log = stack.enter_context(os.fdopen(logs.open_log(path), "r+b", buffering=0))
        start = os.fstat(log.fileno()).st_size
        process = Process.spawn(words, output=log)
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


def serve(
    wanted: Swtpm,
    log: Path,
    companions: Companions,
    stack: contextlib.AsyncExitStack,
    passed: contextlib.ExitStack,
) -> int:
    """Start the swtpm that WANTED asks for, which writes into LOG; returns the other end of its control channel.

    :raise SystemFailure: when it cannot be started.
    """
    # libvirt: qemuTPMEmulatorBuildCommand
    words = ["swtpm", "socket", "--ctrl", "type=unixio,clientfd={fd}", "--tpmstate", f"dir={wanted.state},mode=0600"]
    words += ["--terminate", *(("--tpm2",) if wanted.version == "2.0" else ())]
    said = stack.enter_context(os.fdopen(logs.open_log(log), "r+b", buffering=0))
    return companions.start(wanted.name, tuple(words), stack, passed, said)


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
