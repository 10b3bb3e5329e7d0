"""Real QEMU virtual machines for a test suite, from a private root, with libvirt's names."""

__version__ = "0.1.0"
