-- Which account and client a device key belongs to (from the journal). The keys themselves are with their provider.

CREATE TABLE device_keys (
    key_id          TEXT    NOT NULL PRIMARY KEY,
    account_user_id TEXT    NOT NULL,
    client_id       TEXT    NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
