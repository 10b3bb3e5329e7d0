from __future__ import annotations

from pytest_embedvm.domain import complete, definition
from pytest_embedvm.domain.consoles import learn
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed
from tests.domain.machines import completed, words, xml
from tests.fakes.host import FakeHost

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def elsewhere(domain: Completed, name: str | None = None) -> str:
    return definition.format(migratable(domain, FakeHost(), name), inactive=True)


def test_nothing_of_this_run_and_this_root_is_left() -> None:
    domain = completed(f"<serial type='pty'/>{CHANNEL}<graphics type='vnc'><listen type='socket'/></graphics>")
    domain.id = 7
    learn(domain, [{"label": "charserial0", "filename": "pty:/dev/pts/9", "frontend-open": True}])
    text = elsewhere(domain)
    assert "id='7'" not in text
    assert "/R/" not in text
    assert "/dev/pts" not in text
    assert "<alias" not in text


def test_what_was_completed_again_is_the_same_machine() -> None:
    domain = completed(f"{CHANNEL}<serial type='pty'/><interface type='user'><model type='virtio'/></interface>")
    again = complete.complete(definition.parse(elsewhere(domain)), FakeHost(kvm_refused=None))
    assert words(again) == words(domain)


def test_another_name_names_the_files_too() -> None:
    domain = complete.complete(definition.parse(elsewhere(completed(CHANNEL), "b")), FakeHost())
    assert domain.name == "b"
    assert "/R/channel/b/org.qemu.guest_agent.0" in definition.format(domain)


def test_the_variable_store_is_the_roots_unless_the_user_named_it() -> None:
    efi = xml("").replace("<os>", "<features><acpi/></features><os firmware='efi'>")
    own = complete.complete(definition.parse(efi), FakeHost())
    assert "/R/nvram" in definition.format(own)
    assert "/R/nvram" not in elsewhere(own)
    given = complete.complete(definition.parse(efi.replace("</type>", "</type><nvram>/x/v.fd</nvram>")), FakeHost())
    assert "<nvram" in elsewhere(given)
    assert "/x/v.fd</nvram>" in elsewhere(given)


def test_the_domain_itself_is_left_alone() -> None:
    domain = completed(CHANNEL)
    before = definition.format(domain)
    elsewhere(domain, "b")
    assert definition.format(domain) == before
