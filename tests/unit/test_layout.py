"""Where things stand in a home, what a rollout's name says, and what a walk cannot use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import HomeMissing, HomeNotAFolder, HomeUnreadable
from engine.stores.files import Files
from engine.stores.layout import (
    Found,
    Home,
    Refused,
    RolloutName,
    is_archived,
    is_id,
    locate,
    open_home,
    parse_name,
    parse_path,
    render_name,
    walk,
)

ONE = "01a20464-403f-7170-9722-7a9790eef98c"
TWO = "01a20464-0000-7000-8000-000000000002"
NAME = f"rollout-2026-11-22T17-53-28-{ONE}.jsonl"
DAY = "sessions/2026/11/22"


def put(home, path, content=b"x"):
    full = os.fsencode(home) + b"/" + (path if isinstance(path, bytes) else path.encode())
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(content)
    return full


def walked(home):
    """Paths that a walk found, in order, and what it refused."""
    found, refused = [], {}
    for each in walk(Home(str(home), None), Files()):
        if isinstance(each, Refused):
            refused[each.path] = each.reason
        else:
            found += each
    return found, refused


def paths(home):
    return [each.path for each in walked(home)[0]]


@given(
    st.datetimes().map(lambda when: f"{when:%Y-%m-%dT%H-%M-%S}".zfill(19)),
    st.uuids().map(str),
    st.none() | st.uuids().map(str),
    st.booleans(),
)
def test_a_name_that_is_rendered_is_parsed_to_its_parts(named_at, thread_id, rollout_id, compressed):
    """F1, with and without a rollout's own id."""
    name = RolloutName(named_at, thread_id, rollout_id, compressed)
    assert parse_name(render_name(name)) == name


def test_a_reverted_rollouts_name_has_the_thread_first_and_its_own_id_second():
    """F2: the thread cannot be taken from the last 36 characters."""
    text = f"rollout-2026-11-22T17-53-28-{ONE}_{TWO}.jsonl.zst"
    assert parse_name(text) == RolloutName("2026-11-22T17-53-28", ONE, TWO, True)
    assert parse_path(f"/any/where/{text}").own_rollout_id == TWO


def test_ids_come_in_lower_case():
    assert parse_name(NAME.replace(ONE, ONE.upper())).thread_id == ONE


@pytest.mark.parametrize(
    "name",
    [
        "",
        "notes.jsonl",
        f"rollout-{ONE}.jsonl",
        f"rollout-notadate-{ONE}.jsonl",
        NAME + ".tmp",
        NAME + ".zst.tmp",
        NAME + ".decompress.17.3.tmp",
        NAME + ".gz",
        NAME + "\n",
        " " + NAME,
        NAME.upper(),
        NAME.removesuffix("l"),
        NAME.replace("rollout", "log"),
        NAME.replace("T", " "),
        NAME.replace("-11-22", "-13-22"),
        NAME.replace("-11-22", "-11-32"),
        NAME.replace("T17", "T24"),
        NAME.replace("17-53", "17-60"),
        NAME.replace("2026", "\uff12\uff10\uff12\uff16"),
        NAME.replace(".jsonl", "_.jsonl"),
        NAME.replace(".jsonl", f"_{TWO}_{TWO}.jsonl"),
        NAME.replace(ONE, ONE[:-1]),
        NAME.replace(ONE, ONE.replace("-", "")),
        NAME.replace("7170", "717g"),
    ],
)
def test_a_name_of_another_shape_is_no_rollouts(name):
    """F6: what a compressor left unfinished is none either."""
    assert parse_name(name) is None


def test_a_day_that_no_calendar_has_is_still_a_name():
    """Names are hints; the thread's times come from its records."""
    assert parse_name(NAME.replace("11-22T", "02-31T")).named_at == "2026-02-31T17-53-28"
    assert parse_name(NAME.replace("2026-11-22T17", "0000-02-29T00")).named_at == "0000-02-29T00-53-28"


def test_an_id_is_a_uuid():
    assert is_id(ONE)
    assert is_id(ONE.upper())
    for text in ("", ONE[:-1], ONE + "0", "{" + ONE + "}", ONE.replace("-", "_"), ONE + "\n"):
        assert not is_id(text)


def test_a_walk_goes_from_the_newest_folder_to_the_oldest_and_then_to_the_archive(tmp_path):
    """F3: year, month and day are folders, the name has the second."""
    names = [
        f"sessions/2026/11/22/rollout-2026-11-22T17-53-28-{ONE}.jsonl",
        f"sessions/2026/11/22/rollout-2026-11-22T09-00-00-{TWO}.jsonl",
        f"sessions/2026/02/28/rollout-2026-02-28T09-00-00-{TWO}.jsonl",
        f"sessions/2025/12/31/rollout-2025-12-31T09-00-00-{TWO}.jsonl",
        f"archived_sessions/rollout-2026-12-31T09-00-00-{TWO}.jsonl",
    ]
    for name in sorted(names):
        put(tmp_path, name)
    assert paths(tmp_path) == names
    assert [is_archived(name) for name in names] == [False, False, False, False, True]


