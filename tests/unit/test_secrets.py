"""What is taken for a secret in a text, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events.secrets import REDACTED, redact
from engine.memories.redact import redact_values

KEY = "abcdefghij0123456789ABCDEFGHIJ"
BLOCK = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\nAAAA\n-----END OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sk-{KEY}", REDACTED),
        (f"sk-proj-{KEY}_x-y", REDACTED),
        (f"sk-ant-api03-{KEY}", REDACTED),
        (f"ghp_{KEY}", REDACTED),
        (f"github_pat_{KEY}", REDACTED),
        ("AKIAABCDEFGHIJKLMNOP", REDACTED),
        ("key AKIAABCDEFGHIJKLMNOP.", f"key {REDACTED}."),
        ("xoxb-1234567890-abc", REDACTED),
        (BLOCK, REDACTED),
        (f"before\n{BLOCK}\nafter", f"before\n{REDACTED}\nafter"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\ncut off", f"a\n{REDACTED}"),
        ("postgres://me:hunter2@db/x", f"postgres://{REDACTED}@db/x"),
        ("https://x-access-token:abc@host/r.git", f"https://{REDACTED}@host/r.git"),
        ("https://abcdef123@host/", f"https://{REDACTED}@host/"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {REDACTED}"),
        ("Cookie: session=abcdef; other=1\nnext", f"Cookie: {REDACTED}\nnext"),
        ("MY_TOKEN=abcdefgh", f"MY_TOKEN={REDACTED}"),
        ("export OPENAI_API_KEY='abcdefgh ijk'", f"export OPENAI_API_KEY='{REDACTED}'"),
        ("AWS_SECRET_ACCESS_KEY=abcd/efgh+ijkl", f"AWS_SECRET_ACCESS_KEY={REDACTED}"),
        ('"password": "hunter2hunter2"', f'"password": "{REDACTED}"'),
        ('{"password":"two words here"}', f'{{"password":"{REDACTED}"}}'),
        ("api-key : abcdefghi next", f"api-key : {REDACTED} next"),
        ("apiKey => abcdefghi", f"apiKey => {REDACTED}"),
        (r"{\"password\": \"hunter2hunter2\", \"a\": 1}", rf"{{\"password\": \"{REDACTED}\", \"a\": 1}}"),
        (r"token=abcdefghij\nnext line", rf"token={REDACTED}\nnext line"),
        (r'"say \"token=abcdefghij\" now"', rf'"say \"token={REDACTED}\" now"'),
    ],
)
def test_a_secret_is_replaced_and_what_is_around_it_stays(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sk-short",
        "task-abcdefghijklmnopqrstuvwxyz",
        "AKIAABCDEFGHIJKLMNOPQ",  # one letter more
        "AKIAabcdefghijklmnop",
        "max_tokens: 4096000000",
        "the token is in the file",
        "password = short",
        "ssh://git@host/repo",
        "https://host/@someone/page",
        "the secret: it is kept",
        "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
    ],
)
def test_what_only_resembles_a_secret_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abcdefghijklmnop",
        "bEaReR abcdefghijklmnop",
        "bearer\tabcdefghijklmnop",
        "bearer   abcdefghijklmnop==",
        "bearer abc-def_ghi.jkl~mno+p/q",
    ],
)
def test_p15_a_bearer_token_is_replaced_by_its_canonical_form(text):
    assert redact(text) == f"Bearer {REDACTED}"


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abcdefghijklmno",  # 15
        "Bearerabcdefghijklmnop",
        "Bearer\nabcdefghijklmnop",
        "Bearer\N{NO-BREAK SPACE}abcdefghijklmnop",
        "the bearer of this letter",
        "forbearer abcdefghijklmnop",
    ],
)
def test_p15_what_is_no_bearer_token_stays(text):
    assert redact(text) == text


TEXTS = st.text(alphabet=st.sampled_from(list("ak-_:='\"\\ \n/@.TOKENtokensecret0123")), max_size=200)


@given(TEXTS)
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


@given(TEXTS)
def test_k21_an_item_stays_json_and_its_shape_is_kept(text):
    item = {"output": json.dumps({"password": text, "n": [1, None, {"deep": text}]}), "m": [text], "n": 1}
    redacted = redact_values(item)
    assert json.loads(json.dumps(redacted)).keys() == item.keys()
    json.loads(json.dumps(redacted))


def test_k20_a_value_that_its_key_calls_secret_goes_whatever_it_looks_like():
    assert redact_values({"dbPassword": "two words", "api_key": "k" * 8, "note": "x", "token": 5}) == {
        "dbPassword": REDACTED,
        "api_key": REDACTED,
        "note": "x",
        "token": 5,
    }


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "sk-",
        "token",
        "token=",
        "token=\\",
        'password: "',
        'password: "\\',
        "bearer ",
        "://",
        "https://a:",
        "-----BEGIN PRIVATE KEY",
        "-----BEGIN PRIVATE KEY-----",
        "cookie: ",
        "eyJ",
        "eyJaaaaaaaaaa.",
        "authorization: basic ",
        "ghp_",
        "- ",
        "' ",
    ],
)
def test_hostile_texts_take_the_time_of_their_length(piece):
    """Were one of the patterns quadratic, this would not end within the test's patience."""
    text = piece * (400_000 // len(piece))
    assert redact(redact(text)) == redact(text)
