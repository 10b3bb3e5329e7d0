"""Encrypted images, made by qemu-img."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pytest_embedvm.qemu import image_tool


def make_luks(path: Path, passphrase: bytes, content: bytes = b"", kind: str = "luks") -> Path:
    """A LUKS volume of 1 MiB at PATH that begins with CONTENT; of KIND `qcow2` it is inside a qcow2 image."""
    plain, key = path.with_name(f"{path.name}.plain"), path.with_name(f"{path.name}.key")
    plain.write_bytes(content.ljust(1 << 20, b"\0"))
    key.write_bytes(passphrase)
    options = "key-secret=s,iter-time=10"
    if kind == "qcow2":
        options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    words = ["--object", f"secret,id=s,file={key}", "-O", kind, "-o", options, plain, path]
    try:
        for _ in range(image_tool.TRIES):
            made = subprocess.run(["qemu-img", "convert", "-f", "raw", *words], check=False, stderr=subprocess.PIPE)
            if made.returncode == 0:
                return path
            if image_tool.NOT_MEASURED.encode() not in made.stderr:
                break
        raise AssertionError(made.stderr.decode())
    finally:
        plain.unlink()
        key.unlink()
