"""Device keys: made, shown and used to sign, each bound to one account and client.

A provider has the keys (a secure enclave, a TPM, an operating system's key store, or `SoftwareKeys`); a store has the
bindings. Both are protocols. Providers are asked on a thread of their own, so the event loop never waits for a chip or a
disk. What is signed is a payload that is checked field by field, of a key whose binding names the payload's account and
client: all of that comes before the provider is asked (codex_rollout.md 9).

A key that cannot be bound is removed again. A call that is cancelled is finished first: either the key is bound, or there is
none; nobody is left with a key that no binding knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from engine.clock import Clock
from engine.decisions import Decisions
from engine.errors import (
    BindingNotStored,
    DeviceKeyForeign,
    DeviceKeyNotFound,
    DeviceKeyRefused,
    DeviceKeyUnsupported,
    DeviceKeyUnusable,
    InvalidRequest,
)
from engine.events.device_keys import (
    HARDWARE_ONLY,
    Policy,
    Protection,
    Target,
    check_key_id,
    check_payload,
    check_policy,
    is_allowed,
    is_key_id,
    message_of,
    protection_of,
)
from engine.projections.device_keys import BOUND, Binding, all_bindings, binding_of
from engine.projections.fresh import Fresh
from engine.stores.alive import Alive
from engine.stores.boundary import guarded, public

ALGORITHM = "ecdsa_p256_sha256"

_Answer = TypeVar("_Answer")


class DeviceKey(Struct, frozen=True, kw_only=True):
    """A key's public side. `public_key` is its SubjectPublicKeyInfo as DER."""

    key_id: str
    protection: Protection
    public_key: bytes
    algorithm: str = ALGORITHM


class Signature(Struct, frozen=True, kw_only=True):
    """An ECDSA P-256 signature over SHA-256 of `message`, as DER."""

    key_id: str
    signature: bytes
    message: bytes
    algorithm: str = ALGORITHM


class KeyProvider(Protocol):
    """Where keys are. Every call may block; none is made on the event loop. What it raises reaches the caller."""

    def create(self, policy: Policy) -> tuple[str, bytes]:
        """A new P-256 key that the policy allows: its id, and its public key as DER."""
        ...

    def public_key(self, key_id: str) -> bytes:
        """The public key as DER; raises `DeviceKeyNotFound`."""
        ...

    def sign(self, key_id: str, message: bytes) -> bytes:
        """ECDSA over SHA-256 of the message, as DER; raises `DeviceKeyNotFound`."""
        ...

    def remove(self, key_id: str) -> None:
        """Remove a key; one that is not there is no error."""
        ...


class BindingStore(Protocol):
    """Where bindings are."""

    async def get(self, key_id: str) -> Binding | None:
        """A key's binding, or None."""
        ...

    async def put(self, key_id: str, account_user_id: str, client_id: str) -> None:
        """Bind a key, or bind it anew; when this returns it is kept."""
        ...


class NoProvider:
    """The provider where an application gives none: whatever is asked is `DeviceKeyUnsupported`."""

    def create(self, policy: Policy) -> tuple[str, bytes]:
        raise _unsupported()

    def public_key(self, key_id: str) -> bytes:
        raise _unsupported()

    def sign(self, key_id: str, message: bytes) -> bytes:
        raise _unsupported()

    def remove(self, key_id: str) -> None:
        raise _unsupported()


@public
class Bindings:
    """The engine's own store: a binding is a record in the home's journal, and a row that follows from it.

    An answer knows all of the journal or fails: a signature does not rest on whose a key was some time ago.
    """

    def __init__(self, fresh: Fresh, decisions: Decisions, alive: Alive) -> None:
        self._fresh = fresh
        self._alive = alive
        self._decisions = decisions

    async def get(self, key_id: str) -> Binding | None:
        return await _off_loop(lambda: self.find(key_id))

    async def put(self, key_id: str, account_user_id: str, client_id: str) -> None:
        check_key_id(key_id)
        _check_owner(account_user_id, client_id)
        record = guarded(self._alive, self._decisions.record)
        await _off_loop(
            lambda: record(BOUND, None, key_id=key_id, account_user_id=account_user_id, client_id=client_id)
        )

    def list(self) -> list[Binding]:
        """Every binding, by key id. Blocks, as all of the engine's own calls do."""
        return self._fresh.ask_decided(all_bindings)

    def find(self, key_id: str) -> Binding | None:
        """A key's binding, or None. Raises `DeviceKeyInvalid`."""
        check_key_id(key_id)
        return self._fresh.ask_decided(lambda transaction: binding_of(transaction, key_id))