def test_a_rollout_in_the_wrong_folder_is_found_where_it_is(tmp_path):
    for name in (f"sessions/{NAME}", f"sessions/any/{NAME}", f"archived_sessions/2026/{NAME}"):
        put(tmp_path, name)
    assert sorted(paths(tmp_path)) == [f"archived_sessions/2026/{NAME}", f"sessions/any/{NAME}", f"sessions/{NAME}"]


def test_only_the_two_roots_are_walked(tmp_path):
    for name in (NAME, f"engine/trash/{NAME}", f"memories/{NAME}", f"sessions_old/{NAME}"):
        put(tmp_path, name)
    assert walked(tmp_path) == ([], {})


def test_a_compressed_file_has_the_plain_files_path(tmp_path):
    """F4."""
    put(tmp_path, f"{DAY}/{NAME}.zst", b"1234")
    ((found,), refused) = walked(tmp_path)
    assert (found.path, found.compressed, found.name.compressed, found.stat.size) == (f"{DAY}/{NAME}", True, True, 4)
    assert refused == {}
    assert Home("/h", None).absolute(found.path, compressed=True) == f"/h/{DAY}/{NAME}.zst"


def test_a_plain_file_hides_its_compressed_sibling(tmp_path):
    """F5."""
    put(tmp_path, f"{DAY}/{NAME}.zst", b"1234")
    put(tmp_path, f"{DAY}/{NAME}", b"12345678")
    ((found,), refused) = walked(tmp_path)
    assert (found.compressed, found.stat.size, refused) == (False, 8, {})
    assert locate(Home(str(tmp_path), None), f"{DAY}/{NAME}", Files()) == found


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_has_a_plain_rollouts_name_and_is_no_file_hides_none(tmp_path, kind):
    """Seen: a folder left under the plain name made the thread of the compressed file vanish."""
    put(tmp_path, f"{DAY}/{NAME}.zst", b"1234")
    plain = tmp_path / DAY / NAME
    {"folder": plain.mkdir, "link": lambda: plain.symlink_to("/nowhere"), "pipe": lambda: os.mkfifo(plain)}[kind]()
    (found,), refused = walked(tmp_path)
    assert (found.path, found.compressed) == (f"{DAY}/{NAME}", True)
    assert list(refused) == ([] if kind == "folder" else [f"{DAY}/{NAME}"])
    assert locate(Home(str(tmp_path), None), f"{DAY}/{NAME}", Files()) == found


def test_a_link_to_a_rollout_or_to_a_folder_is_refused_and_named(tmp_path):
    outside = put(tmp_path, f"outside/{NAME}")
    (tmp_path / DAY).mkdir(parents=True)
    (tmp_path / DAY / NAME).symlink_to(os.fsdecode(outside))
    (tmp_path / "sessions/2027").symlink_to(tmp_path / "outside")
    (tmp_path / "sessions/loop").symlink_to(tmp_path / "sessions")
    (tmp_path / "sessions/.hidden").symlink_to("nowhere")
    found, refused = walked(tmp_path)
    assert found == []
    assert sorted(refused) == [f"{DAY}/{NAME}", "sessions/2027", "sessions/loop"]
    assert set(refused.values()) == {"it is a symbolic link, and links inside a home are not followed"}
    assert locate(Home(str(tmp_path), None), f"{DAY}/{NAME}", Files()) is None


def test_a_root_that_is_a_link_is_followed(tmp_path):
    put(tmp_path, f"disk/2026/11/22/{NAME}")
    home = tmp_path / "home"
    home.mkdir()
    (home / "sessions").symlink_to(tmp_path / "disk")
    assert paths(home) == [f"{DAY}/{NAME}"]


def test_a_root_that_cannot_be_walked_is_named_and_the_other_one_is_walked(tmp_path):
    """A link in a circle once ended the walk with an error, and one to nothing was passed over in silence."""
    put(tmp_path, f"archived_sessions/{NAME}")
    for target, reason in {"sessions": "cannot be reached", "nowhere": "a symbolic link to nothing"}.items():
        (tmp_path / "sessions").unlink(missing_ok=True)
        (tmp_path / "sessions").symlink_to(target)
        found, refused = walked(tmp_path)
        assert [each.path for each in found] == [f"archived_sessions/{NAME}"]
        assert reason in refused["sessions"]
    (tmp_path / "sessions").unlink()
    (tmp_path / "sessions").write_bytes(b"")
    assert walked(tmp_path)[1] == {"sessions": "it is a file, not a folder"}


