"""A `<secret>`, read and written."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.constants import ErrorDomain, SecretUsageType
from pytest_embedvm.errors import EmbedError, XMLSchemaError, XMLSyntaxError
from pytest_embedvm.secret import definition
from pytest_embedvm.secret.definition import Secret, Usage

WHOLE = """\
<secret ephemeral='no' private='yes'>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <description>d &lt; e</description>
  <usage type='volume'>
    <volume> /x/volume </volume>
  </usage>
</secret>
"""


def test_what_is_read_is_written_as_libvirt_writes_it() -> None:
    secret = definition.parse(WHOLE)
    assert secret == Secret(
        private=True,
        uuid=uuid.UUID("11111111222233334444555555555555"),
        description="d < e",
        usage=Usage(type="volume", volume=" /x/volume "),
    )
    assert definition.format(secret) == WHOLE
    assert definition.format(definition.parse("<secret/>")) == "<secret ephemeral='no' private='no'/>\n"


@pytest.mark.parametrize(("kind", "name"), [("ceph", "name"), ("iscsi", "target"), ("tls", "name"), ("vtpm", "name")])
def test_each_kind_has_a_name_of_its_own(kind: str, name: str) -> None:
    more = "<volume>/not/mine</volume>"
    secret = definition.parse(f"<secret><usage type='{kind}'>{more}<{name}>a</{name}></usage></secret>")
    assert (secret.usage_type, secret.usage_id) == (SecretUsageType[kind.upper()], "a")
    assert more not in definition.format(secret)


def test_what_libvirt_does_not_know_is_ignored_or_refused() -> None:
    text = "<secret foo='1'><junk/></secret>"
    assert definition.parse(text) == Secret()
    with pytest.raises(XMLSchemaError, match="unexpected secret/@foo"):
        definition.parse(text, validate=True)


def test_what_is_no_xml_names_the_document() -> None:
    with pytest.raises(XMLSyntaxError, match=r"^\(definition_of_secret\):1: ") as caught:
        definition.parse("<secret>")
    assert caught.value.origin is ErrorDomain.SECRET


@given(st.text())
def test_any_text_is_a_secret_or_an_error_by_meaning(text: str) -> None:
    for xml in (text, f"<secret><usage type='tls'><name>{text}</name></usage></secret>"):
        try:
            secret = definition.parse(xml)
        except EmbedError:
            continue
        assert definition.parse(definition.format(secret)) == secret
