"""What a forked or reverted thread reads: its own rollout, and before it the part of its base that it goes on from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import LineageBroken
from engine.options import Options
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Found, Home, Refused, locate, walk
from engine.stores.lineage import Segment, first_meta, lineage
from engine.stores.rollouts import Damage, Located
from engine.stores.windows import Part, read_parts
from engine.testing.files import RecordingFiles
from engine.testing.homes import HomePlan, make_home, read_lines

OPTIONS = Options()
FILES = Files()
HEAD = '{"timestamp":"2026-01-05T09:00:00.000Z",'


def ident(number: int) -> str:
    return f"019b8d63-3aa4-79ca-b017-{number:012x}"


def path_of(number: int, root: str = "sessions/2026/01/05") -> str:
    return f"{root}/rollout-2026-01-05T09-00-00-{ident(number)}.jsonl"


def read_segments(home: Home, segments: list[Segment]) -> list[tuple[Found, Located | Damage]]:
    """All records of a history, oldest first, each with its rollout."""
    parts = [Part(segment.found, 0, segment.end) for segment in segments]
    found = read_parts(home, parts, reverse=False, options=OPTIONS, files=FILES)
    return [(segments[number].found, each) for number, each in found]


class Homes:
    """Rollouts by hand: number n is `ident(n)`."""

    def __init__(self, path: Path) -> None:
        self.home = Home(str(path), None)

    def put(
        self, number: int, *, base: object = None, records: int = 3, first: int = 0, root="sessions/2026/01/05"
    ) -> list[int]:
        """Writes a rollout; where each of its lines ends."""
        meta = {"id": ident(number), "history_mode": "paginated"}
        if base is not None:
            meta["history_base"] = base
        out = [f'{HEAD}"ordinal":{first},"type":"session_meta","payload":{json.dumps(meta)}}}\n']
        out += [
            f'{HEAD}"ordinal":{first + at},"type":"t","payload":{{"from":{number},"at":{at}}}}}\n'
            for at in range(1, records)
        ]
        full = Path(self.home.absolute(path_of(number, root)))
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text("".join(out), "utf-8")
        return [sum(map(len, out[: at + 1])) for at in range(len(out))]

    def resolve(self, rollout_id: str) -> Found | None:
        for found in walk(self.home, FILES):
            for each in [] if isinstance(found, Refused) else found:
                if (each.name.own_rollout_id or each.name.thread_id) == rollout_id:
                    return each
        return None

    def at(self, number: int) -> Found:
        found = self.resolve(ident(number))
        assert found is not None
        return found

    def read(self, found: Found) -> list[tuple[str, int]]:
        segments = lineage(self.home, found, self.resolve, options=OPTIONS, files=FILES)
        out = []
        for each, record in read_segments(self.home, segments):
            assert isinstance(record, Located)
            out.append((each.path, record.offset))
        return out


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


def base(number: int, ordinal: int, offset: object) -> dict[str, object]:
    return {"thread_id": ident(number), "end_ordinal_exclusive": ordinal, "end_byte_offset": offset}


def test_a_rollout_without_a_base_is_its_own_history(homes: Homes) -> None:
    ends = homes.put(1)
    assert homes.read(homes.at(1)) == [(path_of(1), 0), (path_of(1), ends[0]), (path_of(1), ends[1])]


def test_nested_forks_read_from_the_oldest_part_on(homes: Homes) -> None:
    one = homes.put(1, records=4)
    two = homes.put(2, base=base(1, 2, one[1]), first=2)
    three = homes.put(3, base=base(2, 4, two[1]), first=4)
    homes.put(4, base=base(3, 7, three[2]), first=7, records=1)
    assert homes.read(homes.at(4)) == [
        (path_of(1), 0),
        (path_of(1), one[0]),
        (path_of(2), 0),
        (path_of(2), two[0]),
        (path_of(3), 0),
        (path_of(3), three[0]),
        (path_of(3), three[1]),
        (path_of(4), 0),
    ]


def test_what_the_base_says_later_is_not_inherited(homes: Homes) -> None:
    ends = homes.put(1, records=2)
    homes.put(2, base=base(1, 2, ends[1]), first=2, records=1)
    before = homes.read(homes.at(2))
    with Path(homes.home.absolute(path_of(1))).open("a", encoding="utf-8") as file:
        file.write(f'{HEAD}"ordinal":2,"type":"t","payload":{{}}}}\n')
    assert homes.read(homes.at(2)) == before == [(path_of(1), 0), (path_of(1), ends[0]), (path_of(2), 0)]


def test_a_base_may_be_archived_compressed_and_both(homes: Homes) -> None:
    ends = homes.put(1, records=3, root="archived_sessions")
    homes.put(2, base=base(1, 2, ends[1]), first=2, records=1)
    archived = path_of(1, "archived_sessions")
    expected = [(archived, 0), (archived, ends[0]), (path_of(2), 0)]
    assert homes.read(homes.at(2)) == expected
    compress(homes.home, homes.at(1), options=OPTIONS, files=FILES)
    compress(homes.home, homes.at(2), options=OPTIONS, files=FILES)
    assert homes.read(homes.at(2)) == expected


def test_a_rollout_that_was_compressed_since_it_was_found_is_read(homes: Homes) -> None:
    ends = homes.put(1)
    homes.put(2, base=base(1, 3, ends[2]), first=3, records=1)
    found = homes.at(2)
    segments = lineage(homes.home, found, homes.resolve, options=OPTIONS, files=FILES)
    for segment in segments:
        compress(homes.home, segment.found, options=OPTIONS, files=FILES)
    assert len(read_segments(homes.home, segments)) == 4
    assert first_meta(homes.home, found, options=OPTIONS, files=FILES) is not None


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("offset", "says"),
    [(10_000, "ends before byte 10000"), (60, "no line's end at byte 60"), (-5, "ends before byte -5")],
)
def test_a_base_that_is_not_what_it_was_is_told(homes: Homes, offset: int, says: str, compressed: bool) -> None:
    homes.put(1)
    homes.put(2, base=base(1, 2, offset), first=2)
    if compressed:
        compress(homes.home, homes.at(1), options=OPTIONS, files=FILES)
    with pytest.raises(LineageBroken, match=says) as raised:
        homes.read(homes.at(2))
    assert raised.value.path == path_of(2)
    assert path_of(1) in str(raised.value)
    assert "own part" in raised.value.hint


@pytest.mark.parametrize("extra", [0, 1])
def test_a_base_whose_last_line_had_no_lf_then_is_whole(homes: Homes, extra: int) -> None:
    ends = homes.put(1)
    full = Path(homes.home.absolute(path_of(1)))
    os.truncate(full, ends[2] - 1)  # as it was when the fork was made
    homes.put(2, base=base(1, 3, ends[2] - 1), first=3, records=1)
    if extra:
        with full.open("ab") as file:
            file.write(b"\n")
    assert len(homes.read(homes.at(2))) == 4


def test_nothing_of_a_base_is_inherited_at_its_first_byte(homes: Homes) -> None:
    homes.put(1)
    homes.put(2, base=base(1, 0, 0), records=1)
    assert homes.read(homes.at(2)) == [(path_of(2), 0)]


def test_a_base_without_a_byte_is_inherited_whole(homes: Homes) -> None:
    homes.put(1, records=2)
    homes.put(2, base=base(1, 2, None), first=2, records=1)
    assert len(homes.read(homes.at(2))) == 3


def test_a_missing_base_is_told_with_its_id(homes: Homes) -> None:
    homes.put(2, base=base(1, 2, 50))
    with pytest.raises(LineageBroken, match=ident(1)) as raised:
        homes.read(homes.at(2))
    assert "Restore" in raised.value.hint


@pytest.mark.parametrize("around", [1, 2, 3])
def test_bases_that_lead_back_to_themselves_are_told(homes: Homes, around: int) -> None:
    for number in range(1, around + 1):
        homes.put(number, base=base(number % around + 1, 0, 0))
    files = RecordingFiles(Files())
    with pytest.raises(LineageBroken, match="lead back"):
        lineage(homes.home, homes.at(1), homes.resolve, options=OPTIONS, files=files)
    assert files.count("open_read") <= 2 * around  # not as often as the bound on generations allows


def test_the_first_meta_is_read_behind_a_byte_order_mark_and_damage_but_not_behind_another_record(homes: Homes) -> None:
    homes.put(1)
    full = Path(homes.home.absolute(path_of(1)))
    whole = full.read_bytes()
    for content, there in ((b"\xef\xbb\xbf" + whole, True), (b"garbage\n" + whole, True), (b"", False), (b"{", False)):
        full.write_bytes(content)
        meta = first_meta(homes.home, homes.at(1), options=OPTIONS, files=FILES)
        assert (meta is not None) == there
    full.write_bytes(whole[whole.index(b"\n") + 1 :])
    assert first_meta(homes.home, homes.at(1), options=OPTIONS, files=FILES) is None


def test_damage_in_a_base_hides_itself_alone(homes: Homes) -> None:
    ends = homes.put(1)
    homes.put(2, base=base(1, 3, ends[2]), first=3, records=1)
    full = Path(homes.home.absolute(path_of(1)))
    data = bytearray(full.read_bytes())
    data[ends[0] : ends[0] + 5] = b"\xff" * 5
    full.write_bytes(data)
    segments = lineage(homes.home, homes.at(2), homes.resolve, options=OPTIONS, files=FILES)
    kinds = [type(each) for _, each in read_segments(homes.home, segments)]
    assert kinds == [Located, Damage, Located, Located]


def walked(home: Path, path: str, by_rollout: dict[str, str]) -> list[tuple[str, bytes]]:
    """The lines of a history by the standard library alone: those of the base before its byte, then the own."""
    lines = list(read_lines(home, path))
    meta = json.loads(lines[0])["payload"]
    inherited: list[tuple[str, bytes]] = []
    if "history_base" in meta:
        origin = by_rollout[meta["history_base"]["thread_id"]]
        end = meta["history_base"]["end_byte_offset"]
        own_start = 0
        for where, line in walked(home, origin, by_rollout):
            if where != origin:
                inherited.append((where, line))
            elif own_start + len(line) <= end:
                inherited.append((where, line))
                own_start += len(line)
    return inherited + [(path, line) for line in lines]


@pytest.mark.parametrize("seed", [0, 1])
def test_histories_of_a_generated_home_are_those_of_an_independent_walk(tmp_path: Path, seed: int) -> None:
    plan = HomePlan(
        threads=40, seed=seed, forks=0.5, reverted=0.2, archived=0.2, compressed=0.3, paginated=0.9, bytes_max=9000
    )
    made = make_home(tmp_path, plan)
    homes = Homes(tmp_path)
    by_rollout: dict[str, str] = {}
    for found in walk(homes.home, FILES):
        for each in [] if isinstance(found, Refused) else found:
            by_rollout[each.name.own_rollout_id or each.name.thread_id] = each.path
    depths = set()
    for thread in made:
        found = locate(homes.home, thread.path, FILES)
        assert found is not None
        segments = lineage(homes.home, found, homes.resolve, options=OPTIONS, files=FILES)
        depths.add(len(segments))
        read = [(each.path, record.length) for each, record in read_segments(homes.home, segments)]
        expected = [
            (path, len(line.rstrip(b"\n"))) for path, line in walked(tmp_path, thread.path, by_rollout) if line.strip()
        ]
        assert read == expected
    assert {1, 2, 3} <= depths
