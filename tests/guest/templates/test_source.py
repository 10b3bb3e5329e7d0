"""source: what of a function counts, and what does not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm.guest.templates.source import source_of

MODULE = '''
import functools
import json
import textwrap as other_name
import neighbour

PORT = 5432
NAMES = {"b", "a"}
OPTIONS = {"key": [1, 2.5, None]}
HERE = object()
UNUSED = 1

class Service:
    """A service."""

    def start(self, vm):
        vm.run(command())

    @staticmethod
    def stop(vm):
        vm.run(stopping)

stopping = "stop"

def command():
    return deeper()

def deeper():
    return f"start {PORT}"

def unused():
    return UNUSED

def with_default(vm, port=PORT, *, name="n"):
    vm.run(port, name)

def decorate(function):
    @functools.wraps(function)
    def wrapper(vm):
        return function(vm)
    return wrapper

@decorate
def prepare(vm):
    Service().start(vm)
    json.dumps(OPTIONS)
    [command() for _ in NAMES]
    neighbour.help(vm)

def closing(word):
    def inner(vm):
        vm.run(word)
    return inner

early = closing("early")
late = closing("late")
partial = functools.partial(closing, "partial")
bound = Service().start
recursive = lambda vm: recursive(vm)

class Callable:
    def __call__(self, vm):
        vm.run("called")

instance = Callable()
'''
NEIGHBOUR = "def help(vm):\n    vm.run('help')\n"


class Project:
    """A test's modules, to be changed and loaded anew."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        self._loaded = 0

    def load(self, text: str = MODULE, neighbour: str = NEIGHBOUR, folder: str = "") -> Any:
        place = self.root / folder / str(self._loaded)
        self._loaded += 1
        place.mkdir(parents=True)
        loaded = {}
        for name, source in (("neighbour", neighbour), ("conftest_of_it", text)):
            path = place / f"{name}.py"
            path.write_text(source)
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec
            assert spec.loader
            loaded[name] = importlib.util.module_from_spec(spec)
            self._monkeypatch.setitem(sys.modules, name, loaded[name])
            spec.loader.exec_module(loaded[name])
        return loaded["conftest_of_it"]

    def source(self, name: str, text: str = MODULE, **more: str) -> str:
        return source_of(getattr(self.load(text, **more), name), self.root)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("json.dumps(OPTIONS)", "json.dumps(None)"),
        ("vm.run(command())", "vm.run(command(), 1)"),
        ("return deeper()", "return deeper() + '!'"),
        ('f"start {PORT}"', 'f"begin {PORT}"'),
        ("PORT = 5432", "PORT = 5433"),
        ('{"b", "a"}', '{"b", "c"}'),
        ("[1, 2.5, None]", "[1, 2.5, 0]"),
        ('stopping = "stop"', 'stopping = "halt"'),
    ],
)
def test_it_counts_with_all_that_it_uses_of_the_users(project: Project, old: str, new: str) -> None:
    assert MODULE.count(old) == 1
    assert project.source("prepare") != project.source("prepare", MODULE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("UNUSED = 1", "UNUSED = 2"), ("return UNUSED", "return 3"), ("late", "l")])
def test_what_it_does_not_use_does_not_count(project: Project, old: str, new: str) -> None:
    assert project.source("prepare") == project.source("prepare", MODULE.replace(old, new))


def test_a_module_that_it_names_counts_as_a_whole(project: Project) -> None:
    assert project.source("prepare") != project.source("prepare", neighbour=NEIGHBOUR + "# more\n")
    assert project.source("early") == project.source("early", neighbour=NEIGHBOUR + "# more\n")


def test_what_is_installed_below_the_root_does_not_count(project: Project) -> None:
    first = project.source("prepare", folder="venv/lib/python3/site-packages")
    changed = MODULE.replace("return deeper()", "return deeper() + '!'")
    assert project.source("prepare", changed, folder="venv/lib/python3/site-packages") == first


def test_where_it_is_does_not_count(project: Project) -> None:
    assert project.source("prepare", folder="one") == project.source("prepare", folder="another")


def test_what_it_closed_over_and_its_defaults_count(project: Project) -> None:
    assert project.source("early") != project.source("late")
    assert "5432" in project.source("with_default")
    assert project.source("with_default") != project.source("with_default", MODULE.replace('name="n"', 'name="m"'))


@pytest.mark.parametrize(
    ("name", "text"), [("partial", "partial"), ("bound", "def start(self, vm)"), ("instance", 'vm.run("called")')]
)
def test_whatever_can_be_called_has_a_source(project: Project, name: str, text: str) -> None:
    assert text in project.source(name)


def test_what_calls_itself_has_an_end(project: Project) -> None:
    assert "recursive(vm)" in project.source("recursive")


@pytest.mark.parametrize("function", [print, len, eval("lambda vm: None"), object()])
def test_what_has_no_source_cannot_be_known(function: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="has no source that could be seen to change"):
        source_of(function, tmp_path)
