"""`python -m pytest_embedvm` is `embedvm`."""

from __future__ import annotations

import sys

from pytest_embedvm.cli.main import main

sys.exit(main())
