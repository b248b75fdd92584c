"""The words of made-up conversations.

Gives prompts, answers, commands, outputs and patches as people and agents who work on software write them: some long,
some with code, some not in English, some with characters that trip up careless readers (quotes, backslashes,
escape codes, combining characters, emoji). Every word comes from the lists below and the caller's random numbers, so
the same seed gives the same text. Outputs are cut from one pool that is built once: a slice costs microseconds.
"""

from __future__ import annotations

import base64
from functools import cache
from random import Random


def _phrases(block: str) -> tuple[str, ...]:
    """One phrase a line."""
    return tuple(line.strip() for line in block.strip().splitlines())


_VERBS = ("fix", "explain", "refactor", "speed up", "document", "test", "remove", "rename", "split", "review", "port")
_PARTS = _phrases("""
    the retry loop
    the upload handler
    the cache key
    the login form
    the invoice export
    the CSV parser
    the job queue
    the date picker
    the rate limiter
    the search index
    the config loader
    the webhook
    the migration script
    the error page
    the token refresh
    the image resizer
    the feature flag
    the CI job
""")
_TROUBLES = _phrases(r"""
    it fails when the list is empty
    it loses the last row
    it takes 40 seconds on staging
    it leaks a descriptor
    the test is flaky on Fridays
    it prints the wrong total
    two workers pick the same job
    it ignores the limit
    it breaks on names like O'Brien
    the path has a backslash (C:\temp\new)
    it times out behind the proxy
    users see "undefined" instead of a price
    the lock is never released
    it eats all the memory
""")
_WISHES = _phrases("""
    Keep the public interface.
    Do not touch the database schema.
    Add a test first.
    Small steps, please.
    Tell me what you would do before you change anything.
    We need this before the release on Thursday.
    Have a look at how the orders module does it.
    No new dependencies.
    It must still run on Python 3.11.
""")
_WORLD = (
    "Bitte prüfe, warum die Größe in der Übersicht falsch gerundet wird: «1.234,50 €» wird zu 1.23.",
    "注文の一覧で日付の並び順が逆になっています。直してください。",
    "登录页面在输入中文用户名时会报错。请检查。",
    "Пожалуйста, перепиши обработчик ошибок — сейчас он глотает исключения.",
    "¿Por qué falla la exportación cuando el año es bisiesto? El informe sale vacío.",
    "Le bouton « Réessayer » ne fait rien après une coupure du réseau, à vérifier côté client.",
    "تحقق من اتجاه النص في صفحة الفاتورة من فضلك",
    "The emoji picker crashes on 👩\u200d👩\u200d👧 and on 🏳️\u200d🌈 but not on 🙂: naïve length? cafe\u0301 ≠ café",
)
_FILES = _phrases("""
    src/orders/export.py
    src/auth/session.ts
    lib/queue/worker.rb
    internal/cache/lru.go
    app/models/invoice.py
    web/components/DatePicker.tsx
    scripts/migrate.sh
    crates/index/src/merge.rs
    tests/test_rounding.py
    docs/übersicht.md
""")
_CODE = (
    '''\
def total(rows):
    """Sum of all prices, in cents."""
    return sum(row["price"] for row in rows if row)
''',
    """\
export function retry<T>(f: () => Promise<T>, times = 3): Promise<T> {
  return f().catch((e) => {
    if (times <= 1) throw e;
    return retry(f, times - 1);
  });
}
""",
    """\
func (c *Cache) Get(key string) (v []byte, ok bool) {
\tc.mu.Lock()
\tdefer c.mu.Unlock()
\tv, ok = c.m[key]
\treturn
}
""",
    """\
fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: merge <file>")?;
    println!("{}", std::fs::read_to_string(path)?.lines().count());
    Ok(())
}
""",
    """\
SELECT o.id, sum(l.price) AS total
FROM orders AS o JOIN lines AS l ON l.order_id = o.id
WHERE o.paid_at IS NULL
GROUP BY o.id HAVING total > 100
ORDER BY total DESC;
""",
)
_COMMANDS = _phrases("""
    ls -la
    git status --short
    git log --oneline -20
    pytest -q tests
    npm test -- --watch=false
    go test ./...
    cargo check
    make lint
    cat package.json
    df -h .
    python -m compileall -q src
""")
_FINDINGS = _phrases("""
    The cause is a missing check
    It was an off-by-one
    The lock is taken twice
    The pattern is greedy
    Two callers share one buffer
    The timeout was in seconds, not milliseconds
    The sort was not stable
""")
_THOUGHTS = _phrases("""
    Looking at the tests
    Weighing two fixes
    Checking the callers
    Planning the change
    Tracing the failure
    Considering edge cases
    Reading the configuration
""")
_ADJECTIVES = ("slow", "stale", "missing", "broken", "double", "hidden", "empty", "late", "wrong", "noisy")

POOL_CHARACTERS = 256 * 1024


def prompt(rng: Random) -> str:
    """What a person asks: mostly a sentence or two, at times with code, at times in another language."""
    if rng.random() < 0.12:
        return rng.choice(_WORLD)
    said = f"{rng.choice(_VERBS).capitalize()} {rng.choice(_PARTS)} in {rng.choice(_FILES)}: {rng.choice(_TROUBLES)}."
    dice = rng.random()
    if dice < 0.4:
        said += " " + rng.choice(_WISHES)
    elif dice < 0.55:
        said += f"\n\nThis is what I have:\n\n```\n{rng.choice(_CODE)}```\n"
        said += f"\n- {rng.choice(_WISHES)}\n- {rng.choice(_WISHES)}"
    return said


