"""Device keys in files: P-256 private keys, each in a file of its own that only its owner may read.

For machines without a chip that keeps keys, and for tests. Whoever can read the folder has the keys, so none is made but
under a policy that says so (`allow_software`), and the id of each says what it is (`dk_sfw_`). The id is the digest of the
public key: a file that holds another key than its name says is refused, and so is one that others may read.

Needs the extra `device-keys`. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from engine.errors import DeviceKeyNotFound, DeviceKeyRefused, DeviceKeyUnsupported, DeviceKeyUnusable
from engine.events.device_keys import Policy, check_key_id, is_allowed, to_base64url
from engine.stores.files import Files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PREFIX = "dk_sfw_"
_KEY_BYTES_MAX = 4096
_OTHERS = 0o077


class SoftwareKeys:
    """A provider whose keys are files in a folder, which is made (0700) with the first key."""

    def __init__(self, folder: str, *, files: Files | None = None) -> None:
        self._folder = folder
        self._files = files or Files()

    def create(self, policy: Policy) -> tuple[str, bytes]:
        """A new key. Raises `DeviceKeyRefused` under a policy that does not allow it, `DeviceKeyUnusable`."""
        if not is_allowed(policy, "software"):
            raise DeviceKeyRefused(
                f"The policy {policy} does not allow keys that are kept in files.",
                hint="Use a provider with hardware, or say allow_software.",
            )
        ec, serialization = _cryptography()
        key = ec.generate_private_key(ec.SECP256R1())
        public_key = _public_der(key)
        key_id = PREFIX + to_base64url(hashlib.sha256(public_key).digest())
        data = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            self._write(key_id, data)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(self._path(key_id), op="device_keys.remove")  # a key that nobody is told of
            raise DeviceKeyUnusable(
                f"A device key could not be written to {self._folder}: {error.strerror}.",
                hint="Make room, or name a folder that can be written.",
                path=self._folder,
            ) from error
        return key_id, public_key

    def public_key(self, key_id: str) -> bytes:
        """The public key as DER. Raises `DeviceKeyInvalid`, `DeviceKeyNotFound`, `DeviceKeyUnusable`."""
        return _public_der(self._load(key_id))

    def sign(self, key_id: str, message: bytes) -> bytes:
        """ECDSA over SHA-256 of the message, as DER. Raises as `public_key` does."""
        key = self._load(key_id)
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - the same

        return key.sign(message, ec.ECDSA(SHA256()))

    def remove(self, key_id: str) -> None:
        """Remove a key's file; one that is not there is no error. Raises `DeviceKeyUnusable`."""
        path = self._path(key_id)
        try:
            self._files.remove(path, op="device_keys.remove")
            self._files.sync_folder(self._folder, op="device_keys.sync_folder")
        except FileNotFoundError:
            return
        except OSError as error:
            raise DeviceKeyUnusable(
                f"The device key {path} could not be removed: {error.strerror}.", hint="Remove the file.", path=path
            ) from error

    def _load(self, key_id: str) -> EllipticCurvePrivateKey:
        ec, serialization = _cryptography()
        path = self._path(key_id)
        try:
            data = self._read(path)
            key: Any = serialization.load_der_private_key(data, password=None)
        except FileNotFoundError:
            raise DeviceKeyNotFound(
                f"The device key {key_id} is not in {self._folder}.", hint="Create a key.", path=path
            ) from None
        except OSError as error:
            raise self._unusable(path, f"it cannot be read: {error.strerror}") from error
        except ValueError:
            raise self._unusable(path, "it does not hold a private key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise self._unusable(path, "it does not hold a P-256 key")
        if PREFIX + to_base64url(hashlib.sha256(_public_der(key)).digest()) != key_id:
            raise self._unusable(path, "it holds another key than its name says")
        found: EllipticCurvePrivateKey = key
        return found

    def _read(self, path: str) -> bytes:
        fd = self._files.open_read(path, op="device_keys.open")
        try:
            if self._files.mode(fd, op="device_keys.mode") & _OTHERS:
                raise self._unusable(path, "others than its owner may read or change it (chmod 600)")
            return self._files.read(fd, _KEY_BYTES_MAX, op="device_keys.read")
        finally:
            self._files.close(fd, op="device_keys.close")

    def _write(self, key_id: str, data: bytes) -> None:
        files, path = self._files, self._path(key_id)
        beside = f"{path}.tmp"
        files.ensure_folder(self._folder, op="device_keys.folder")
        fd = files.create(beside, op="device_keys.create")
        with contextlib.ExitStack() as after:
            after.callback(files.remove, beside, op="device_keys.remove")
            after.callback(files.close, fd, op="device_keys.close")
            while data:
                data = data[files.write(fd, data, op="device_keys.write") :]
            files.sync(fd, op="device_keys.sync")
            files.link(beside, path, op="device_keys.link")
        files.sync_folder(self._folder, op="device_keys.sync_folder")

    def _path(self, key_id: str) -> str:
        check_key_id(key_id)  # it becomes a name, so nothing but a well-formed one is looked at
        return f"{self._folder}/{key_id}.key"

    def _unusable(self, path: str, why: str) -> DeviceKeyUnusable:
        return DeviceKeyUnusable(
            f"The device key {path} is not used: {why}.", hint="Mend or remove the file.", path=path
        )


def _public_der(key: EllipticCurvePrivateKey) -> bytes:
    _, serialization = _cryptography()
    der: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return der


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - the same
    except ImportError:
        raise DeviceKeyUnsupported(
            "Device keys in files need the package cryptography.", hint="Run `pip install 'rolloutdb[device-keys]'`."
        ) from None
    return ec, serialization