def test_a_home_without_sessions_is_empty(tmp_path):
    assert walked(tmp_path) == ([], {})


def test_a_path_that_is_not_utf8_is_refused_in_letters_that_can_be_printed(tmp_path):
    put(tmp_path, b"sessions/caf\xe9/" + NAME.encode())
    put(tmp_path, b"sessions/caf\xe9/notes-\xff.txt")
    found, refused = walked(tmp_path)
    assert found == []
    assert list(refused) == [f"sessions/caf\\xe9/{NAME}"]
    assert "not UTF-8" in refused[f"sessions/caf\\xe9/{NAME}"]


def test_names_of_other_alphabets_are_paths_as_any(tmp_path):
    put(tmp_path, f"sessions/プロジェクト/{NAME}")
    assert paths(tmp_path) == [f"sessions/プロジェクト/{NAME}"]


def test_folders_nested_too_deep_are_refused_and_those_above_are_walked(tmp_path):
    put(tmp_path, f"sessions/{'d/' * 16}{NAME}")
    put(tmp_path, f"sessions/{'d/' * 17}{NAME}")
    found, refused = walked(tmp_path)
    assert [each.path for each in found] == [f"sessions/{'d/' * 16}{NAME}"]
    assert refused == {"sessions" + "/d" * 16: "folders are nested deeper than 16"}


class Failing(Files):
    """A disk on which some folders cannot be listed."""

    def scan(self, path, *, op):
        if path.encode("utf-8", "surrogateescape").endswith((b"/11", b"\xe9")):
            raise PermissionError(13, "Permission denied", path)
        return super().scan(path, op=op)


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_walked(tmp_path):
    put(tmp_path, f"{DAY}/{NAME}")
    put(tmp_path, b"sessions/caf\xe9/" + NAME.encode())
    put(tmp_path, f"sessions/2026/10/01/{NAME}")
    seen = list(walk(Home(str(tmp_path), None), Failing()))
    refused = {each.path: each.reason for each in seen if isinstance(each, Refused)}
    assert [each.path for part in seen if isinstance(part, list) for each in part] == [f"sessions/2026/10/01/{NAME}"]
    assert refused == {
        "sessions/2026/11": "the folder cannot be read: Permission denied",
        "sessions/caf\\xe9": "the folder cannot be read: Permission denied",
    }


def test_what_is_there_under_a_logical_path_is_located_plain_before_compressed(tmp_path):
    home = Home(str(tmp_path), None)
    assert locate(home, f"{DAY}/{NAME}", Files()) is None
    put(tmp_path, f"{DAY}/{NAME}.zst")
    assert locate(home, f"{DAY}/{NAME}", Files()).compressed is True
    put(tmp_path, f"{DAY}/{NAME}")
    assert locate(home, f"{DAY}/{NAME}", Files()).compressed is False
    assert locate(home, f"{DAY}/notes.jsonl", Files()) is None
    assert isinstance(locate(home, f"{DAY}/{NAME}", Files()), Found)


def test_a_home_that_is_missing_or_no_folder_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for path, error, says in [
        (str(tmp_path / "none"), HomeMissing, "There is no home at"),
        (str(tmp_path / "file"), HomeNotAFolder, "is a file, not a folder"),
        (str(tmp_path / "file" / "below"), HomeMissing, "There is no home at"),
        (str(tmp_path / "loop"), HomeUnreadable, "cannot be reached"),
        ("", HomeMissing, "There is no home at"),
    ]:
        with pytest.raises(error, match=says) as raised:
            open_home(path, None, Files())
        assert raised.value.hint
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "loop"]


def test_an_empty_path_is_not_the_root_of_the_disk():
    """A shell variable that was never set once opened `/`."""
    with pytest.raises(HomeMissing):
        open_home("", None, Files())


def test_slashes_at_the_end_of_a_home_change_nothing(tmp_path):
    assert open_home(f"{tmp_path}//", None, Files()) == Home(str(tmp_path), f"{tmp_path}/engine")
    assert open_home(str(tmp_path), "/else/where/", Files()) == Home(str(tmp_path), "/else/where")
    assert open_home("/", "/else/where", Files()).path == "/"


READ = """
import os, sys
from engine.errors import HomeUnreadable
from engine.stores.files import Files
from engine.stores.layout import open_home
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(open_home(sys.argv[1], None, Files()).state)
except HomeUnreadable as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else, and root may read everything")
def test_a_home_of_somebody_else_is_read_with_tables_in_memory_or_said_to_be_unreadable(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0 and folder.owner() == "root" and "pytest" in str(folder):
            folder.chmod(0o711)
    home = tmp_path / "home"
    home.mkdir()

    def state(mode):
        home.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", READ, str(home)], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    assert state(0o755) == "None"
    assert state(0o700) == "HomeUnreadable"
    assert state(0o777) == f"{home}/engine"