def editor_prompt(rng: Random, wish: str) -> str:
    """What an editor plug-in sends: its context first, then the person's own words behind the marker."""
    tabs = f"- {rng.choice(_FILES)}\n- {rng.choice(_FILES)}\n"
    return (
        f"# Context from my IDE setup:\n\n## Active file: {rng.choice(_FILES)}\n\n## Open tabs:\n{tabs}"
        f"\n## My request for Codex:\n{wish}\n"
    )


def objective(rng: Random) -> str:
    """What a goal says."""
    return f"{rng.choice(_VERBS).capitalize()} {rng.choice(_PARTS)} until every test passes ✓"


def answer(rng: Random) -> str:
    """What the agent says at the end of a turn."""
    said = (
        f"{rng.choice(_FINDINGS)} in `{rng.choice(_FILES)}`: {rng.choice(_TROUBLES)}."
        f" I changed {rng.choice(_PARTS)} and ran the tests; all {rng.randrange(3, 900)} pass."
    )
    if rng.random() < 0.3:
        said += f"\n\n**What changed**\n\n```\n{rng.choice(_CODE)}```\n"
        said += f"\nNext: {rng.choice(_VERBS)} {rng.choice(_PARTS)}?"
    return said


def commentary(rng: Random) -> str:
    """What the agent says between two steps."""
    return f"{rng.choice(_THOUGHTS)}: I will {rng.choice(_VERBS)} {rng.choice(_PARTS)} next."


def thought(rng: Random) -> str:
    """The summary of a piece of reasoning."""
    reason = f"I need to {rng.choice(_VERBS)} {rng.choice(_PARTS)}, since {rng.choice(_TROUBLES)}."
    return f"**{rng.choice(_THOUGHTS)}**\n\n{reason}"


def command(rng: Random) -> str:
    """A shell command."""
    dice = rng.random()
    if dice < 0.35:
        return f"sed -n '{rng.randrange(1, 400)},{rng.randrange(400, 900)}p' {rng.choice(_FILES)}"
    if dice < 0.6:
        return f'rg -n "{rng.choice(_ADJECTIVES)}\\b" src | head -{rng.randrange(5, 90)}'
    return rng.choice(_COMMANDS)


def file_name(rng: Random) -> str:
    """A path inside a repository."""
    return rng.choice(_FILES)


def code(rng: Random) -> str:
    """A few lines of some language."""
    return rng.choice(_CODE)


def query(rng: Random) -> str:
    """What one types into a search engine."""
    return f"{rng.choice(_ADJECTIVES)} {rng.choice(_ADJECTIVES)} {rng.choice(_PARTS).removeprefix('the ')} timeout"


def output(rng: Random, characters: int) -> str:
    """What a command printed: `characters` long, cut from the pool at a random place."""
    return _cut(_output_pool(), rng, characters)


def manual(rng: Random, characters: int) -> str:
    """Long instructions as an agent gets them: `characters` long."""
    return _cut(_manual_pool(), rng, characters)


def opaque(rng: Random, characters: int) -> str:
    """Base64 of noise (encrypted reasoning, image data): ASCII, `characters` long."""
    return _cut(_opaque_pool(), rng, characters)


def _cut(pool: str, rng: Random, characters: int) -> str:
    if characters >= POOL_CHARACTERS // 2:
        return (pool * (characters // len(pool) + 1))[:characters]
    start = int(rng.random() * (len(pool) - characters))
    return pool[start : start + characters]


@cache
def _output_pool() -> str:
    rng = Random("output pool")
    lines: list[str] = []
    size = 0
    while size < POOL_CHARACTERS:
        line = _output_line(rng)
        lines.append(line)
        size += len(line) + 1
    return "\n".join(lines)[:POOL_CHARACTERS]


def _output_line(rng: Random) -> str:
    dice = rng.random()
    name = rng.choice(_FILES)
    if dice < 0.3:
        return f"{name}:{rng.randrange(1, 999)}: {rng.choice(_ADJECTIVES)} {rng.choice(_PARTS)}"
    if dice < 0.45:
        test = f"test_{rng.choice(_ADJECTIVES)}_{rng.randrange(99)}"
        return f"\u001b[32mPASSED\u001b[0m {name}::{test} ({rng.random():.3f} s)"
    if dice < 0.6:
        return f"\tat {rng.choice(_ADJECTIVES)}({name}:{rng.randrange(999)})"
    if dice < 0.75:
        return f'{{"level":"warn","path":"{name}","ms":{rng.randrange(9999)},"note":"{rng.choice(_ADJECTIVES)}"}}'
    if dice < 0.95:
        return f"{rng.getrandbits(28):07x} {rng.choice(_VERBS)} {rng.choice(_PARTS)}"
    return rng.choice(_WORLD)


@cache
def _manual_pool() -> str:
    rng = Random("manual pool")
    parts: list[str] = []
    size = 0
    while size < POOL_CHARACTERS:
        rule = f"- When you {rng.choice(_VERBS)} {rng.choice(_PARTS)}, say why.\n- {rng.choice(_WISHES)}"
        part = f"## {rng.choice(_THOUGHTS)}\n\n{rule}\n\n"
        parts.append(part)
        size += len(part)
    return "".join(parts)[:POOL_CHARACTERS]


@cache
def _opaque_pool() -> str:
    return base64.b64encode(Random("opaque pool").randbytes(POOL_CHARACTERS * 3 // 4)).decode("ascii")
