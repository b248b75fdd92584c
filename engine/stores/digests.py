"""What a watermark remembers of the bytes it followed, so that a rewritten file is seen.

`chain` covers all whole blocks of 64 KiB before the offset: d = xxh3_128(d ‖ block), from sixteen zero bytes on. `tail`
is xxh3_128 of the last ≤ 64 KiB before the offset. Together they cover every byte. Blocks are fixed, so both can be
carried on from any offset and do not depend on batches, restarts or compression (they are of plain bytes). They
guard against accidents, not against an attacker.

An index has the digest of an id in its place: an id is up to seven times as long, and is in the rollout.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest, xxh3_128_digest

BLOCK_BYTES = 64 * 1024
NO_CHAIN = bytes(16)


class Chain:
    """The running digest of a stream, fed with its bytes in order."""

    __slots__ = ("_partial", "digest")

    def __init__(self, digest: bytes = NO_CHAIN, partial: bytes = b"") -> None:
        """`digest` is of all whole blocks before the offset, `partial` the bytes since the last whole one."""
        self.digest = digest
        self._partial = partial

    def copy(self) -> Chain:
        """The same digest, to be carried on by itself."""
        return Chain(self.digest, self._partial)

    def feed(self, block: bytes | bytearray, start: int, end: int) -> None:
        """Take in `block[start:end]`, which follows what was fed before."""
        held = len(self._partial)
        if held + end - start < BLOCK_BYTES:
            self._partial += block[start:end]
            return
        at = start
        if held:
            at = start + BLOCK_BYTES - held
            self.digest = xxh3_128_digest(self.digest + self._partial + block[start:at])
        while at + BLOCK_BYTES <= end:
            self.digest = xxh3_128_digest(self.digest + block[at : at + BLOCK_BYTES])
            at += BLOCK_BYTES
        self._partial = bytes(block[at:end])


def tail_digest(data: bytes | bytearray) -> bytes:
    """The digest of the last ≤ 64 KiB before an offset, given just those bytes."""
    return xxh3_128_digest(data)


def id_digest(text: str) -> int:
    """Eight bytes that stand for an id in an index, as a signed number."""
    value = xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
    return value - (1 << 64) if value >> 63 else value
