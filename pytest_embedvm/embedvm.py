"""What test modules say besides pytest's own words: `@embedvm.template` declares a template of their own."""

from __future__ import annotations

from pytest_embedvm.plugin.declared import template

__all__ = ["template"]
