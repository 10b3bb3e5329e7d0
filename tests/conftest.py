"""What all tests share."""

from __future__ import annotations

import os
import signal

import hypothesis

from pytest_embedvm.qemu.cache import default_cache_dir

pytest_plugins = ["pytester"]

# pytester gives each inner run a home of its own; without this each would probe QEMU and build the guest anew.
os.environ.setdefault("EMBEDVM_CACHE_DIR", str(default_cache_dir()))

# Who starts this in the background has Ctrl-C ignored; the processes that tests start are to hear it all the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes no example wrong.
hypothesis.settings.register_profile("embedvm", deadline=None)
hypothesis.settings.load_profile("embedvm")
