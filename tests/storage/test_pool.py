"""`<pool>`: there and back, and what libvirt says of what cannot be."""

from __future__ import annotations

import pytest

from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError, XMLSchemaError, XMLSyntaxError
from pytest_embedvm.storage import pool

FS = """<pool type='fs'>
  <name>p</name>
  <uuid>11111111-1111-1111-1111-111111111111</uuid>
  <capacity unit='bytes'>0</capacity>
  <allocation unit='bytes'>0</allocation>
  <available unit='bytes'>0</available>
  <source>
    <device path='/dev/sdz'/>
    <format type='ext4'/>
  </source>
  <target>
    <path>/r/p</path>
    <permissions>
      <mode>0711</mode>
      <owner>1</owner>
      <group>2</group>
      <label>x</label>
    </permissions>
  </target>
</pool>
"""


def directory(name: str = "<name>p</name>", path: str = "<path>/r/p</path>", more: str = "", kind: str = "dir") -> str:
    return f"<pool type='{kind}'>{name}{more}<target>{path}</target></pool>"


def test_it_goes_there_and_back() -> None:
    assert pool.format(pool.parse(FS)) == FS


def test_what_libvirt_fills_in_and_leaves_out() -> None:
    described = pool.parse(
        directory(path="<path>/r//p/</path>", more="<capacity>5</capacity><source><dir path='/'/></source>")
    )
    assert (described.path, described.capacity, described.source.device) == ("/r/p", 0, None)
    assert pool.parse(FS.replace("<format type='ext4'/>", "")).source.format == "auto"
    assert pool.parse(directory(more="<foo/>")).name == "p"


@pytest.mark.parametrize(
    ("xml", "error", "message"),
    [
        ("", XMLSyntaxError, "(storage_pool_definition):1: Document is empty\n(null)\n^"),
        ("<network/>", XMLError, "XML error: expecting root element of 'pool', not 'network'"),
        ("<pool/>", XMLError, "XML error: Missing required attribute 'type' in element 'pool'"),
        (directory(kind="x"), XMLError, "XML error: Invalid value for attribute 'type' in element 'pool': 'x'."),
        (directory(name=""), XMLError, "XML error: missing pool source name element"),
        (directory(name="<name>a/b</name>"), XMLError, "XML error: name a/b cannot contain '/'"),
        (directory(name="<name>a\nb</name>"), XMLSyntaxError, "invalid char in name: \n"),
        (directory(path=""), XMLError, "XML error: missing storage pool target path"),
        (directory(kind="fs"), XMLError, "XML error: missing storage pool source device name"),
        (directory(more="<uuid>z</uuid>"), XMLError, "XML error: malformed uuid element"),
        (FS.replace("0711", "9"), XMLError, "XML error: malformed octal mode"),
        (FS.replace(">1<", ">x<"), XMLError, "XML error: malformed owner element"),
        (FS.replace("ext4", "ext9"), ConfigUnsupported, "unsupported configuration: unknown pool format type ext9"),
        (
            directory(kind="logical"),
            ConfigUnsupported,
            "unsupported configuration: a pool of type 'logical' is the host's storage: private ones have dir and fs; "
            "open the connection with storage=host for others",
        ),
        (
            directory(more="<features><cow state='yes'/></features>"),
            ConfigUnsupported,
            "unsupported configuration: pool/features is not supported by this driver",
        ),
    ],
)
def test_what_cannot_be(xml: str, error: type[EmbedError], message: str) -> None:
    with pytest.raises(error) as caught:
        pool.parse(xml)
    assert caught.value.message == message


def test_what_the_schema_does_not_know_is_refused_where_that_is_asked_for() -> None:
    with pytest.raises(XMLSchemaError, match="pool/foo"):
        pool.parse(directory(more="<foo/>"), validate=True)


@pytest.mark.parametrize(("path", "clean"), [("//a", "//a"), ("///a//b/", "/a/b"), ("a/b", "a/b"), ("/", "/")])
def test_a_path_has_one_spelling(path: str, clean: str) -> None:
    assert pool.clean(path) == clean
