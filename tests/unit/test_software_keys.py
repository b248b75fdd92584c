"""Device keys in files: made under one policy alone, readable by their owner alone, and used as they were made."""

from __future__ import annotations

import asyncio
import builtins
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from engine.errors import (
    BindingNotStored,
    DeviceKeyInvalid,
    DeviceKeyNotFound,
    DeviceKeyRefused,
    DeviceKeyUnsupported,
    DeviceKeyUnusable,
)
from engine.events.device_keys import to_base64url
from engine.stores.software_keys import SoftwareKeys
from tests.unit.test_device_keys import CONNECTION, TARGET
from tests.writing import Faults, opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def made(folder: Path) -> tuple[str, bytes, Path]:
    key_id, public_key = SoftwareKeys(str(folder)).create("allow_software")
    return key_id, public_key, folder / f"{key_id}.key"


def test_a_key_of_a_home_is_made_bound_shown_and_signs_what_openssl_verifies(tmp_path: Path, folder: Path) -> None:
    with opened(tmp_path / "home") as e:
        keys = e.device_keys.over(SoftwareKeys(str(folder)), targets=[TARGET])
        key = asyncio.run(keys.create("account-1", "client-1", policy="allow_software"))
        assert key.protection == "software"
        assert [each.key_id for each in e.device_keys.bindings.list()] == [key.key_id]
        signed = asyncio.run(keys.sign(key.key_id, CONNECTION))
        public_key: Any = serialization.load_der_public_key(asyncio.run(keys.public(key.key_id)).public_key)
        assert isinstance(public_key.curve, ec.SECP256R1)
        public_key.verify(signed.signature, signed.message, ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            public_key.verify(signed.signature, signed.message + b" ", ec.ECDSA(hashes.SHA256()))
        assert b"PRIVATE" not in (tmp_path / "home" / "engine" / "journal" / "000000000000.jsonl").read_bytes()


@pytest.mark.parametrize("policy", ["hardware_only", "allow_os_protected_nonextractable"])
def test_no_key_is_made_but_under_the_policy_that_says_so(tmp_path: Path, folder: Path, policy: Any) -> None:
    with pytest.raises(DeviceKeyRefused) as refused:
        SoftwareKeys(str(folder)).create(policy)
    assert "allow_software" in refused.value.hint
    with opened(tmp_path / "home") as e, pytest.raises(DeviceKeyRefused):
        asyncio.run(e.device_keys.over(SoftwareKeys(str(folder))).create("a", "c", policy=policy))
    assert not folder.exists()


def test_a_file_is_its_owner_s_alone_whatever_the_umask_and_its_name_is_the_digest_of_the_key(folder: Path) -> None:
    before = os.umask(0)
    try:
        key_id, public_key, path = made(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == [path.name], "nothing is left beside it"
    assert key_id == "dk_sfw_" + to_base64url(hashlib.sha256(public_key).digest())
    assert SoftwareKeys(str(folder)).public_key(key_id) == public_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_that_others_may_touch_is_not_used(folder: Path, mode: int) -> None:
    key_id, _, path = made(folder)
    path.chmod(mode)
    with pytest.raises(DeviceKeyUnusable, match="chmod 600"):
        SoftwareKeys(str(folder)).sign(key_id, b"message")
    path.chmod(0o600)
    assert SoftwareKeys(str(folder)).sign(key_id, b"message")


def other_kind() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def other_curve() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "content", [lambda: b"", lambda: b"\x00" * 200, lambda: b"x" * 10_000, other_kind, other_curve, None]
)
def test_a_file_that_is_not_the_key_its_name_says_is_not_used(folder: Path, content: Any) -> None:
    key_id, _, path = made(folder)
    if content is None:
        _, _, other = made(folder)
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(content())
    for use in (SoftwareKeys(str(folder)).public_key, lambda each: SoftwareKeys(str(folder)).sign(each, b"m")):
        with pytest.raises(DeviceKeyUnusable) as refused:
            use(key_id)
        assert refused.value.path == str(path)


def test_a_link_in_the_place_of_a_key_is_not_followed(folder: Path, tmp_path: Path) -> None:
    key_id, _, path = made(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceKeyUnusable):
        SoftwareKeys(str(folder)).sign(key_id, b"m")


def test_a_key_that_is_not_there_is_not_found_and_is_removed_without_ado(folder: Path) -> None:
    key_id, _, path = made(folder)
    keys = SoftwareKeys(str(folder))
    keys.remove(key_id)
    assert not path.exists()
    keys.remove(key_id)
    for use in (keys.public_key, lambda each: keys.sign(each, b"m")):
        with pytest.raises(DeviceKeyNotFound):
            use(key_id)
    SoftwareKeys(str(folder / "none")).remove(key_id)


@pytest.mark.parametrize("key_id", ["../dk_sfw_x", "", "dk_sfw_" + "." * 43])
def test_what_is_no_id_is_no_path(folder: Path, key_id: str) -> None:
    keys = SoftwareKeys(str(folder))
    for use in (keys.public_key, keys.remove, lambda each: keys.sign(each, b"m")):
        with pytest.raises(DeviceKeyInvalid):
            use(key_id)


@pytest.mark.parametrize("op", ["folder", "create", "write", "sync", "link", "close", "sync_folder"])
def test_a_disk_that_fails_leaves_no_key_and_says_so(folder: Path, op: str) -> None:
    files = Faults()
    files.failing[f"device_keys.{op}"] = errno.EIO
    with pytest.raises(DeviceKeyUnusable):
        SoftwareKeys(str(folder), files=files).create("allow_software")
    assert not folder.exists() or os.listdir(folder) == [], "a key that nobody was told of"


def test_a_key_that_cannot_be_bound_leaves_no_file(tmp_path: Path, folder: Path) -> None:
    files = Faults()
    with opened(tmp_path / "home", files=files) as e:
        files.failing["journal.write"] = errno.ENOSPC
        with pytest.raises(BindingNotStored):
            asyncio.run(
                e.device_keys.over(SoftwareKeys(str(folder))).create("account-1", "client-1", policy="allow_software")
            )
    assert list(folder.glob("*")) == []


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DeviceKeyUnsupported) as refused:
        SoftwareKeys(str(folder)).create("allow_software")
    assert "rolloutdb[device-keys]" in refused.value.hint
