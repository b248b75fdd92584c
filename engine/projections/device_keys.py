"""Which account and client each device key belongs to: one row a key, from the journal.

A key that is bound again keeps the time at which it was first bound. The keys themselves are not here: their provider has
them, and nothing of the engine ever sees a private one.
"""

from __future__ import annotations

from msgspec import Struct

from engine.events.device_keys import is_key_id
from engine.projections.decided import Decided, Decision, Effect, Shape, Values
from engine.stores.sqlite import Transaction, Value

BOUND = "device_key_bound"


class Binding(Struct, frozen=True, kw_only=True):
    """A device key and whose it is. Times are Unix milliseconds, 0 where they cannot be read."""

    key_id: str
    account_user_id: str
    client_id: str
    created_at_ms: int
    updated_at_ms: int


def binding_of(transaction: Transaction, key_id: str) -> Binding | None:
    """A key's binding, or None."""
    row = transaction.row(f"{_SELECT} WHERE key_id = :key_id", {"key_id": key_id})
    return None if row is None else Binding(**dict(zip(_COLUMNS, row, strict=True)))


def all_bindings(transaction: Transaction) -> list[Binding]:
    """Every binding, by key id."""
    rows = transaction.rows(f"{_SELECT} ORDER BY key_id")
    return [Binding(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _bound(decision: Decision) -> list[Effect]:
    key_id, account, client = (decision.text(name) for name in ("key_id", "account_user_id", "client_id"))
    if key_id is None or not is_key_id(key_id) or account is None or client is None:
        return []
    values: dict[str, Value] = {
        "key_id": key_id,
        "account_user_id": account,
        "client_id": client,
        "created_at_ms": decision.at_ms,
        "updated_at_ms": decision.at_ms,
    }
    return [Effect(_BIND, key_id, values)]


def _bound_again(before: Values, now: Values) -> Values:
    return {**now, "created_at_ms": before["created_at_ms"]}


_COLUMNS = ("key_id", "account_user_id", "client_id", "created_at_ms", "updated_at_ms")

_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM device_keys"  # noqa: S608 - names of ours

_BIND = """
    INSERT INTO device_keys (key_id, account_user_id, client_id, created_at_ms, updated_at_ms)
    VALUES (:key_id, :account_user_id, :client_id, :created_at_ms, :updated_at_ms)
    ON CONFLICT (key_id) DO UPDATE SET account_user_id = excluded.account_user_id, client_id = excluded.client_id,
    updated_at_ms = excluded.updated_at_ms
"""

DEVICE_KEYS = Decided(
    tables=(Shape("device_keys", ("key_id",), _COLUMNS[1:]),),
    tags={BOUND: _bound},
    merged={_BIND: _bound_again},
)
