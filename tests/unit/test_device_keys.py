"""Device keys: what may be signed, whose a key is, and that no key is left that nobody can use.

The checks of `sign` come in a stated order, and the provider is asked last; every test counts what it was asked.
"""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.device_keys import Binding, Bindings, DeviceKeys, NoProvider
from engine.errors import (
    BindingNotStored,
    DeviceKeyForeign,
    DeviceKeyInvalid,
    DeviceKeyNotFound,
    DeviceKeyRefused,
    DeviceKeyUnsupported,
    DeviceKeyUnusable,
    DevicePayloadInvalid,
    EngineError,
    InvalidRequest,
    ReadOnlyHome,
)
from engine.events.device_keys import (
    Policy,
    Target,
    check_payload,
    from_base64url,
    is_key_id,
    message_of,
    to_base64url,
)
from engine.projections.device_keys import BOUND
from engine.testing import ManualClock
from tests.agents import journal
from tests.writing import Faults, faults, opened

KEY = "dk_tpm_" + to_base64url(bytes(range(32)))
OTHER = "dk_hse_" + to_base64url(bytes(32))
TARGET = Target("https://remote.example", "/control/client")
NOW_S = ManualClock().wall_ms() // 1000
CONNECTION = {
    "type": "remoteControlClientConnection",
    "nonce": to_base64url(b"n" * 32),
    "audience": "remote_control_client_websocket",
    "sessionId": "session-1",
    "targetOrigin": TARGET.origin,
    "targetPath": TARGET.path,
    "accountUserId": "account-1",
    "clientId": "client-1",
    "tokenSha256Base64url": to_base64url(b"d" * 32),
    "tokenExpiresAt": NOW_S + 60,
    "scopes": ["remote_control_controller_websocket"],
}
ENROLLMENT = {
    "type": "remoteControlClientEnrollment",
    "nonce": to_base64url(b"n" * 40),
    "audience": "remote_control_client_enrollment",
    "challengeId": "challenge-1",
    "targetOrigin": TARGET.origin,
    "targetPath": TARGET.path,
    "accountUserId": "account-1",
    "clientId": "client-1",
    "deviceIdentitySha256Base64url": to_base64url(b"d" * 32),
    "challengeExpiresAt": NOW_S + 900,
}


class Provider:
    """Keys that are no keys; it remembers what it was asked, and on which thread."""

    def __init__(self, key_id: str = KEY) -> None:
        self.key_id = key_id
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.threads: set[int] = set()
        self.failing: dict[str, Exception] = {}
        self.gate: threading.Event | None = None
        self.reached = threading.Event()

    def create(self, policy: Policy) -> tuple[str, bytes]:
        self._ask(f"create {policy}")
        self.keys.add(self.key_id)
        return self.key_id, b"public"

    def public_key(self, key_id: str) -> bytes:
        self._ask("public")
        if key_id not in self.keys:
            raise DeviceKeyNotFound("not here", hint="create it")
        return b"public"

    def sign(self, key_id: str, message: bytes) -> bytes:
        self._ask("sign")
        return b"signed " + message

    def remove(self, key_id: str) -> None:
        self._ask("remove")
        self.keys.discard(key_id)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.threads.add(threading.get_ident())
        self.reached.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        if what.split(maxsplit=1)[0] in self.failing:
            raise self.failing[what.split(maxsplit=1)[0]]