class DeviceKeys:
    """The device keys of one provider, bound in one store. `targets` are the places that signatures are for; none is none."""

    def __init__(
        self, store: BindingStore, provider: KeyProvider | None = None, *, targets: Iterable[Target] = (), clock: Clock
    ) -> None:
        self._store = store
        self._provider: KeyProvider = provider or NoProvider()
        self._targets = frozenset(Target(*target) for target in targets)
        self._clock = clock

    async def create(self, account_user_id: str, client_id: str, *, policy: Policy = HARDWARE_ONLY) -> DeviceKey:
        """A new key, bound to an account and a client.

        Raises `InvalidRequest`, `DeviceKeyRefused` (the provider's key is not what the policy allows), `BindingNotStored`, and
        what the provider raises; no key is left then.
        """
        check_policy(policy)
        _check_owner(account_user_id, client_id)
        making = _begun(lambda: self._provider.create(policy))
        cancelled = await _to_its_end(making)
        key_id, public_key = making.result()
        try:
            _raise(cancelled)
            _check_made(key_id, policy)
            binding = asyncio.ensure_future(self._store.put(key_id, account_user_id, client_id))
            cancelled = await _to_its_end(binding)
            binding.result()
        except BaseException as error:
            await self._removed(key_id, error)
            raise
        _raise(cancelled)
        return DeviceKey(key_id=key_id, protection=protection_of(key_id), public_key=public_key)

    async def public(self, key_id: str) -> DeviceKey:
        """A key's public side. Raises `DeviceKeyInvalid`, `DeviceKeyNotFound`."""
        check_key_id(key_id)
        public_key = await _off_loop(lambda: self._provider.public_key(key_id))
        return DeviceKey(key_id=key_id, protection=protection_of(key_id), public_key=public_key)

    async def sign(self, key_id: str, payload: Mapping[str, Any]) -> Signature:
        """Sign a payload, which `engine.events.device_keys` tells the fields of.

        Raises, in this order, `DeviceKeyInvalid`, `DevicePayloadInvalid`, `DeviceKeyNotFound`, `DeviceKeyForeign`. Only then
        the provider is asked, for exactly the bytes that were checked: `message` of the answer.
        """
        check_key_id(key_id)
        payload = dict(payload)
        check_payload(payload, self._targets, self._clock.wall_ms())
        message = message_of(payload)
        binding = await self._store.get(key_id)
        if binding is None:
            raise DeviceKeyNotFound(
                f"The device key {key_id} is bound to no account.",
                hint="Create a key for this account and client; `rolloutdb devicekeys list` shows those there are.",
            )
        if (binding.account_user_id, binding.client_id) != (payload["accountUserId"], payload["clientId"]):
            raise DeviceKeyForeign(
                f"The device key {key_id} is bound to another account or client than the payload is of.",
                hint="Sign with the key of that account and client.",
            )
        signature = await _off_loop(lambda: self._provider.sign(key_id, message))
        return Signature(key_id=key_id, signature=signature, message=message)

    async def _removed(self, key_id: str, why: BaseException) -> None:
        """Remove a key that nobody will know; where that fails too, both failures are told as one."""
        removing = _begun(lambda: self._provider.remove(key_id))
        await _to_its_end(removing)
        failure = removing.exception()
        if not isinstance(why, Exception):
            return  # cancelled, or the interpreter ends: that goes on whatever became of the key
        errors = [why, *([failure] if isinstance(failure, Exception) else [])]
        if isinstance(why, (DeviceKeyRefused, DeviceKeyUnusable)) and failure is None:
            return
        left = "" if failure is None else f", and could not be removed again ({_told(failure)})"
        raise BindingNotStored(
            f"The device key {key_id} was made and could not be bound ({_told(why)}){left}.",
            errors=errors,
            hint="Mend what the first failure says, then create a key again."
            if failure is None
            else "Remove that key from its provider by hand: nothing is bound to it.",
        ) from why


class HomeKeys(DeviceKeys):
    """The device keys of one home: `bindings` are in its journal. It has no provider until `over` gives one."""

    def __init__(self, bindings: Bindings, clock: Clock) -> None:
        super().__init__(bindings, clock=clock)
        self.bindings = bindings

    def over(self, provider: KeyProvider, *, targets: Iterable[Target] = ()) -> DeviceKeys:
        """The keys of a provider, bound in this home, whose signatures are for these places."""
        return DeviceKeys(self.bindings, provider, targets=targets, clock=self._clock)


def _begun(call: Callable[[], _Answer]) -> asyncio.Future[_Answer]:
    """A blocking call, begun on another thread. It runs to its end, whatever becomes of the task that waits for it."""
    return asyncio.get_running_loop().run_in_executor(None, call)


async def _to_its_end(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until it is done, also when cancelled; that is answered, for the caller to raise when all is in order."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def _off_loop(call: Callable[[], _Answer]) -> _Answer:
    """What a blocking call answers. One that is cancelled has been done all the same."""
    running = _begun(call)
    cancelled = await _to_its_end(running)
    if cancelled is not None:
        running.exception()  # looked at, so that nobody is told of a failure that was never looked at
        raise cancelled
    return running.result()


def _raise(cancelled: asyncio.CancelledError | None) -> None:
    if cancelled is not None:
        raise cancelled


def _check_owner(account_user_id: object, client_id: object) -> None:
    for name, value in (("account_user_id", account_user_id), ("client_id", client_id)):
        if not isinstance(value, str) or not value.strip():
            raise InvalidRequest(f"The {name} is empty.", hint="A device key belongs to one account and one client.")


def _check_made(key_id: str, policy: Policy) -> None:
    """A provider is believed only so far: its key has a right id, and is kept as the policy wants."""
    if not is_key_id(key_id):
        raise DeviceKeyUnusable(
            f"The provider made a key with the id {str(key_id)[:80]!r}, which is none.", hint="Mend the provider."
        )
    if not is_allowed(policy, protection_of(key_id)):
        raise DeviceKeyRefused(
            f"The provider made a {protection_of(key_id)} key, which the policy {policy} does not allow.",
            hint="Use another provider, or name a policy that allows it.",
        )


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _unsupported() -> DeviceKeyUnsupported:
    return DeviceKeyUnsupported(
        "No provider of device keys was given.", hint="Give one: `e.device_keys.over(provider, targets=…)`."
    )
