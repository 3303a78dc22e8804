"""SPEC 2, 3, 9, 11, 13: the listing of adjust.d, the environment variables and the defaults."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import servo_agg
from servo_agg.config import Config, read_config
from servo_agg.errors import BadEnvironment, MissingAdjustD, UserError
from servo_agg.processes.start_token import START_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = "OPTUNE_IO_TIMEOUT"


class Directory:
    """A servo directory, which is the current one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.drivers = path / "adjust.d"

    def add(self, *names: str | bytes, mode: int = 0o755) -> None:
        for name in names:
            path = os.fsencode(self.drivers) + b"/" + os.fsencode(name)
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
            # Not by `open`, which applies the umask.
            os.fchmod(descriptor, mode)
            os.close(descriptor)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    made = Directory(tmp_path)
    made.drivers.mkdir()
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a servo directory for tests with many examples, which only read it."""
    path = tmp_path_factory.mktemp("servo")
    path.joinpath("adjust.d").mkdir()
    return path


def read_in(path: Path, environment: Mapping[str, str]) -> Config:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(path)
        return read_config(environment)


def variable(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}


# The listing of adjust.d (SPEC 2.1-2.6).


def test_drivers_are_the_executable_files_in_the_order_of_their_names_as_bytes(directory: Directory) -> None:
    names = [b"02winec2", b"01ec2asg", b"10last", b"9nine", b"B", b"a", b"with blank.py", b"_", b"-n", b"#a#"]
    # Sorted as text, \xff would stand between others; a locale would sort the letters differently.
    names += ["\xe9".encode(), "\ufffd".encode(), "\U0001f600".encode(), b"\xff", b"\xc3", b"a\xff", b"~web"]
    names += [b"bak", b"dpkg-x", b"orig.sh", b"web.BAK", b"web.bak.sh"]
    directory.add(*names)
    assert [os.fsencode(name) for name in read_config({}).drivers] == sorted(names)


def test_files_without_the_executable_flag_are_listed_apart(directory: Directory) -> None:
    directory.add("02b", b"\xff", mode=0o644)
    directory.add("01a", mode=0o600)
    directory.add("03c")
    directory.drivers.joinpath("04link").symlink_to("01a")
    config = read_config({})
    assert config.drivers == ["03c"]
    assert config.listing.not_executable == ["01a", "02b", "04link", os.fsdecode(b"\xff")]


@pytest.mark.parametrize(
    "name",
    [
        *("web~", "web.bak", "web.swp", ".web.swp", "web.orig", "web.rej", ".web", ".dpkg-x", "web.dpkg-old"),
        *("web.dpkg-dist", "web.rpmsave", "web.rpmnew", "web.rpmorig", "..data"),
    ],
)
def test_leftovers_are_not_drivers_even_if_executable(directory: Directory, name: str) -> None:
    directory.add("web", name)
    directory.add(f".{name}", mode=0o644)
    config = read_config({})
    assert config.drivers == ["web"]
    assert (config.listing.leftovers, config.listing.not_executable) == ([name], [])


def test_documents_are_not_drivers_unless_their_content_is_a_program(directory: Directory) -> None:
    directory.add("10web", "LICENSE", "README", "README.md", "notes.txt", "20win.md")
    directory.add("30win.conf")
    directory.drivers.joinpath("20win.md").write_text("#!/bin/sh\n")
    directory.drivers.joinpath("30win.conf").write_bytes(b"\x7fELF\x02")
    config = read_config({})
    assert config.drivers == ["10web", "20win.md", "30win.conf"]
    assert config.listing.documents == ["LICENSE", "README", "README.md", "notes.txt"]


def test_a_link_to_a_driver_is_a_driver_under_its_own_name(directory: Directory) -> None:
    directory.drivers.rename(directory.path / "elsewhere")
    directory.drivers.symlink_to("elsewhere")
    directory.path.joinpath("k8s").write_text("#!/bin/sh\n")
    directory.path.joinpath("k8s").chmod(0o755)
    for name in ("k8s-adjust-main", "k8s-adjust-canary"):
        directory.drivers.joinpath(name).symlink_to("../k8s")
    directory.drivers.joinpath("absolute").symlink_to(directory.path / "k8s")
    directory.drivers.joinpath("to-a-link").symlink_to("k8s-adjust-main")
    names = ["absolute", "k8s-adjust-canary", "k8s-adjust-main", "to-a-link"]
    assert read_config({}).drivers == names


def test_what_is_not_a_regular_file_is_ignored(directory: Directory) -> None:
    directory.add("driver")
    directory.drivers.joinpath("sub-directory").mkdir()
    directory.drivers.joinpath("link-to-directory").symlink_to(directory.path)
    os.mkfifo(directory.drivers / "fifo", 0o755)
    directory.drivers.joinpath("device").symlink_to("/dev/null")
    directory.drivers.joinpath(".#driver").symlink_to("me@host")
    directory.drivers.joinpath("circle~").symlink_to("circle~")
    listing = vars(read_config({}).listing)
    assert {key: names for key, names in listing.items() if names} == {"drivers": ["driver"]}


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (None, "{} does not exist; run adjust in the servo directory, which holds adjust.d"),
        ("file", "{} must be a directory that holds the drivers"),
        ("fifo", "{} must be a directory that holds the drivers"),
        ("nowhere", "{} is a link to nowhere, which does not exist"),
        ("adjust.d", "cannot read {}: Too many levels of symbolic links"),
    ],
)
def test_without_adjust_d_the_message_names_the_directory(
    directory: Directory, instead: str | None, message: str
) -> None:
    directory.drivers.rmdir()
    if instead == "file":
        directory.drivers.write_text("")
    elif instead == "fifo":
        os.mkfifo(directory.drivers)
    elif instead is not None:
        directory.drivers.symlink_to(instead)
    with pytest.raises(MissingAdjustD) as raised:
        read_config({})
    assert str(raised.value) == message.format(directory.drivers)


# The timeout (SPEC 9.1-9.4).


@pytest.mark.parametrize(
    ("value", "limit", "grace", "passed_on"),
    [
        (None, None, 0.5, None),
        ("", None, 0.5, ""),
        ("  ", None, 0.5, "  "),
        ("0", None, 0.5, "0"),
        ("0.0", None, 0.5, "0.0"),
        (" 00 ", None, 0.5, " 00 "),
        ("0.4", 0.2, 0.1, "0.4"),
        ("1", 0.5, 0.25, "1"),
        ("1.5", 0.75, 0.375, "1.5"),
        ("2", 1, 0.5, "1"),
        ("2.5", 1.5, 0.5, "2.5"),
        ("3", 2, 0.5, "2"),
        ("30", 29, 0.5, "29"),
        ("030", 29, 0.5, "29"),
        ("30.0", 29, 0.5, "29"),
        (" 30\t\r\n", 29, 0.5, "29"),
        ("1000000000", 999999999, 0.5, "999999999"),
        ("0" * 5000 + "5", 4, 0.5, "4"),
        ("9" * 30, 1e30, 0.5, "9" * 29 + "8"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.usefixtures("directory")
def test_the_timeout_gives_limit_and_short_grace_and_is_lowered_for_drivers(
    value: str | None, limit: float | None, grace: float, passed_on: str | None
) -> None:
    config = read_config(variable(TIMEOUT, value))
    assert (config.limit, config.short_grace) == (limit, grace)
    assert config.environment.get(TIMEOUT) == passed_on


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *(
            (word, repr(word))
            for word in ("30s", "thirty", "nan", "inf", "-1", "+5", "1e400", "1,5", "1_000")
        ),
        *((word, repr(word)) for word in ("30.", ".5", "0x1e", "3 0", "'30'", "30\n40", "30\x00", "\udcff")),
        *((word, repr(word)) for word in ("\x1b[31m30", "\uff13\uff10", "\u0663\u0660", "\xb2", "--", ".")),
        ("9" * 400, f"'{'9' * 80}'..."),
        ("0." + "0" * 400 + "1", f"'0.{'0' * 78}'..."),
        ("x" * 100_000, f"'{'x' * 80}'..."),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_timeout_that_is_not_a_plain_number_is_refused_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadEnvironment) as raised:
        read_config({TIMEOUT: value})
    assert str(raised.value) == (
        f"the environment variable {TIMEOUT} must be a decimal number of seconds, such as 30 or 2.5"
        f" (0 or empty: unlimited), got {shown}"
    )


@given(st.text(st.sampled_from("0123456789. \t+-eE_xfns\u0663\xa0"), max_size=8))
@example("1e2")
@example(" 12.50 ")
def test_a_timeout_is_accepted_exactly_when_it_is_a_plain_number(empty: Path, value: str) -> None:
    plain = re.fullmatch(r"(\d+(\.\d+)?)?", value.strip(), re.ASCII)
    if not plain:
        with pytest.raises(BadEnvironment):
            read_in(empty, {TIMEOUT: value})
        return
    seconds = float(plain[0] or 0)
    expected = None if not seconds else seconds - 1 if seconds >= 2 else seconds / 2
    assert read_in(empty, {TIMEOUT: value}).limit == expected


@given(st.integers(0, 10**6))
@example(2)
def test_an_aggregator_inside_an_aggregator_times_out_first(empty: Path, seconds: int) -> None:
    outer = read_in(empty, {TIMEOUT: str(seconds)})
    inner = read_in(empty, outer.environment)
    if seconds == 0:
        assert outer.limit is inner.limit is None
    elif seconds >= 3:
        assert outer.limit is not None
        assert inner.limit is not None
        assert inner.limit < outer.limit


# What drivers get (SPEC 3.8), and how much of their stderr is shown (SPEC 13.9).

LIBRARY = str(Path(servo_agg.__file__).parent / "driverlib")


@pytest.mark.parametrize("before", [None, "", "/one", "/one:/two", "/one::/two", "relative"])
def test_python_finds_the_servo_directory_first_and_the_library_last(
    directory: Directory, before: str | None
) -> None:
    path = read_config(variable("PYTHONPATH", before)).environment["PYTHONPATH"]
    # An empty entry would be the current directory.
    assert path == ":".join([str(directory.path), *([before] if before else []), LIBRARY])


def test_a_servo_directory_with_a_colon_is_left_out_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a:b"
    path.joinpath("adjust.d").mkdir(parents=True)
    monkeypatch.chdir(path)
    assert read_config({"PYTHONPATH": "/one"}).environment["PYTHONPATH"] == f"/one:{LIBRARY}"
    path.joinpath("package").mkdir()
    path.joinpath("package", "__init__.py").touch()
    with pytest.raises(BadEnvironment, match=r"^drivers cannot import package of the servo directory: "):
        read_config({})
    errors: list[UserError] = []
    assert read_config({}, errors).environment["PYTHONPATH"] == LIBRARY
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("before", "after"), [(None, "1"), ("", "1"), ("1", "1"), ("0", "0"), ("x", "x"), (" ", " ")]
)
@pytest.mark.usefixtures("directory")
def test_python_drivers_do_not_buffer_by_default(before: str | None, after: str) -> None:
    assert read_config(variable("PYTHONUNBUFFERED", before)).environment["PYTHONUNBUFFERED"] == after


@pytest.mark.usefixtures("directory")
def test_all_other_variables_are_passed_on_and_ours_are_not_changed() -> None:
    environment = {"PATH": "/bin", "EMPTY": "", "B\udcff": "\udcfe", TIMEOUT: "30"}
    before = dict(environment)
    passed_on = read_config(environment).environment
    assert environment == before
    changed = {"PYTHONPATH", "PYTHONUNBUFFERED", START_TOKEN}
    assert passed_on == {**before, TIMEOUT: "29", **{name: passed_on[name] for name in changed}}


@pytest.mark.parametrize(
    ("value", "how"),
    [
        *((None, "all"), ("", "all"), ("all", "all"), ("minimal", "minimal"), ("none", "none")),
        *(("loud", "none"), ("Minimal", "none")),
    ],
)
@pytest.mark.usefixtures("directory")
def test_how_much_stderr_is_shown(value: str | None, how: str) -> None:
    assert read_config(variable("OPTUNE_VERBOSE_STDERR", value)).stderr == how


# Section `agg` (SPEC 11).

SERIAL = [
    ([], [], []),
    (["nobody"], [], ["nobody"]),
    (["git-a"], ["git-a"], []),
    (["git-*", "k8s-?"], ["git-a", "git-b", "k8s-1"], []),
    (["GIT-*", "[gk]*"], ["git-a", "git-b", "k8s-1"], ["GIT-*"]),
    (["*"], ["git-a", "git-b", "k8s-1", "other"], []),
]


@pytest.mark.parametrize("key", ["serial", "complete"])
@pytest.mark.parametrize(("patterns", "names", "unmatched"), SERIAL)
def test_patterns_choose_drivers_by_their_names(
    directory: Directory, key: str, patterns: list[str], names: list[str], unmatched: list[str]
) -> None:
    directory.add("git-a", "git-b", "k8s-1", "other")
    directory.path.joinpath("config.yaml").write_text(f"agg: {{{key}: {patterns}}}")
    config = read_config({})
    assert sorted(getattr(config, key)) == names
    assert config.unmatched == [(key, pattern) for pattern in unmatched]


@pytest.mark.usefixtures("directory")
def test_without_a_section_the_defaults_apply() -> None:
    config = read_config({})
    assert (config.parallel, config.grace, config.cancel_grace) == (32, 30, 300)
    assert (config.limit, config.on_failure, config.log) == (None, "continue", None)
    assert not config.serial | config.complete


@pytest.mark.parametrize(
    ("value", "limit", "passed_on"),
    [
        *((None, 19, None), ("", 19, ""), (" \t", 19, " \t"), ("10", 9, "9")),
        *(("0", None, "0"), ("0.0", None, "0.0"), ("1", 0.5, "1")),
    ],
)
def test_the_configured_timeout_applies_where_the_variable_is_unset_or_empty(
    directory: Directory, value: str | None, limit: float | None, passed_on: str | None
) -> None:
    directory.path.joinpath("config.yaml").write_text("agg: {io_timeout: 20}")
    config = read_config({"OPTUNE_CONFIG": "other.yaml", **variable(TIMEOUT, value)})
    assert config.limit == limit
    assert config.environment.get(TIMEOUT) == passed_on
