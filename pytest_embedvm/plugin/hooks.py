"""What pytest calls. Nothing here imports the driver, lxml or qemu.qmp: that waits until a fixture asks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_embedvm.plugin import controller, markers
from pytest_embedvm.plugin.definitions import definitions, is_ours
from pytest_embedvm.plugin.origins import Origins
from pytest_embedvm.plugin.settings import (
    ACCEL_VARIABLE,
    AHEAD,
    CACHE_VARIABLE,
    FIXTURES,
    SETTINGS,
    SKIP_REASON,
    Settings,
    add_options,
)

pytest_plugins: Final = [FIXTURES]

#: Which test comes after this one in its process.
_NEXT: Final = pytest.StashKey["pytest.Item | None"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    settings = config.stash[SETTINGS] = Settings.of(config)
    config.addinivalue_line(
        "markers", f"{markers.MARKER}({', '.join(f'{name}=' for name in markers.KNOWN)}): what the test wants of its VM"
    )
    if not settings.enabled:
        return
    config.pluginmanager.register(Origins(), "embedvm-origins")
    if settings.cache_dir:
        _set_variable(config, CACHE_VARIABLE, str(settings.cache_dir))
    _set_variable(config, ACCEL_VARIABLE, settings.accel)
    if settings.pause and config.getoption("dist", "no") != "no":
        raise pytest.UsageError("--embedvm-pause waits at the terminal, which xdist's workers do not have; add -n 0")
    if _is_worker(config):
        controller.watch(config)
    else:
        _prepare_output(settings.output)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist: in the controller, before a worker starts."""
    controller.introduce(node)


def _prepare_output(output: Path) -> None:
    from pytest_embedvm.plugin import artifacts

    try:
        artifacts.clean(output)
    except OSError as error:
        raise pytest.UsageError(f"--embedvm-output {output}: {error.strerror}") from None


def _set_variable(config: pytest.Config, name: str, value: str) -> None:
    before = os.environ.get(name)
    os.environ[name] = value

    def restore() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    config.add_cleanup(restore)


def _is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of pytest-xdist's workers."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    settings = session.config.stash[SETTINGS]
    if settings.enabled and not _is_worker(session.config):
        from pytest_embedvm.plugin import dead_roots
        from pytest_embedvm.qemu.cache import default_cache_dir

        dead_roots.reap(default_cache_dir())
        dead_roots.purge(default_cache_dir())
    if settings.enabled and (settings.require_kvm or settings.accel == "kvm"):
        from pytest_embedvm.plugin import machine

        machine.require_kvm(settings)


def pytest_report_header(config: pytest.Config) -> list[str]:
    settings = config.stash[SETTINGS]
    if not settings.enabled:
        return []
    from pytest_embedvm.plugin import machine

    return machine.header(settings)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class,
) -> Generator[None, object, object]:
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Item):
            found = list(markers.complaints(item))
            if found:
                raise collector.CollectError(f"{item.nodeid}: {'; '.join(found)}")
    return made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash[SETTINGS].enabled:
        return
    for item in items:
        if uses_a_machine(item):
            item.add_marker(pytest.mark.skip(reason=SKIP_REASON))


def uses_a_machine(item: pytest.Item) -> bool:
    """Whether ITEM asks for a fixture of this plugin, itself or through another fixture.

    One of the same name that is the user's own does not count.
    """
    return any(map(is_ours, definitions(item).values()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.stash[_NEXT] = nextitem


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """The test has what it wants: what the next one will want can be made meanwhile."""
    ahead = item.config.stash.get(AHEAD, None)
    if ahead is not None:
        ahead.prepare(item.stash.get(_NEXT, None))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    ahead = item.config.stash.get(AHEAD, None)
    if ahead is not None:
        ahead.over()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what was made ahead, once all fixtures have; where the session was cut short, what tests left is news."""
    ahead = session.config.stash.get(AHEAD, None)
    if ahead is not None:
        for stayed in ahead.close():
            warnings.warn(f"embedvm: the session is over, and still there is {stayed}", stacklevel=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Take the evidence before the user's fixtures are torn down, for failures of the set-up too."""
    report = yield
    if report.failed and call.when in ("setup", "call") and item.config.stash[SETTINGS].enabled:
        from pytest_embedvm.plugin import artifacts

        artifacts.collect(item, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, report: pytest.CollectReport | pytest.TestReport
) -> Generator[None, None, None]:
    """Pause at a failed test: after others have taken their time-outs away; or tell, before --pdb waits by itself."""
    settings = node.config.stash[SETTINGS]
    if not (settings.enabled and settings.pause and isinstance(node, pytest.Item)):
        yield
        return
    from pytest_embedvm.plugin.pause import pause

    debugged = node.config.getoption("usepdb")
    if debugged:
        pause(node, report, wait=False)
    yield
    if not debugged:
        pause(node, report, wait=True)
