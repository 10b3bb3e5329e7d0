"""Templates of the user's own: functions that prepare a VM, once for all tests that go on from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload

import pytest

if TYPE_CHECKING:
    from pytest_embedvm.guest import VM

#: pytest shows the line that called, not these.
__tracebackhide__ = True

Prepare: TypeAlias = "Callable[[VM], object]"
PathLike: TypeAlias = "str | os.PathLike[str]"

#: What a test may say of a VM whose template is declared; all else is the template's.
OF_THE_TEST: Final = frozenset({"template", "boot", "timeout", "capture", "scope"})


class Declared:
    """A template that is declared, and not made yet."""

    # No dataclass: this is loaded in each run of pytest, and a dataclass costs a millisecond.
    __slots__ = ("after", "inputs", "keywords", "name", "prepare", "version")

    def __init__(
        self,
        name: str,
        prepare: Prepare,
        after: Declared | str | None,
        *,
        inputs: tuple[PathLike, ...],
        version: str,
        keywords: Mapping[str, Any],
    ) -> None:
        """:param after: the one that it goes on from, or its name; None where it boots.
        :param keywords: the marker's: what its machine is like.
        """
        self.name = name
        self.prepare = prepare
        self.after = after
        self.inputs = inputs
        self.version = version
        self.keywords = keywords

    def __repr__(self) -> str:
        return f"<template {self.name!r}>"

    def files(self, rootpath: Path) -> list[Path]:
        """The files and directories that it is made with."""
        return [rootpath / Path(path).expanduser() for path in self.inputs]


#: Those that modules declare, by name; several modules may have one of the same.
_of_modules: dict[str, list[Declared]] = {}


@overload
def template(prepare: Prepare, /) -> Declared: ...


@overload
def template(
    name: str | None = None,
    /,
    *,
    after: Declared | str | None = None,
    inputs: Iterable[PathLike] = (),
    version: str = "",
    **keywords: Any,
) -> Callable[[Prepare], Declared]: ...


def template(
    name: str | Prepare | None = None,
    /,
    *,
    after: Declared | str | None = None,
    inputs: Iterable[PathLike] = (),
    version: str = "",
    **keywords: Any,
) -> Declared | Callable[[Prepare], Declared]:
    """Declare the function below a template: it is given a VM that answers, and prepares it.

    `@embedvm.template` alone will do.

    A test with `@pytest.mark.embedvm(template=…)` has a VM that goes on from there. It is made when a test first wants
    it, by one worker while the others wait, and kept for later runs, until its source, INPUTS or VERSION change, or
    those of the template that it goes on from.

    :param name: what tests call it; without it the function's name.
    :param after: another template, or its name, that it goes on from.
    :param inputs: files and directories whose contents it uses; from pytest's rootdir on where they are relative.
    :param version: whatever else it depends on.
    :param keywords: the marker's: what its machine is like; not together with AFTER, whose machine it is.
    :raise TypeError: when a keyword is not one of the marker's, or is not the template's to say.
    """
    if callable(name):
        return template()(name)

    def decorate(prepare: Prepare) -> Declared:
        declared = declare(name or prepare.__name__, prepare, after, inputs=inputs, version=version, keywords=keywords)
        _of_modules.setdefault(declared.name, []).append(declared)
        return declared

    return decorate


def declare(
    name: str,
    prepare: Prepare,
    after: Declared | str | None,
    *,
    inputs: Iterable[PathLike],
    version: str,
    keywords: Mapping[str, Any],
) -> Declared:
    """:raise TypeError: when KEYWORDS are nothing that a template can have."""
    wrong = keywords.keys() & OF_THE_TEST
    if wrong:
        raise TypeError(f"template {name!r}: {', '.join(sorted(wrong))} is a test's to say, not a template's")
    if after is not None and keywords:
        raise TypeError(
            f"template {name!r}: {', '.join(keywords)} cannot be said: its machine is that of the one before"
        )
    return Declared(name, prepare, after, inputs=tuple(inputs), version=version, keywords=dict(keywords))


class Declarations(Mapping[str, Declared]):
    """`embedvm_template`: the templates of a session by name."""

    def __init__(self) -> None:
        self._own: dict[str, Declared] = {}

    def __call__(
        self,
        name: str,
        *,
        after: Declared | str | None = None,
        inputs: Iterable[PathLike] = (),
        version: str = "",
        **keywords: Any,
    ) -> Callable[[Prepare], Prepare]:
        """Declare the function below the template NAME, as `embedvm.template` does.

        :raise ValueError: when NAME is taken.
        :raise TypeError: when a keyword is not one of the marker's, or is not the template's to say.
        """
        if name in self._own:
            raise ValueError(f"embedvm_template: the name {name!r} is taken already")

        def decorate(prepare: Prepare) -> Prepare:
            self._own[name] = declare(name, prepare, after, inputs=inputs, version=version, keywords=keywords)
            return prepare

        return decorate

    def __getitem__(self, name: str) -> Declared:
        """:raise KeyError: when there is none, or several modules have one."""
        if name in self._own:
            return self._own[name]
        found = _of_modules.get(name, [])
        if len(found) == 1:
            return found[0]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**_of_modules, **self._own})

    def __len__(self) -> int:
        return len({**_of_modules, **self._own})

    def chain(self, wanted: Declared | str, item: pytest.Item | None = None) -> list[Declared]:
        """WANTED behind all that it goes on from; a name is looked for in the module of ITEM first.

        :raise LookupError: when there is no such template, or it goes on from itself.
        """
        chain: list[Declared] = []
        after: Declared | str | None = wanted
        while after is not None:
            declared = after if isinstance(after, Declared) else self._find(after, item)
            if declared in chain:
                raise LookupError(f"template {declared.name!r} goes on from itself")
            chain.insert(0, declared)
            after = declared.after
        return chain

    def _find(self, name: str, item: pytest.Item | None) -> Declared:
        near = getattr(getattr(item, "module", None), name, None)
        if isinstance(near, Declared):
            return near
        try:
            return self[name]
        except KeyError:
            several = len(_of_modules.get(name, [])) > 1
            why = (
                "several modules declare it: say which by the function itself"
                if several
                else (f"there are {', '.join(self) or 'none'}")
            )
            raise LookupError(f"no template {name!r}; {why}") from None
