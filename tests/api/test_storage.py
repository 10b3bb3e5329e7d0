"""virStoragePool, virStorageVol and their kin, against a real root; what libvirt 9.0 says is held against ours."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri

UUID = "11111111-1111-1111-1111-111111111111"
SECRET = "22222222-2222-2222-2222-222222222222"
BUILD = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD


@pytest.fixture
def root(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    with libvirt.open(make_uri(tmp_path / "root")) as connection:
        yield connection


@pytest.fixture
def pool(root: libvirt.virConnect) -> libvirt.virStoragePool:
    return root.storagePoolLookupByName("default")


def pool_xml(path: Path | str, name: str = "lab", kind: str = "dir", more: str = "") -> str:
    return (
        f"<pool type='{kind}'><name>{name}</name><uuid>{UUID}</uuid>{more}<target><path>{path}</path></target></pool>"
    )


def volume(name: str, size: int = 1 << 20, target: str = "", more: str = "") -> str:
    return f"<volume><name>{name}</name><capacity>{size}</capacity>{more}<target>{target}</target></volume>"


def qcow2(name: str, size: int = 8 << 20, target: str = "", more: str = "") -> str:
    return volume(name, size, f"<format type='qcow2'/>{target}", more)


def failure(call: Callable[[], object]) -> tuple[int, int, str]:
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    error = caught.value
    return error.get_error_code() or 0, error.get_error_domain() or 0, error.get_error_message() or ""


def invalid(sentence: str) -> tuple[int, int, str]:
    return (
        libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE, f"Requested operation is not valid: {sentence}",
    )  # fmt: skip


def test_there_is_a_default_pool(root: libvirt.virConnect, pool: libvirt.virStoragePool, tmp_path: Path) -> None:
    images = tmp_path / "root/lib/libvirt/images"
    assert (pool.isActive(), pool.isPersistent(), pool.autostart(), pool.listVolumes()) == (1, 1, 1, [])
    assert f"<path>{images}</path>" in pool.XMLDesc()
    assert images.stat().st_mode & 0o777 == 0o700
    assert root.storagePoolLookupByTargetPath(f"{images}/").UUID() == pool.UUID()
    assert pool.info()[0] == libvirt.VIR_STORAGE_POOL_RUNNING
    assert not (tmp_path / "root/etc/storage").exists()


def test_an_undefined_default_stays_away_and_autostart_is_kept(tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "root")
    with libvirt.open(uri) as first:
        default = first.storagePoolLookupByName("default")
        default.destroy()
        default.undefine()
        lab = first.storagePoolDefineXML(pool_xml(tmp_path / "root/lab"))
        lab.build()
        lab.setAutostart(1)
        first.storagePoolDefineXML(pool_xml(tmp_path / "root/x", "x").replace(UUID, SECRET))
    with libvirt.open(uri) as second:
        assert (second.listStoragePools(), second.listDefinedStoragePools()) == (["lab"], ["x"])
        assert (second.numOfStoragePools(), second.numOfDefinedStoragePools()) == (1, 1)


def test_the_life_of_a_pool(root: libvirt.virConnect, tmp_path: Path) -> None:
    path = tmp_path / "root/lab"
    lab = root.storagePoolDefineXML(pool_xml(path))
    assert (lab.name(), lab.UUIDString(), lab.isActive(), lab.isPersistent()) == ("lab", UUID, 0, 1)
    assert lab.connect() is root
    inactive = invalid("storage pool 'lab' is not active")
    for call in (lab.destroy, lab.refresh, lab.listAllVolumes, lab.numOfVolumes):
        assert failure(call) == inactive
    assert failure(lambda: lab.storageVolLookupByName("x")) == inactive
    assert failure(lambda: lab.createXML(volume("x"))) == inactive
    assert failure(lab.create) == (
        libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_NONE,
        f"cannot open directory '{path}': No such file or directory",
    )  # fmt: skip
    assert lab.build() == 0
    assert path.stat().st_mode & 0o777 == 0o711
    assert failure(lambda: lab.build(libvirt.VIR_STORAGE_POOL_BUILD_OVERWRITE)) == invalid(
        "No source device specified when formatting pool 'lab'"
    )
    assert lab.create() == 0
    assert failure(lab.create) == invalid("storage pool 'lab' is already active")
    assert failure(lab.undefine) == failure(lab.delete) == invalid("storage pool 'lab' is still active")
    lab.createXML(volume("x"))
    lab.destroy()
    assert failure(lab.delete)[2] == f"failed to remove pool '{path}': Directory not empty"
    (path / "x").unlink()
    assert (lab.delete(), lab.undefine(), path.exists()) == (0, 0, False)
    assert failure(lab.isActive) == (
        libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_FROM_STORAGE,
        f"Storage pool not found: no storage pool with matching uuid '{UUID}' (lab)",
    )  # fmt: skip


def test_a_transient_pool_is_gone_when_it_is_stopped(root: libvirt.virConnect, tmp_path: Path) -> None:
    lab = root.storagePoolCreateXML(pool_xml(tmp_path / "root/lab"), BUILD)
    assert (lab.isPersistent(), lab.isActive()) == (0, 1)
    assert failure(lambda: lab.setAutostart(1))[2] == "internal error: pool has no config file"
    again = pool_xml(tmp_path / "root/lab")
    assert failure(lambda: root.storagePoolCreateXML(again)) == invalid("pool is already active as 'lab'")
    lab.destroy()
    assert failure(lambda: root.storagePoolLookupByName("lab"))[0] == libvirt.VIR_ERR_NO_STORAGE_POOL
    assert failure(lambda: root.storagePoolCreateXML(pool_xml(tmp_path / "root/none")))[0] == 38
    assert root.listDefinedStoragePools() == []


def test_no_two_pools_are_the_same(root: libvirt.virConnect, tmp_path: Path) -> None:
    path = tmp_path / "root/lab"
    root.storagePoolDefineXML(pool_xml(path))
    for xml, says in (
        (pool_xml(path, "x").replace(UUID, SECRET), "Storage source conflict with pool: 'lab'"),
        (pool_xml(f"{path}2", "x"), f"pool 'lab' is already defined with uuid {UUID}"),
        (pool_xml(path).replace(UUID, SECRET), f"pool 'lab' already exists with uuid {UUID}"),
    ):
        assert failure(lambda xml=xml: root.storagePoolDefineXML(xml)) == (  # type: ignore[misc]
            libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_STORAGE, f"operation failed: {says}",
        )  # fmt: skip
    assert f"{path}2" in root.storagePoolDefineXML(pool_xml(f"{path}2")).XMLDesc()


@pytest.mark.parametrize(
    "place", ["/var/tmp/x", "relative", "{root}", "{root}/../x", "{root}/link", "{root}/a/../../x"]
)
def test_a_pool_is_below_its_root(root: libvirt.virConnect, tmp_path: Path, place: str) -> None:
    (tmp_path / "root/link").symlink_to(tmp_path)
    path = place.format(root=tmp_path / "root")
    code, _, says = failure(lambda: root.storagePoolDefineXML(pool_xml(path)))
    assert code == libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    assert f"is not below this connection's root '{tmp_path / 'root'}': give it a path there, such as" in says


@pytest.mark.parametrize("place", ["etc", "lib", "lib/qemu/ram", "run", "lib/secrets", "log/x"])
def test_a_pool_is_not_where_the_drivers_have_their_files(root: libvirt.virConnect, tmp_path: Path, place: str) -> None:
    says = failure(lambda: root.storagePoolDefineXML(pool_xml(tmp_path / "root" / place)))[2]
    assert "the root's drivers have their own files in" in says


def test_a_link_that_comes_later_leads_nowhere(root: libvirt.virConnect, tmp_path: Path) -> None:
    lab = root.storagePoolDefineXML(pool_xml(tmp_path / "root/lab"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/lab").symlink_to(tmp_path / "elsewhere")
    assert failure(lab.create)[0] == failure(lab.build)[0] == libvirt.VIR_ERR_CONFIG_UNSUPPORTED


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", ".new-1"])
def test_a_volume_is_in_its_pool(pool: libvirt.virStoragePool, tmp_path: Path, name: str) -> None:
    before = sorted((tmp_path / "root").rglob("*"))
    assert failure(lambda: pool.createXML(volume(name)))[0] == libvirt.VIR_ERR_OPERATION_INVALID
    assert sorted((tmp_path / "root").rglob("*")) == before


def test_what_is_in_the_directory_is_a_volume_and_a_link_is_none(pool: libvirt.virStoragePool, tmp_path: Path) -> None:
    images = tmp_path / "root/lib/libvirt/images"
    (tmp_path / "secret").write_text("secret")
    (images / "link").symlink_to(tmp_path / "secret")
    (images / "a\nb").touch()
    (images / ".new-half").touch()
    os.mkfifo(images / "fifo")
    (images / "raw").write_bytes(bytes(1000))
    (images / "broken").write_bytes(b"QFI\xfb\0\0\0\3")
    (images / "sub").mkdir()
    assert pool.listVolumes() == []
    pool.refresh()
    assert pool.listVolumes() == ["broken", "raw", "sub"]
    assert pool.storageVolLookupByName("raw").info()[:2] == [libvirt.VIR_STORAGE_VOL_FILE, 1000]
    assert pool.storageVolLookupByName("sub").info() == [libvirt.VIR_STORAGE_VOL_DIR, 0, 0]
    pool.destroy()
    pool.create()
    assert not (images / ".new-half").exists()
    (images / "raw").unlink()
    (images / "raw").symlink_to(tmp_path / "secret")
    raw = pool.storageVolLookupByName("raw")
    for call in (raw.info, raw.wipe, lambda: raw.resize(1 << 20)):
        assert failure(call)[0] == libvirt.VIR_ERR_NO_STORAGE_VOL
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_raw_volume(root: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
    raw = pool.createXML(volume("a.raw"))
    path = Path(raw.path())
    assert (raw.name(), raw.key(), path.stat().st_mode & 0o777) == ("a.raw", str(path), 0o600)
    assert raw.info() == [libvirt.VIR_STORAGE_VOL_FILE, 1 << 20, 1 << 20]
    sparse = pool.createXML(volume("b.raw", more="<allocation>0</allocation>"))
    assert (sparse.info()[2], sparse.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]) == (0, 1 << 20)
    assert failure(lambda: pool.createXML(volume("a.raw"))) == (
        libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_FROM_STORAGE, "storage volume 'a.raw' exists already",
    )  # fmt: skip
    for found in (root.storageVolLookupByPath(str(path)), root.storageVolLookupByKey(str(path))):
        assert (found.name(), found.storagePoolLookupByVolume().name()) == ("a.raw", "default")
    assert [v.name() for v in pool.listAllVolumes()] == ["a.raw", "b.raw"]
    assert raw.delete() == 0
    gone = (
        libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_FROM_STORAGE,
        "Storage volume not found: no storage vol with matching name 'a.raw'",
    )  # fmt: skip
    assert failure(raw.info) == failure(raw.XMLDesc) == failure(raw.delete) == gone
    assert not path.exists()


def test_a_qcow2_volume_and_what_it_stands_on(pool: libvirt.virStoragePool) -> None:
    base = pool.createXML(qcow2("base"))
    backing = f"<backingStore><path>{base.path()}</path><format type='qcow2'/></backingStore>"
    over = pool.createXML(qcow2("over", more=backing))
    assert f"<path>{base.path()}</path>" in over.XMLDesc()
    assert pool.createXML(
        "<volume><name>o</name><target><format type='qcow2'/></target>" + backing + "</volume>"
    ).info()[1] == (8 << 20)
    old = pool.createXML(qcow2("old", target="<compat>0.10</compat>"))
    assert Path(old.path()).read_bytes()[4:8] == b"\0\0\0\2"
    lazy = pool.createXML(qcow2("lazy", target="<features><lazy_refcounts/></features>"))
    assert "<lazy_refcounts/>" in lazy.XMLDesc()
    big = pool.createXML(qcow2("big", target="<clusterSize unit='KiB'>128</clusterSize>"))
    assert "<clusterSize unit='B'>131072</clusterSize>" in big.XMLDesc()
    full = pool.createXML(qcow2("full"), libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA)
    assert full.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2] > 8 << 20
    for xml, says in (
        (volume("x", more=backing), "backing storage not supported for raw volumes"),
        (qcow2("x", more=backing.replace("/base", "/none")), "inaccessible backing store volume"),
        (volume("x", target="<format type='vmdk'/><compat>1.1</compat>"), "only available with qcow2"),
        (volume("x", target="<format type='bochs'/>"), "cannot be created"),
        (qcow2("x", target="<clusterSize>3</clusterSize>"), "qemu-img create failed: "),
    ):
        assert says in failure(lambda xml=xml: pool.createXML(xml))[2]  # type: ignore[misc]
    left = {path.name for path in Path(base.path()).parent.iterdir()}
    assert left == {"base", "over", "o", "old", "lazy", "big", "full"}


def test_sizes_change(pool: libvirt.virStoragePool) -> None:
    raw = pool.createXML(volume("a"))
    assert (raw.resize(2 << 20), raw.info()[1]) == (0, 2 << 20)
    unasked = failure(lambda: raw.resize(1 << 20))
    assert unasked[0] == libvirt.VIR_ERR_INVALID_ARG
    assert unasked[2].endswith("Can't shrink capacity below current capacity unless shrink flag explicitly specified")
    raw.resize(1 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK)
    raw.resize(1 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_DELTA)
    raw.resize(4 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_ALLOCATE)
    assert raw.info()[1:] == [4 << 20, 4 << 20]
    below = failure(lambda: raw.resize(1, libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK))
    assert below[2] == "invalid argument: can't shrink capacity below existing allocation"
    assert failure(lambda: raw.resize(0))[2].startswith("capacity in virStorageVolResize cannot be zero")
    image = pool.createXML(qcow2("q"))
    image.resize(16 << 20)
    assert image.info()[1] == 16 << 20
    image.resize(8 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK)
    assert image.info()[1] == 8 << 20
    allocate = failure(lambda: image.resize(9 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_ALLOCATE))
    assert allocate[0] == libvirt.VIR_ERR_OPERATION_UNSUPPORTED


def test_a_wiped_volume_holds_zeros(pool: libvirt.virStoragePool) -> None:
    raw = pool.createXML(volume("a"))
    Path(raw.path()).write_bytes(b"x" * (1 << 20))
    assert raw.wipe() == 0
    assert Path(raw.path()).read_bytes() == bytes(1 << 20)
    image = pool.createXML(qcow2("q"))
    image.wipePattern(libvirt.VIR_STORAGE_VOL_WIPE_ALG_ZERO)
    assert "<format type='raw'/>" in image.XMLDesc()
    assert failure(lambda: raw.wipePattern(libvirt.VIR_STORAGE_VOL_WIPE_ALG_DOD))[2].endswith(
        "'dod' algorithm not supported"
    )
    assert failure(lambda: raw.wipePattern(99))[2] == "invalid argument: wiping algorithm 99 not supported"


def test_a_volume_is_made_from_another(root: libvirt.virConnect, pool: libvirt.virStoragePool, tmp_path: Path) -> None:
    raw = pool.createXML(volume("a"))
    Path(raw.path()).write_bytes(b"content" + bytes((1 << 20) - 7))
    other = root.storagePoolCreateXML(pool_xml(tmp_path / "root/lab"), BUILD)
    image = other.createXMLFrom("<volume><name>q</name><target><format type='qcow2'/></target></volume>", raw)
    assert image.info()[1] == 1 << 20
    back = pool.createXMLFrom(volume("b", 3 << 20), image)
    assert back.info()[1] == 3 << 20
    assert Path(back.path()).read_bytes()[:8] == b"content\0"
    taken = failure(lambda: pool.createXMLFrom(volume("b"), raw))
    assert taken[2] == "internal error: storage volume name 'b' already in use."


def test_bytes_go_in_and_out(root: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
    raw = pool.createXML(volume("a"))
    content = os.urandom(300_000)
    pieces = [content[:100_000], content[100_000:]]
    up = root.newStream()
    assert raw.upload(up, 5, 0) == 0
    up.sendAll(lambda *_: pieces.pop(0) if pieces else b"", None)
    up.finish()
    assert Path(raw.path()).read_bytes() == bytes(5) + content + bytes((1 << 20) - 300_005)
    got: list[bytes] = []
    down = root.newStream()
    raw.download(down, 5, 300_000)
    down.recvAll(lambda _stream, data, _opaque: got.append(data), None)
    down.finish()
    assert b"".join(got) == content

    short = root.newStream()
    raw.upload(short, 0, 10)
    assert (short.send(b"x" * 8), short.send(b"y" * 8)) == (8, 2)
    assert failure(lambda: short.send(b"z")) == (
        libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_STREAMS, "cannot write to stream: No space left on device",
    )  # fmt: skip
    assert failure(lambda: short.recv(1))[0] == libvirt.VIR_ERR_OPERATION_INVALID
    short.abort()
    with pytest.raises(libvirt.libvirtError, match="invalid stream pointer in virStorageVolUpload"):
        raw.upload(None, 0, 0)  # type: ignore[arg-type]


def test_holes_stay_holes(root: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
    raw = pool.createXML(volume("a", 4 << 20, more="<allocation>0</allocation>"))
    parts: list[tuple[bool, int]] = [(True, 4096), (False, 2 << 20), (True, 8192), (False, (2 << 20) - 12288)]
    up = root.newStream()
    raw.upload(up, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
    up.sparseSendAll(
        lambda _stream, size, _opaque: b"x" * min(size, parts.pop(0)[1]) if parts else b"",
        lambda _stream, _opaque: parts[0] if parts else (True, 0),
        lambda *_: parts.pop(0),
        None,
    )
    up.finish()
    assert (raw.info()[1], raw.info()[2]) == (4 << 20, 12288)
    seen: list[int] = []
    down = root.newStream()
    raw.download(down, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
    down.sparseRecvAll(
        lambda _stream, data, _opaque: seen.append(len(data)), lambda _s, size, _o: seen.append(-size), None
    )
    down.finish()
    assert seen == [4096, -(2 << 20), 8192, 12288 - (2 << 20)]
    plain = root.newStream()
    raw.download(plain, 0, 0)
    assert failure(plain.recvHole)[2].endswith("Holes are not supported with this stream")
    assert failure(lambda: plain.sendHole(1))[2].endswith("Skipping is not supported with this stream")
    plain.finish()


def test_an_encrypted_volume(
    root: libvirt.virConnect, pool: libvirt.virStoragePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = b"canary-of-the-passphrase"
    xml = f"<secret><uuid>{SECRET}</uuid><usage type='volume'><volume>{{}}</volume></usage></secret>"
    encryption = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    assert failure(lambda: pool.createXML(volume("x", target=encryption)))[0] == libvirt.VIR_ERR_NO_SECRET
    path = tmp_path / "root/lib/libvirt/images/x"
    root.secretDefineXML(xml.format(path)).setValue(canary)
    luks = pool.createXML(volume("x", target=encryption))
    assert path.read_bytes().startswith(b"LUKS\xba\xbe")
    assert luks.info()[1] == 1 << 20
    pool.refresh()
    assert f"<secret type='passphrase' uuid='{SECRET}'/>" in luks.XMLDesc()
    luks.resize(2 << 20)
    assert luks.info()[1] == 2 << 20
    opened = subprocess.run(
        ["qemu-io", "--object", f"secret,id=s,data={canary.decode()}", "--image-opts", "-c", "length",
         f"driver=luks,key-secret=s,file.filename={path}"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert opened.stdout.strip() == b"2 MiB"
    said = luks.XMLDesc() + caplog.text
    assert canary.decode() not in said
    for file in (tmp_path / "root").rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert canary not in file.read_bytes()


def test_what_happens_to_pools_is_told(root: libvirt.virConnect, tmp_path: Path) -> None:
    told: queue.Queue[tuple[object, ...]] = queue.Queue()

    def happened(_conn: object, pool: libvirt.virStoragePool, event: int, detail: int, _opaque: object) -> None:
        told.put((pool.name(), event, detail))

    lifecycle = root.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, happened, None)
    root.storagePoolEventRegisterAny(
        None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, lambda _c, p, _o: told.put((p.name(), "refresh")), None
    )
    lab = root.storagePoolDefineXML(pool_xml(tmp_path / "root/lab"))
    for call in (lab.build, lab.create, lab.refresh, lab.destroy, lab.delete, lab.undefine):
        call()
    assert [told.get(timeout=30) for _ in range(7)] == [
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_DEFINED, 0),
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_CREATED, 0),
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_STARTED, 0),
        ("lab", "refresh"),
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_STOPPED, 0),
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_DELETED, 0),
        ("lab", libvirt.VIR_STORAGE_POOL_EVENT_UNDEFINED, 0),
    ]
    root.storagePoolEventDeregisterAny(lifecycle)
    with pytest.raises(libvirt.libvirtError):
        root.storagePoolEventDeregisterAny(lifecycle)


def test_a_file_system_is_mounted_or_the_error_says_why_not(root: libvirt.virConnect, tmp_path: Path) -> None:
    device = tmp_path / "image"
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(device), "4M"], check=True, capture_output=True)
    source = f"<source><device path='{device}'/><format type='ext4'/></source>"
    lab = root.storagePoolDefineXML(pool_xml(tmp_path / "root/lab", kind="fs", more=source))
    lab.build()
    try:
        lab.create()
    except libvirt.libvirtError as error:
        assert "a pool of type 'fs' is mounted by this process, and mount failed: " in str(error)  # noqa: PT017
        return
    with contextlib.suppress(libvirt.libvirtError):
        lab.createXML(volume("x", 1000))
    assert lab.listVolumes() == ["lost+found", "x"]
    lab.destroy()
    assert list((tmp_path / "root/lab").iterdir()) == []


def test_capabilities(root: libvirt.virConnect) -> None:
    text = root.getStoragePoolCapabilities()
    assert text.count("<pool ") == 2
    assert "<value>qcow2</value>" in text


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE, ["default"]),
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE, ["lab"]),
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_AUTOSTART, ["default"]),
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR, ["default", "lab"]),
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_FS, []),
        (libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT, []),
    ],
)
def test_lists_are_filtered(root: libvirt.virConnect, tmp_path: Path, flags: int, names: list[str]) -> None:
    root.storagePoolDefineXML(pool_xml(tmp_path / "root/lab"))
    assert [pool.name() for pool in root.listAllStoragePools(flags)] == names


def calls(thing: Any) -> list[Callable[[], object]]:
    return [lambda: thing.XMLDesc(64), lambda: thing.delete(64)]


def test_unknown_flags_are_refused(root: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
    for call in (*calls(pool), *calls(pool.createXML(volume("a"))), lambda: root.listAllStoragePools(1 << 25)):
        code, _, says = failure(call)
        assert code == libvirt.VIR_ERR_INVALID_ARG
        assert says.startswith("unsupported flags (0x")