class Store:
    """Bindings in a dict; it remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: dict[str, Binding] = {}
        self.asked: list[str] = []
        self.failing: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.reached: asyncio.Event | None = None

    async def get(self, key_id: str) -> Binding | None:
        self.asked.append("get")
        return self.rows.get(key_id)

    async def put(self, key_id: str, account_user_id: str, client_id: str) -> None:
        self.asked.append("put")
        if self.gate is not None and self.reached is not None:
            self.reached.set()
            await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        self.rows[key_id] = Binding(
            key_id=key_id, account_user_id=account_user_id, client_id=client_id, created_at_ms=1, updated_at_ms=1
        )


def keys(provider: Any = None, store: Any = None, targets: Any = (TARGET,)) -> DeviceKeys:
    return DeviceKeys(store or Store(), provider or Provider(), targets=targets, clock=ManualClock())


def bound(provider: Provider, store: Store) -> DeviceKeys:
    """With a key of account-1 and client-1."""
    found = keys(provider, store)
    asyncio.run(found.create("account-1", "client-1"))
    provider.asked.clear()
    store.asked.clear()
    return found


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["dk_hse_", "dk_tpm_", "dk_osn_", "dk_sfw_"])
def test_an_id_is_a_prefix_and_thirty_two_bytes(prefix: str) -> None:
    assert is_key_id(prefix + to_base64url(b"\xff" * 32))
    assert not is_key_id(prefix + to_base64url(b"\xff" * 31))
    assert not is_key_id(prefix + to_base64url(b"\xff" * 33))


BAD_IDS = [
    "",
    "dk_tpm_",
    KEY[7:],
    "dk_xyz_" + KEY[7:],
    "DK_TPM_" + KEY[7:],
    KEY + "=",
    KEY[:-1],
    KEY[:-1] + "9",  # bits that no byte is made of
    KEY[:20] + "+" + KEY[21:],
    KEY[:20] + "/" + KEY[21:],
    KEY + "\n",
    " " + KEY,
    KEY[:20] + "é" + KEY[21:],
    "../../" + KEY,
    None,
    7,
    KEY.encode(),
]


@pytest.mark.parametrize("key_id", BAD_IDS)
def test_what_is_no_id_reaches_neither_provider_nor_store(key_id: Any) -> None:
    provider, store = Provider(), Store()
    found = keys(provider, store)
    for call in (found.public(key_id), found.sign(key_id, {"type": "rubbish"})):
        with pytest.raises(DeviceKeyInvalid) as refused:
            asyncio.run(call)
        assert refused.value.hint
    assert (provider.asked, store.asked) == ([], [])


@given(st.binary(max_size=80))
def test_base64url_is_read_as_it_is_written_and_in_no_other_spelling(data: bytes) -> None:
    text = to_base64url(data)
    assert from_base64url(text) == data
    assert from_base64url(text + "=") is None


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_is_none_and_never_an_error(text: str) -> None:
    assert is_key_id("dk_tpm_" + text) == (len(text) == 43 and from_base64url(text) is not None)


# --- create ----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_off_the_event_loop_and_bound() -> None:
    provider, store = Provider(), Store()
    made = asyncio.run(keys(provider, store).create("account-1", "client-1"))
    assert (made.key_id, made.protection, made.public_key, made.algorithm) == (
        KEY,
        "hardware_tpm",
        b"public",
        "ecdsa_p256_sha256",
    )
    assert provider.asked == ["create hardware_only"], "the default policy"
    assert provider.threads.isdisjoint({threading.get_ident()})
    assert (store.rows[KEY].account_user_id, store.rows[KEY].client_id) == ("account-1", "client-1")


@pytest.mark.parametrize(("account", "client"), [("", "c"), ("a", ""), (" ", "c"), (None, "c")])
def test_a_key_without_account_or_client_is_not_made(account: Any, client: Any) -> None:
    provider, store = Provider(), Store()
    with pytest.raises(InvalidRequest):
        asyncio.run(keys(provider, store).create(account, client))
    assert (provider.asked, store.asked) == ([], [])


def test_an_unknown_policy_makes_nothing() -> None:
    provider = Provider()
    with pytest.raises(InvalidRequest):
        asyncio.run(keys(provider).create("a", "c", policy="anything"))  # type: ignore[arg-type]
    assert provider.asked == []


@pytest.mark.parametrize(
    ("prefix", "policy", "is_kept"),
    [
        ("dk_hse_", "hardware_only", True),
        ("dk_tpm_", "hardware_only", True),
        ("dk_osn_", "hardware_only", False),
        ("dk_sfw_", "hardware_only", False),
        ("dk_osn_", "allow_os_protected_nonextractable", True),
        ("dk_tpm_", "allow_os_protected_nonextractable", True),
        ("dk_sfw_", "allow_os_protected_nonextractable", False),
        ("dk_sfw_", "allow_software", True),
        ("dk_hse_", "allow_software", True),
    ],
)
def test_a_policy_holds_whatever_the_provider_makes(prefix: str, policy: Policy, is_kept: bool) -> None:
    provider, store = Provider(prefix + KEY[7:]), Store()
    if is_kept:
        asyncio.run(keys(provider, store).create("a", "c", policy=policy))
        assert provider.keys == store.rows.keys() == {provider.key_id}
        return
    with pytest.raises(DeviceKeyRefused):
        asyncio.run(keys(provider, store).create("a", "c", policy=policy))
    assert (provider.keys, store.asked) == (set(), []), "it was removed again, and never bound"


def test_a_provider_that_makes_up_an_id_is_not_believed() -> None:
    provider, store = Provider("my key"), Store()
    with pytest.raises(DeviceKeyUnusable):
        asyncio.run(keys(provider, store).create("a", "c"))
    assert (provider.keys, store.asked) == (set(), [])


def test_a_key_that_cannot_be_bound_is_removed_again() -> None:
    provider, store = Provider(), Store()
    store.failing = OSError(errno.ENOSPC, "no room")
    with pytest.raises(BindingNotStored) as failed:
        asyncio.run(keys(provider, store).create("a", "c"))
    assert failed.value.errors == [store.failing]
    assert failed.value.__cause__ is store.failing
    assert (provider.asked, provider.keys) == (["create hardware_only", "remove"], set())


def test_where_it_cannot_be_removed_either_both_failures_are_told() -> None:
    provider, store = Provider(), Store()
    store.failing, provider.failing["remove"] = OSError(errno.ENOSPC, "no room"), RuntimeError("the chip is busy")
    with pytest.raises(BindingNotStored) as failed:
        asyncio.run(keys(provider, store).create("a", "c"))
    assert failed.value.errors == [store.failing, provider.failing["remove"]]
    assert "no room" in str(failed.value)
    assert "the chip is busy" in str(failed.value)
    assert KEY in str(failed.value)


def test_what_the_provider_raises_reaches_the_caller_and_nothing_is_bound() -> None:
    provider, store = Provider(), Store()
    provider.failing["create"] = RuntimeError("locked out")
    with pytest.raises(RuntimeError, match="locked out"):
        asyncio.run(keys(provider, store).create("a", "c"))
    assert (store.asked, provider.asked) == ([], ["create hardware_only"])


def test_cancelled_while_the_key_is_made_it_is_removed_again() -> None:
    provider, store = Provider(), Store()
    provider.gate = threading.Event()

    async def cancelled() -> None:
        task = asyncio.create_task(keys(provider, store).create("a", "c"))
        await asyncio.to_thread(provider.reached.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # impatience changes nothing
        provider.gate.set()  # type: ignore[union-attr]
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert (provider.asked, provider.keys, store.asked) == (["create hardware_only", "remove"], set(), [])


@pytest.mark.parametrize("is_bound", [True, False])
def test_cancelled_while_the_key_is_bound_it_is_bound_or_there_is_none(is_bound: bool) -> None:
    provider, store = Provider(), Store()
    store.failing = None if is_bound else OSError(errno.ENOSPC, "no room")

    async def cancelled() -> None:
        store.gate, store.reached = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(keys(provider, store).create("a", "c"))
        await asyncio.wait_for(store.reached.wait(), 30)
        task.cancel()
        await asyncio.sleep(0)
        store.gate.set()
        await task

    with pytest.raises((asyncio.CancelledError, BindingNotStored)):
        asyncio.run(cancelled())
    assert provider.keys == store.rows.keys() == ({KEY} if is_bound else set())


def test_ten_keys_are_made_at_once_and_the_loop_goes_on_meanwhile() -> None:
    provider, store = Provider(), Store()
    provider.gate = threading.Event()
    ticks = 0

    async def all_at_once() -> None:
        nonlocal ticks
        found = keys(provider, store)
        making = [asyncio.create_task(found.create("a", "c")) for _ in range(10)]
        await asyncio.to_thread(provider.reached.wait, 30)
        for _ in range(100):
            await asyncio.sleep(0)
            ticks += 1
        provider.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(*making)

    asyncio.run(all_at_once())
    assert ticks == 100
    assert store.asked.count("put") == 10


def test_without_a_provider_everything_is_unsupported() -> None:
    found = DeviceKeys(Store(), targets=[TARGET], clock=ManualClock())
    for call in (found.create("a", "c"), found.public(KEY)):
        with pytest.raises(DeviceKeyUnsupported) as refused:
            asyncio.run(call)
        assert refused.value.hint
    store = Store()
    bound(Provider(), store)
    with pytest.raises(DeviceKeyUnsupported):
        asyncio.run(keys(NoProvider(), store).sign(KEY, CONNECTION))


# --- public and sign -------------------------------------------------------------------------------------------------


def test_the_public_side_is_the_provider_s_and_asks_no_store() -> None:
    provider, store = Provider(), Store()
    found = bound(provider, store)
    assert asyncio.run(found.public(KEY)).public_key == b"public"
    with pytest.raises(DeviceKeyNotFound):
        asyncio.run(found.public(OTHER))
    assert (provider.asked, store.asked) == (["public", "public"], [])
    assert provider.threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("payload", [CONNECTION, ENROLLMENT], ids=["connection", "enrollment"])
def test_what_is_signed_is_canonical_json_below_its_domain(payload: dict[str, Any]) -> None:
    provider, store = Provider(), Store()
    found = bound(provider, store)
    signed = asyncio.run(found.sign(KEY, payload))
    expected = json.dumps(
        {"domain": "codex-device-key-sign-payload/v1", "payload": payload}, sort_keys=True, separators=(",", ":")
    ).encode()
    assert signed.message == expected
    assert (signed.key_id, signed.signature) == (KEY, b"signed " + expected)
    assert (store.asked, provider.asked) == (["get"], ["sign"])


def test_the_order_of_the_fields_and_their_white_space_change_nothing_of_what_is_signed() -> None:
    turned = dict(reversed(CONNECTION.items()))
    assert message_of(turned) == message_of(CONNECTION)


BAD_PAYLOADS: list[tuple[str, dict[str, Any]]] = [
    ("type", {"type": "remoteControlClientEverything"}),
    ("type", {"type": None}),
    ("extra", {"extra": 1}),
    ("targetOrigin", {"targetOrigin": "https://evil.example"}),
    ("targetOrigin", {"targetOrigin": "https://remote.example/"}),
    ("targetOrigin", {"targetOrigin": "https://remote.example:443"}),
    ("targetOrigin", {"targetOrigin": "http://remote.example"}),
    ("targetOrigin", {"targetPath": "/control/client/../admin"}),
    ("targetPath", {"targetPath": ""}),
    ("accountUserId", {"accountUserId": ""}),
    ("accountUserId", {"accountUserId": 7}),
    ("clientId", {"clientId": None}),
    ("audience", {"audience": " "}),
    ("audience", {"audience": "a\x00b"}),
    ("audience", {"audience": "a\ud800"}),
    ("sessionId", {"sessionId": ""}),
    ("nonce", {"nonce": to_base64url(b"n" * 31)}),
    ("nonce", {"nonce": "n" * 44 + "="}),
    ("nonce", {"nonce": None}),
    ("tokenSha256Base64url", {"tokenSha256Base64url": to_base64url(b"d" * 31)}),
    ("tokenSha256Base64url", {"tokenSha256Base64url": "64" * 32}),
    ("tokenSha256Base64url", {"tokenSha256Base64url": to_base64url(b"d" * 33)}),
    ("scopes", {"scopes": []}),
    ("scopes", {"scopes": ["remote_control_controller_websocket", "admin"]}),
    ("scopes", {"scopes": "remote_control_controller_websocket"}),
    ("scopes", {"scopes": None}),
    ("tokenExpiresAt", {"tokenExpiresAt": NOW_S}),
    ("tokenExpiresAt", {"tokenExpiresAt": NOW_S - 1}),
    ("tokenExpiresAt", {"tokenExpiresAt": NOW_S + 901}),
    ("tokenExpiresAt", {"tokenExpiresAt": 1 << 80}),
    ("tokenExpiresAt", {"tokenExpiresAt": str(NOW_S + 60)}),
    ("tokenExpiresAt", {"tokenExpiresAt": True}),
    ("tokenExpiresAt", {"tokenExpiresAt": NOW_S + 60.5}),
]


@pytest.mark.parametrize(("field", "changed"), BAD_PAYLOADS, ids=[repr(changed)[:60] for _, changed in BAD_PAYLOADS])
def test_a_payload_with_a_wrong_field_is_refused_by_name_and_nobody_is_asked(
    field: str, changed: dict[str, Any]
) -> None:
    provider, store = Provider(), Store()
    found = bound(provider, store)
    with pytest.raises(DevicePayloadInvalid) as refused:
        asyncio.run(found.sign(KEY, {**CONNECTION, **changed}))
    assert field in str(refused.value)
    assert (store.asked, provider.asked) == ([], [])


@pytest.mark.parametrize("payload", [CONNECTION, ENROLLMENT], ids=["connection", "enrollment"])
def test_a_payload_that_lacks_any_field_is_refused(payload: dict[str, Any]) -> None:
    targets = frozenset([TARGET])
    now_ms = ManualClock().wall_ms()
    check_payload(payload, targets, now_ms)
    for name in payload:
        without = {key: value for key, value in payload.items() if key != name}
        with pytest.raises(DevicePayloadInvalid):
            check_payload(without, targets, now_ms)


def test_an_enrollment_may_name_the_scopes_and_no_others() -> None:
    targets, now_ms = frozenset([TARGET]), ManualClock().wall_ms()
    check_payload({**ENROLLMENT, "scopes": CONNECTION["scopes"]}, targets, now_ms)
    with pytest.raises(DevicePayloadInvalid):
        check_payload({**ENROLLMENT, "scopes": ["admin"]}, targets, now_ms)


def test_where_no_place_is_allowed_nothing_is_signed() -> None:
    with pytest.raises(DevicePayloadInvalid):
        asyncio.run(keys(targets=()).sign(KEY, CONNECTION))


def test_the_checks_come_in_their_order() -> None:
    """Everything is wrong at first, and one thing after the other is put right."""
    provider, store = Provider(), Store()
    found = keys(provider, store)
    foreign = {**CONNECTION, "accountUserId": "account-2"}

    def refused(key_id: str, payload: dict[str, Any]) -> type[EngineError]:
        with pytest.raises(EngineError) as raised:
            asyncio.run(found.sign(key_id, payload))
        return type(raised.value)

    assert refused("rubbish", {"type": "rubbish"}) is DeviceKeyInvalid
    assert refused(KEY, {"type": "rubbish"}) is DevicePayloadInvalid
    assert refused(KEY, foreign) is DeviceKeyNotFound
    asyncio.run(store.put(KEY, "account-1", "client-1"))
    assert refused(KEY, foreign) is DeviceKeyForeign
    assert refused(KEY, {**CONNECTION, "clientId": "client-2"}) is DeviceKeyForeign
    assert provider.asked == [], "the provider is asked last"
    provider.failing["sign"] = RuntimeError("the chip is gone")
    with pytest.raises(RuntimeError):
        asyncio.run(found.sign(KEY, CONNECTION))
    assert provider.asked == ["sign"]


def test_a_payload_that_is_changed_while_it_is_signed_is_signed_as_it_was_checked() -> None:
    provider, store = Provider(), Store()
    found = bound(provider, store)
    payload = dict(CONNECTION)

    class Changing(Store):
        async def get(self, key_id: str) -> Binding | None:
            payload["targetOrigin"] = "https://evil.example"
            return store.rows[key_id]

    found = keys(provider, Changing())
    signed = asyncio.run(found.sign(KEY, payload))
    assert b"evil" not in signed.message


def test_time_is_asked_for_by_each_signature() -> None:
    provider, store = Provider(), Store()
    bound(provider, store)
    clock = ManualClock()
    found = DeviceKeys(store, provider, targets=[TARGET], clock=clock)
    asyncio.run(found.sign(KEY, CONNECTION))
    clock.advance(60_000)
    with pytest.raises(DevicePayloadInvalid, match="is over"):
        asyncio.run(found.sign(KEY, CONNECTION))


# --- the engine's own store ------------------------------------------------------------------------------------------


def put(e: engine.Engine, key_id: str = KEY, account: str = "account-1", client: str = "client-1") -> None:
    asyncio.run(e.device_keys.bindings.put(key_id, account, client))


def test_a_binding_is_a_record_of_no_thread_and_a_row_that_keeps_when_it_was_first_made(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e:
        put(e)
        clock.advance(1_000)
        put(e, account="account-2")
        clock.advance(1_000)
        put(e, OTHER)
        assert e.device_keys.bindings.list() == [
            Binding(
                key_id=OTHER,
                account_user_id="account-1",
                client_id="client-1",
                created_at_ms=clock.wall_ms(),
                updated_at_ms=clock.wall_ms(),
            ),
            Binding(
                key_id=KEY,
                account_user_id="account-2",
                client_id="client-1",
                created_at_ms=clock.wall_ms() - 2_000,
                updated_at_ms=clock.wall_ms() - 1_000,
            ),
        ]
        assert e.device_keys.bindings.find(KEY) == asyncio.run(e.device_keys.bindings.get(KEY))
        assert asyncio.run(e.device_keys.bindings.get("dk_osn_" + KEY[7:])) is None
    assert journal(tmp_path / "home")[0] == {
        "type": BOUND,
        "key_id": KEY,
        "account_user_id": "account-1",
        "client_id": "client-1",
    }


def test_every_database_may_be_deleted_and_the_bindings_are_the_same(tmp_path: Path) -> None:
    """Two records of one key, applied one by one and then as one: the time of the first stays in both."""
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e:
        put(e)
        clock.advance(5_000)
        put(e, client="client-2")
        before = e.device_keys.bindings.list()
        assert faults(e, deep=True) == []
    for path in (tmp_path / "home" / "engine").glob("*.sqlite*"):
        path.unlink()
    with opened(tmp_path / "home", clock) as e:
        assert e.device_keys.bindings.list() == before
        with e._database.write() as transaction:
            transaction.run("UPDATE device_keys SET account_user_id = 'mallory'")
        assert [(each.class_, each.field, each.file_value, each.row_value) for each in e.audit().findings] == [
            ("wrong_fact", "device_keys.account_user_id", "account-1", "mallory")
        ]
        e.repair()
        assert e.device_keys.bindings.list() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"key_id": "rubbish", "account_user_id": "a", "client_id": "c"},
        {"key_id": KEY, "account_user_id": "", "client_id": "c"},
        {"key_id": KEY, "account_user_id": "a"},
        {"key_id": KEY, "account_user_id": ["a"], "client_id": "c"},
        {},
    ],
)
def test_a_record_that_is_not_right_binds_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    with opened(tmp_path / "home") as e:
        e.agents._decisions.record(BOUND, None, **fields)
        assert e.device_keys.bindings.list() == []
        assert faults(e, deep=True) == []


def test_what_cannot_be_bound_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        for key_id, account, client in (("rubbish", "a", "c"), (KEY, "", "c"), (KEY, "a", " ")):
            with pytest.raises(InvalidRequest):
                put(e, key_id, account, client)
        with pytest.raises(DeviceKeyInvalid):
            asyncio.run(e.device_keys.bindings.get("rubbish"))
        assert not (tmp_path / "home" / "engine" / "journal").exists()


def test_a_full_disk_leaves_no_key(tmp_path: Path) -> None:
    files, provider = Faults(), Provider()
    with opened(tmp_path / "home", files=files) as e:
        found = e.device_keys.over(provider, targets=[TARGET])
        files.failing["journal.write"] = errno.ENOSPC
        with pytest.raises(BindingNotStored) as failed:
            asyncio.run(found.create("account-1", "client-1"))
        assert [type(each).__name__ for each in failed.value.errors] == ["AppendFailed"]
        assert (provider.keys, e.device_keys.bindings.list()) == (set(), [])
        files.failing.clear()
        made = asyncio.run(found.create("account-1", "client-1"))
        assert asyncio.run(found.sign(made.key_id, CONNECTION)).key_id == KEY


def test_a_read_only_home_makes_no_key(tmp_path: Path) -> None:
    from tests.unit.test_agents import ReadOnly

    (tmp_path / "home").mkdir()
    provider = Provider()
    with engine.open(str(tmp_path / "home"), files=ReadOnly()) as e:
        with pytest.raises(BindingNotStored) as failed:
            asyncio.run(e.device_keys.over(provider).create("a", "c"))
        assert isinstance(failed.value.__cause__, ReadOnlyHome)
        assert (provider.keys, e.device_keys.bindings.list()) == (set(), [])


def test_a_store_keeps_the_event_loop_free_while_the_journal_is_locked(tmp_path: Path) -> None:
    """The journal's lock is somebody else's for a while; what else the loop has to do is done meanwhile."""
    with opened(tmp_path / "home") as e:
        held, go_on = threading.Event(), threading.Event()
        record = e.device_keys.bindings._decisions.record

        def slow(*args: Any, **named: Any) -> None:
            held.set()
            assert go_on.wait(30)
            record(*args, **named)

        e.device_keys.bindings._decisions.record = slow  # type: ignore[method-assign]

        async def both() -> int:
            putting = asyncio.create_task(e.device_keys.bindings.put(KEY, "a", "c"))
            await asyncio.to_thread(held.wait, 30)
            ticks = 0
            for _ in range(50):
                await asyncio.sleep(0)
                ticks += 1
            go_on.set()
            await putting
            return ticks

        assert asyncio.run(both()) == 50
        assert len(e.device_keys.bindings.list()) == 1


def test_an_erasure_and_a_bundle_leave_bindings_where_they_are(tmp_path: Path) -> None:
    from tests.removing import talk

    with opened(tmp_path / "home") as e:
        put(e)
        thread_id = talk(e, "hello")
        e.threads.export(None, str(tmp_path / "all.zip"))
        e.threads.erase(thread_id, grace_s=None)
        assert [each.key_id for each in e.device_keys.bindings.list()] == [KEY]
    with opened(tmp_path / "other") as other:
        other.threads.import_bundle(str(tmp_path / "all.zip"))
        assert other.device_keys.bindings.list() == [], "a key is a machine's, and goes with no thread"


def test_a_follower_is_told_of_a_binding_as_of_a_decision_about_no_thread(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        put(e)
        with e.follow(start="beginning", decisions=True) as follower:
            found = follower.poll()
        assert isinstance(found, engine.Followed)
        assert (found.thread_id, found.record.payload["type"], found.record.payload["key_id"]) == (None, BOUND, KEY)


def test_a_signature_does_not_rest_on_a_row_that_is_behind_the_journal(tmp_path: Path) -> None:
    """Another process bound the key anew, and its record cannot be applied here for a while."""
    with opened(tmp_path / "home") as e:
        provider = Provider()
        found = e.device_keys.over(provider, targets=[TARGET])
        asyncio.run(found.create("account-1", "client-1"))
        with opened(tmp_path / "home") as other:
            put(other, account="account-2")
        with pytest.raises(DeviceKeyForeign):
            asyncio.run(found.sign(KEY, CONNECTION))
        with opened(tmp_path / "home") as other:
            put(other, account="account-1")
        (tmp_path / "home" / "engine" / "journal" / "000000000000.jsonl").rename(tmp_path / "aside")
        (tmp_path / "home" / "engine" / "journal" / "000000000000.jsonl").symlink_to(tmp_path / "aside")
        with pytest.raises(EngineError):
            asyncio.run(found.sign(KEY, CONNECTION))
        assert "sign" not in provider.asked


def test_bindings_of_a_moved_home_are_those_of_the_home(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        put(e)
    shutil.move(tmp_path / "home", tmp_path / "moved")
    with opened(tmp_path / "moved") as e:
        assert [each.key_id for each in e.device_keys.bindings.list()] == [KEY]


@pytest.mark.parametrize("make", [Store, None], ids=["in memory", "the engine's"])
def test_every_store_keeps_the_protocol(tmp_path: Path, make: Callable[[], Store] | None) -> None:
    async def use(store: Any) -> None:
        assert await store.get(KEY) is None
        await store.put(KEY, "account-1", "client-1")
        await store.put(OTHER, "account-2", "client-2")
        await store.put(KEY, "account-3", "client-3")
        found, other = await asyncio.gather(store.get(KEY), store.get(OTHER))
        assert (found.account_user_id, found.client_id) == ("account-3", "client-3")
        assert (other.account_user_id, other.client_id) == ("account-2", "client-2")

    if make is not None:
        asyncio.run(use(make()))
        return
    with opened(tmp_path / "home") as e:
        assert isinstance(e.device_keys.bindings, Bindings)
        asyncio.run(use(e.device_keys.bindings))
