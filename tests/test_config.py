"""SPEC 2, 3, 9, 11: what is read of the surroundings, and how what is wrong with them is told."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import servo_agg
from servo_agg.config import Config
from servo_agg.errors import BadConfiguration, BadEnvironment, Fault, NoAdjustD
from servo_agg.processes import MARK

TIMEOUT = "OPTUNE_IO_TIMEOUT"


class Directory:
    """A servo directory, which is the current one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.drivers = path / "adjust.d"

    def add(self, name: str | bytes, *, mode: int = 0o755) -> None:
        path = os.fsencode(self.drivers) + b"/" + os.fsencode(name)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
        # Not by `open`: the umask has a say there.
        os.fchmod(descriptor, mode)
        os.close(descriptor)

    def configure(self, text: str | bytes) -> None:
        self.path.joinpath("config.yaml").write_bytes(text.encode() if isinstance(text, str) else text)


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


def read_in(path: Path, environment: dict[str, str]) -> Config:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(path)
        return Config(environment)


# Discovery (SPEC 2).


def test_drivers_are_the_executable_files_in_the_order_of_their_names(directory: Directory) -> None:
    for name in ("02winec2", "01ec2asg", "10last", "9nine", "B", "a", "with blank.py", "_"):
        directory.add(name)
    config = Config({})
    assert config.drivers == [
        "01ec2asg",
        "02winec2",
        "10last",
        "9nine",
        "B",
        "_",
        "a",
        "with blank.py",
    ]
    assert config.passed_over == []


def test_names_are_compared_as_bytes(directory: Directory) -> None:
    names = [
        b"z",
        "\xe9".encode(),
        "\ufffd".encode(),
        "\U0001f600".encode(),
        b"\xff",
        b"\xc3",
        b"a\xff",
        b"a",
    ]
    for name in names:
        directory.add(name)
    # Neither as text, where \xff stands between others, nor by any language's alphabet.
    assert [os.fsencode(name) for name in Config({}).drivers] == sorted(names)


def test_files_without_the_flag_are_passed_over(directory: Directory) -> None:
    directory.add("02b", mode=0o644)
    directory.add("01a", mode=0o600)
    directory.add("03c")
    directory.add(b"\xff", mode=0o644)
    directory.drivers.joinpath("04link").symlink_to("01a")
    config = Config({})
    assert config.drivers == ["03c"]
    assert config.passed_over == ["01a", "02b", "04link", os.fsdecode(b"\xff")]


@pytest.mark.parametrize(
    "name",
    [
        *("web~", "web.bak", "web.swp", ".web.swp", "web.orig", "web.rej", ".web", ".dpkg-x", "web.dpkg-old"),
        *("web.dpkg-dist", "web.rpmsave", "web.rpmnew", "web.rpmorig", "..data"),
    ],
)
def test_leftovers_are_no_drivers_even_if_executable(directory: Directory, name: str) -> None:
    directory.add("web")
    directory.add(name)
    directory.add(f".{name}", mode=0o644)
    config = Config({})
    assert (config.drivers, config.leftovers, config.passed_over) == (["web"], [name], [])


def test_names_that_only_resemble_leftovers_are_drivers(directory: Directory) -> None:
    names = ["bak", "dpkg-x", "orig.sh", "web.BAK", "web.bak.sh", "~web"]
    for name in names:
        directory.add(name)
    assert Config({}).drivers == names


def test_documents_are_no_drivers_unless_their_content_is_a_program(directory: Directory) -> None:
    for name in ("10web", "LICENSE", "README", "README.md", "notes.txt"):
        directory.add(name)
    directory.add("20win.md")
    directory.drivers.joinpath("20win.md").write_text("#!/bin/sh\n")
    config = Config({})
    assert config.drivers == ["10web", "20win.md"]
    assert config.documents == ["LICENSE", "README", "README.md", "notes.txt"]


def test_a_link_to_a_driver_is_a_driver_under_its_own_name(directory: Directory) -> None:
    directory.path.joinpath("k8s").write_text("#!/bin/sh\n")
    directory.path.joinpath("k8s").chmod(0o755)
    for name in ("k8s-adjust-main", "k8s-adjust-canary"):
        directory.drivers.joinpath(name).symlink_to("../k8s")
    directory.drivers.joinpath("absolute").symlink_to(directory.path / "k8s")
    directory.drivers.joinpath("to-a-link").symlink_to("k8s-adjust-main")
    assert Config({}).drivers == ["absolute", "k8s-adjust-canary", "k8s-adjust-main", "to-a-link"]


def test_what_is_no_file_is_skipped_without_noise(
    directory: Directory, capfd: pytest.CaptureFixture[str]
) -> None:
    directory.add("driver")
    directory.drivers.joinpath("sub-directory").mkdir()
    directory.drivers.joinpath("__pycache__").mkdir()
    directory.drivers.joinpath("link-to-directory").symlink_to(directory.path)
    os.mkfifo(directory.drivers / "fifo", 0o755)
    directory.drivers.joinpath("device").symlink_to("/dev/null")
    config = Config({})
    assert (config.drivers, config.passed_over) == (["driver"], [])
    assert capfd.readouterr() == ("", "")


def test_an_empty_directory_is_no_error(directory: Directory) -> None:
    config = Config({})
    assert (config.drivers, config.passed_over) == ([], [])
    assert config.directory == str(directory.path)


def test_adjust_d_may_be_a_link(directory: Directory) -> None:
    directory.add("driver")
    directory.drivers.rename(directory.path / "elsewhere")
    directory.drivers.symlink_to("elsewhere")
    assert Config({}).drivers == ["driver"]


@pytest.mark.parametrize("instead", ["nothing", "file", "broken-link", "fifo"])
def test_without_adjust_d_the_directory_looked_in_is_named(directory: Directory, instead: str) -> None:
    directory.drivers.rmdir()
    if instead == "file":
        directory.drivers.write_text("")
    elif instead == "broken-link":
        directory.drivers.symlink_to("nowhere")
    elif instead == "fifo":
        os.mkfifo(directory.drivers)
    with pytest.raises(NoAdjustD, match=re.escape(str(directory.path / "adjust.d"))) as raised:
        Config({})
    assert raised.value.reason == "no-adjust-d"


def test_without_a_current_directory_it_is_said_in_words(directory: Directory) -> None:
    directory.drivers.rmdir()
    directory.path.rmdir()
    with pytest.raises(NoAdjustD, match="directory"):
        Config({})


# The timeout (SPEC 9).


@pytest.mark.parametrize(
    ("value", "limit", "grace"),
    [
        pytest.param(None, None, 0.5, id="unset"),
        pytest.param("", None, 0.5, id="empty"),
        pytest.param("  ", None, 0.5, id="blank"),
        pytest.param("0", None, 0.5, id="0"),
        pytest.param("0.0", None, 0.5, id="0.0"),
        pytest.param(" 00 ", None, 0.5, id="00"),
        pytest.param("0.4", 0.2, 0.1, id="0.4"),
        pytest.param("1", 0.5, 0.25, id="1"),
        pytest.param("1.5", 0.75, 0.375, id="1.5"),
        pytest.param("2", 1, 0.5, id="2"),
        pytest.param("2.5", 1.5, 0.5, id="2.5"),
        pytest.param("30", 29, 0.5, id="30"),
        pytest.param("030", 29, 0.5, id="030"),
        pytest.param("30.0", 29, 0.5, id="30.0"),
        pytest.param(" 30", 29, 0.5, id="blank-before"),
        pytest.param("30\t\r\n", 29, 0.5, id="newline-after"),
        pytest.param("1000000000", 999999999, 0.5, id="long"),
    ],
)
@pytest.mark.usefixtures("directory")
def test_the_timeout_gives_the_limit_and_the_short_grace(
    value: str | None, limit: float | None, grace: float
) -> None:
    config = Config({} if value is None else {TIMEOUT: value})
    assert (config.limit, config.short_grace) == (limit, grace)


@pytest.mark.parametrize(
    "value",
    [
        "30s",
        "thirty",
        "nan",
        "NaN",
        "inf",
        "Infinity",
        "-1",
        "-0",
        "1e400",
        "1e3",
        "1E3",
        "0x1e",
        "1_000",
        "1,5",
        "1 000",
        "30 s",
        "1.2.3",
        ".",
        "3-0",
        "--",
        "None",
        "\u0663\u0660",
        "\xb2",
        "\uff13\uff10",
        "30\x00",
        "\udcff",
        "9" * 400,
        "0." + "0" * 400 + "1",
    ],
)
@pytest.mark.usefixtures("directory")
def test_a_timeout_that_is_no_plain_number_is_refused_by_name_and_value(value: str) -> None:
    with pytest.raises(BadEnvironment) as raised:
        Config({TIMEOUT: value})
    assert TIMEOUT in str(raised.value)
    assert repr(value)[:60] in str(raised.value)
    assert raised.value.reason == "bad-environment"


# Where the contract leaves open what a plain number is (".5", "5.", "+5") nothing is asked.
unclear = re.compile(r"\s*(\+.*|\.\d+|\d+\.)\s*", re.ASCII | re.DOTALL)


@given(
    st.text(st.sampled_from("0123456789. \t+-eE_xfns\u0663\xa0"), max_size=8).filter(
        lambda value: not unclear.fullmatch(value)
    )
)
@example("1e2")
@example(" 12.50 ")
def test_a_timeout_is_taken_exactly_when_it_is_a_plain_number(empty: Path, value: str) -> None:
    plain = re.fullmatch(r"(\d+(\.\d+)?)?", value.strip(), re.ASCII)
    if not plain:
        with pytest.raises(BadEnvironment) as raised:
            read_in(empty, {TIMEOUT: value})
        assert TIMEOUT in str(raised.value)
        assert repr(value) in str(raised.value)
        return
    seconds = float(plain[0] or 0)
    expected = None if not seconds else seconds - 1 if seconds >= 2 else seconds / 2
    assert read_in(empty, {TIMEOUT: value}).limit == expected


def test_a_bad_timeout_is_told_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("config.yaml").write_text("agg: [")
    with pytest.raises(BadEnvironment):
        Config({TIMEOUT: "30s"})


# What drivers get (SPEC 3).

LIBRARY = str(Path(servo_agg.__file__).parent / "driverlib")


@pytest.mark.parametrize("before", [None, "", "/one", "/one:/two", "/one::/two", "relative"])
def test_python_finds_the_servo_directory_first_and_the_library_last(
    directory: Directory, before: str | None
) -> None:
    path = Config({} if before is None else {"PYTHONPATH": before}).environment["PYTHONPATH"]
    # An empty entry would be the current directory, but nobody has asked for it.
    middle = [before] if before else []
    assert path == ":".join([str(directory.path), *middle, LIBRARY])


def test_a_servo_directory_with_a_colon_is_left_out_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a:b"
    path.joinpath("adjust.d").mkdir(parents=True)
    monkeypatch.chdir(path)
    assert Config({"PYTHONPATH": "/one"}).environment["PYTHONPATH"] == f"/one:{LIBRARY}"
    path.joinpath("package").mkdir()
    path.joinpath("package", "__init__.py").touch()
    with pytest.raises(BadEnvironment, match="package of it"):
        Config({})
    faults: list[Fault] = []
    assert Config({}, faults).environment["PYTHONPATH"] == LIBRARY
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("before", "after"), [(None, "1"), ("", "1"), ("1", "1"), ("0", "0"), ("x", "x"), (" ", " ")]
)
@pytest.mark.usefixtures("directory")
def test_python_drivers_do_not_buffer_unless_told_so(before: str | None, after: str) -> None:
    environment = {} if before is None else {"PYTHONUNBUFFERED": before}
    assert Config(environment).environment["PYTHONUNBUFFERED"] == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, None, id="unset"),
        pytest.param("", "", id="empty"),
        pytest.param("0", "0", id="0"),
        pytest.param("1", "1", id="1"),
        pytest.param("2", "1", id="2"),
        pytest.param("3", "2", id="3"),
        pytest.param("30", "29", id="30"),
        pytest.param(" 30 ", "29", id="white-space"),
        pytest.param("1.5", "1.5", id="1.5"),
        pytest.param("30.5", "30.5", id="30.5"),
        pytest.param("30.0", "29", id="30.0"),
        pytest.param("9" * 30, "9" * 29 + "8", id="more-digits-than-a-number-has"),
        pytest.param("0" * 5000 + "5", "4", id="zeros-before"),
    ],
)
@pytest.mark.usefixtures("directory")
def test_a_timeout_in_whole_seconds_is_lowered_for_drivers(before: str | None, after: str | None) -> None:
    environment = {} if before is None else {TIMEOUT: before}
    assert Config(environment).environment.get(TIMEOUT) == after


def test_a_timeout_of_the_configuration_is_not_passed_on(directory: Directory) -> None:
    directory.configure("agg: {io_timeout: 30}")
    assert TIMEOUT not in Config({}).environment


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


@pytest.mark.usefixtures("directory")
def test_all_else_is_passed_on_and_ours_is_not_touched() -> None:
    environment = {
        "PATH": "/bin",
        "EMPTY": "",
        "OPTUNE_USE_DRIVER_NAME": "1",
        "B\udcff": "\udcfe",
        TIMEOUT: "30",
    }
    before = dict(environment)
    given_ = Config(environment).environment
    assert environment == before
    assert set(given_) == {*before, "PYTHONPATH", "PYTHONUNBUFFERED", MARK}
    assert {name: given_[name] for name in before if name != TIMEOUT} == {
        name: before[name] for name in before if name != TIMEOUT
    }


@pytest.mark.parametrize(
    ("value", "how"),
    [
        (None, "all"),
        ("", "all"),
        ("all", "all"),
        ("minimal", "minimal"),
        ("none", "none"),
        ("loud", "none"),
        ("Minimal", "none"),
    ],
)
@pytest.mark.usefixtures("directory")
def test_how_much_stderr_is_shown(value: str | None, how: str) -> None:
    """SPEC 13."""
    assert Config({} if value is None else {"OPTUNE_VERBOSE_STDERR": value}).stderr == how


# The section `agg` (SPEC 11).


def known(config: Config) -> dict[str, Any]:
    return {
        "parallel": config.parallel,
        "serial": sorted(config.serial),
        "limit": config.limit,
        "grace": config.grace,
        "cancel_grace": config.cancel_grace,
        "on_failure": config.on_failure,
    }


DEFAULTS = {
    "parallel": 32,
    "serial": [],
    "limit": None,
    "grace": 30,
    "cancel_grace": 300,
    "on_failure": "continue",
}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="no-file"),
        pytest.param("", id="empty-file"),
        pytest.param("agg:\n", id="nothing-in-it"),
        pytest.param("agg: null\n", id="null"),
        pytest.param("agg: {}\n", id="empty-section"),
        pytest.param("# agg: {parallel: 1}\n", id="comment"),
        pytest.param("---\n...\n# agg\n", id="empty-document"),
        pytest.param("ec2asg: {agg: {parallel: 1}}\n", id="of-another-section"),
        pytest.param("aggregate: {parallel: 1}\nflag: x\n", id="longer-name"),
        pytest.param("- agg\n- {agg: {parallel: 1}}\n", id="list"),
        pytest.param("agg\n", id="text"),
        pytest.param("? [agg]\n: {parallel: 1}\n? {agg: 1}\n: 2\n", id="as-a-part-of-a-key"),
    ],
)
def test_without_a_section_the_defaults_hold(directory: Directory, text: str | None) -> None:
    directory.add("driver")
    if text is not None:
        directory.configure(text)
    assert known(Config({})) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("parallel: 1", {"parallel": 1}, id="parallel"),
        pytest.param("parallel: 1000", {"parallel": 1000}, id="parallel-many"),
        pytest.param("io_timeout: 30", {"limit": 29}, id="io_timeout"),
        pytest.param("io_timeout: 2.5", {"limit": 1.5}, id="io_timeout-fraction"),
        pytest.param("io_timeout: 1", {"limit": 0.5}, id="io_timeout-1"),
        pytest.param("io_timeout: 0", {"limit": None}, id="io_timeout-0"),
        pytest.param("grace: 10", {"grace": 10}, id="grace"),
        pytest.param("grace: 0", {"grace": 0}, id="grace-0"),
        pytest.param("grace: 1000000000", {"grace": 10**9}, id="grace-a-billion"),
        pytest.param("grace: 0.25", {"grace": 0.25}, id="grace-fraction"),
        pytest.param("cancel_grace: 60", {"cancel_grace": 60}, id="cancel_grace"),
        pytest.param("on_failure: stop", {"on_failure": "stop"}, id="on_failure-stop"),
        pytest.param("on_failure: continue", {"on_failure": "continue"}, id="on_failure-continue"),
        pytest.param("serial: []", {"serial": []}, id="serial-empty"),
        pytest.param("serial: ['nobody']", {"serial": []}, id="serial-nobody"),
        pytest.param("serial: [git-a]", {"serial": ["git-a"]}, id="serial-name"),
        pytest.param(
            "serial: ['git-*', 'k8s-?']", {"serial": ["git-a", "git-b", "k8s-1"]}, id="serial-patterns"
        ),
        pytest.param("serial: ['GIT-*']", {"serial": []}, id="serial-case"),
        pytest.param("serial: ['*']", {"serial": ["git-a", "git-b", "k8s-1", "other"]}, id="serial-all"),
        pytest.param("'grace': 1\n  \"parallel\": 2", {"grace": 1, "parallel": 2}, id="quoted"),
        pytest.param("grace: &g 1\n  io_timeout: *g", {"grace": 1, "limit": 0.5}, id="anchor-inside"),
    ],
)
def test_a_key_of_the_section_holds(directory: Directory, text: str, value: dict[str, Any]) -> None:
    for name in ("git-a", "git-b", "k8s-1", "other"):
        directory.add(name)
    directory.configure(f"ec2asg: {{parallel: 99}}\nagg:\n  {text}\n")
    assert known(Config({})) == {**DEFAULTS, **value}


@pytest.mark.parametrize(
    ("value", "limit"),
    [("", 19), (" \t", 19), ("10", 9), ("0", None), ("0.0", None), ("1", 0.5)],
)
def test_the_configured_timeout_holds_where_the_environment_has_none(
    directory: Directory, value: str, limit: float | None
) -> None:
    directory.configure("agg: {io_timeout: 20}")
    assert Config({TIMEOUT: value}).limit == limit
    assert Config({}).limit == 19


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: !vault secret\nb: !!python/object:os.system {x: 1}\nagg: {grace: 7}\n", id="tags"),
        pytest.param("a: !!python/object/apply:os.abort []\nagg: {grace: 7}\n", id="dangerous-tag"),
        pytest.param("!servo\nagg: {grace: 7}\n", id="tag-of-the-whole"),
        pytest.param("a: &x {grace: 7}\nagg: *x\n", id="alias"),
        pytest.param("a: &x {grace: 7, parallel: 5}\nagg:\n  <<: *x\n  parallel: 32\n", id="merge-key"),
        pytest.param("a: &x 7\nb: !foo\n  - *x\nagg: {grace: *x}\n", id="alias-of-a-value"),
        pytest.param("agg: {grace: 7}\nb: &r [*r]\n", id="rest-recursive"),
        pytest.param("? {a: 1}\n: 2\n? [b]\n: 3\nagg: {grace: 7}\n", id="keys-that-are-no-text"),
        pytest.param("a: *nobody\nagg: {grace: 7}\n", id="alias-without-an-anchor"),
        pytest.param("a: &x 1\nb: &x 7\nagg: {grace: *x}\n", id="anchor-given-twice"),
        pytest.param("b: &b {agg: {grace: 7}}\n<<: *b\n", id="merge-at-the-top"),
        pytest.param("b: &b {agg: {grace: 7}}\nc: &c {<<: *b}\n<<: [{x: 1}, *c]\n", id="merges-at-the-top"),
        pytest.param("b: &b {agg: {parallel: 5}}\n<<: *b\nagg: {grace: 7}\n", id="own-before-merged"),
        pytest.param("b: &b {agg: {grace: 7}}\nc: &c {agg: {grace: 8}}\n<<: [*b, *c]\n", id="first-merged"),
        pytest.param("<<: {agg: {grace: 7}}\n", id="merge-of-a-mapping-in-place"),
        pytest.param("a: 2020-13-45\nb: 1.0e+400\nagg: {grace: 7}\n", id="dates-that-are-none"),
        pytest.param("{agg: {grace: 7}, caf\xe9: \u20ac}", id="flow-and-utf-8"),
        pytest.param("\ufeffagg: {grace: 7}\n", id="byte-order-mark"),
        pytest.param("%YAML 1.1\n---\nagg:\r\n  grace: 7\r\n", id="directive-and-crlf"),
    ],
)
def test_the_rest_of_the_file_is_not_judged(directory: Directory, text: str) -> None:
    directory.configure(text)
    assert known(Config({})) == {**DEFAULTS, "grace": 7}


LEVELS = 100_000

DEEP = {
    "lists": "[" * LEVELS + "]" * LEVELS,
    "lists in lines": "[\n" * LEVELS + "]\n" * LEVELS,
    "mappings": "{a: " * LEVELS + "}" * LEVELS,
    "JSON": '{"]":[' * LEVELS + "]}" * LEVELS,
    "texts and comments in brackets": "[" * 300 + "']]', \"\\\"]]\", it's ] # ]]\n" + "," + "]" * 299,
    "dashes": "\n  " + "- " * LEVELS + "1",
    "question marks": "\n  " + "? " * LEVELS + "1",
    "indented": "\n" + "".join(" " * level + "a:\n" for level in range(2, 1300)),
}


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP.keys())
@pytest.mark.parametrize(
    "text",
    [
        "base: &base {grace: 7}\ndeep: DEEP\nagg: {<<: *base}\n",
        "base: &base {grace: 7}\nagg: {<<: *base}\ndeep: DEEP\n",
        "part:\n  base: &base {grace: 8}\n  deep: DEEP\n  grace: &grace 7\nagg: {<<: *base, grace: *grace}\n",
    ],
    ids=["before", "after", "around"],
)
def test_the_rest_of_the_file_may_be_nested_as_deep_as_it_likes(
    directory: Directory, text: str, deep: str
) -> None:
    directory.configure(text.replace("DEEP", deep))
    assert known(Config({})) == {**DEFAULTS, "grace": 7}


@pytest.mark.parametrize("deep", ["lists", "mappings", "JSON"])
def test_the_rest_of_a_file_within_braces_may_be_as_deep(directory: Directory, deep: str) -> None:
    directory.configure(f"{{a: &a {{grace: 7}}, deep: {DEEP[deep]}, agg: {{<<: *a}}}}\n")
    assert known(Config({})) == {**DEFAULTS, "grace": 7}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a: [1, 2\n}\n", id="broken"),
        pytest.param(b"\tx: y\n:::\n", id="tabs"),
        pytest.param(b"a: \xff\xfe\n", id="not-utf-8"),
        pytest.param(b"\x00\x01\x02", id="binary"),
        pytest.param(b"a: *nobody\n", id="unknown-alias"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"Agg: 5\nAGG: [\n", id="other-case"),
    ],
)
def test_a_file_without_the_bytes_agg_is_not_parsed(directory: Directory, content: bytes) -> None:
    directory.configure(content)
    assert known(Config({})) == DEFAULTS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parallel", "0"),
        ("parallel", "-1"),
        ("parallel", "2.5"),
        ("parallel", "many"),
        ("parallel", "'4'"),
        ("parallel", "true"),
        ("parallel", "null"),
        ("parallel", "[4]"),
        ("parallel", ".inf"),
        ("serial", "k8s-*x"),
        ("serial", "null"),
        ("serial", "5"),
        ("serial", "[5]"),
        ("serial", "[a, null]"),
        ("serial", "[[a]]"),
        ("serial", "{a: b}"),
        ("io_timeout", "-1"),
        ("io_timeout", "30s"),
        ("io_timeout", "'30'"),
        ("io_timeout", "true"),
        ("io_timeout", "null"),
        ("io_timeout", ".nan"),
        ("io_timeout", ".inf"),
        ("io_timeout", "[1]"),
        ("grace", "-0.5"),
        ("grace", "1000000001"),
        ("grace", "3s"),
        ("grace", "false"),
        ("grace", "null"),
        ("grace", ".nan"),
        ("grace", "-.inf"),
        ("grace", "{}"),
        ("grace", "2020-12-05"),
        ("cancel_grace", "-1"),
        ("cancel_grace", "long"),
        ("cancel_grace", "true"),
        ("cancel_grace", ".inf"),
        ("on_failure", "Stop"),
        ("on_failure", "halt"),
        ("on_failure", "true"),
        ("on_failure", "null"),
        ("on_failure", "[stop]"),
        ("on_failure", "{stop: 1}"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_key(directory: Directory, key: str, value: str) -> None:
    directory.configure(f"agg:\n  {key}: {value}\n")
    with pytest.raises(BadConfiguration) as raised:
        Config({})
    message = str(raised.value)
    assert "config.yaml" in message
    assert f"agg.{key}" in message
    assert raised.value.reason == "bad-configuration"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("parallel: 0", "0"),
        ("parallel: many", "many"),
        ("grace: -1.5", "-1.5"),
        ("serial: k8s-main", "k8s-main"),
        ("serial: [k8s, 77]", "77"),
        ("on_failure: halt", "halt"),
        ("io_timeout: 30s", "30s"),
        ("cancel_grace: [60]", "[60]"),
    ],
)
def test_a_wrong_value_is_named(directory: Directory, text: str, value: str) -> None:
    directory.configure(f"agg: {{{text}}}\n")
    with pytest.raises(BadConfiguration, match=re.escape(value)):
        Config({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("grace", "2020-13-45", id="no-such-date"),
        pytest.param("grace", "1" * 5000, id="more-digits-than-python-takes"),
        pytest.param("grace", "1" + "0" * 400, id="too-large-to-count-with"),
        pytest.param("io_timeout", "1" + "0" * 400, id="too-large-a-timeout"),
        pytest.param("cancel_grace", "!!float ''", id="empty-float"),
        pytest.param("grace", "!!bool x", id="no-boolean"),
        pytest.param("grace", "!!python/int 5", id="what-only-an-unsafe-loader-reads"),
        pytest.param("grace", "!!timestamp x", id="no-timestamp"),
    ],
)
def test_a_value_that_python_stumbles_over_is_told_like_any_other(
    directory: Directory, key: str, value: str
) -> None:
    directory.configure(f"agg:\n  {key}: {value}\n")
    with pytest.raises(BadConfiguration) as raised:
        Config({})
    message = str(raised.value)
    assert "config.yaml" in message
    assert f"agg.{key}" in message


@pytest.mark.parametrize("value", ["2020-12-05", "2020-12-05 10:00:00", "!!set {a}", "!!binary aGk="])
def test_a_message_about_a_value_names_no_class_of_python(directory: Directory, value: str) -> None:
    """SPEC 13."""
    directory.configure(f"agg:\n  grace: {value}\n")
    with pytest.raises(BadConfiguration) as raised:
        Config({})
    assert not re.search(r"datetime|set\(|Error|<", str(raised.value))


@pytest.mark.parametrize(
    ("key", "near"),
    [
        pytest.param("paralel", "parallel", id="paralel"),
        pytest.param("Parallel", "parallel", id="Parallel"),
        pytest.param("seriell", "serial", id="seriell"),
        pytest.param("timeout", "io_timeout", id="timeout"),
        pytest.param("io-timeout", "io_timeout", id="io-timeout"),
        pytest.param("graze", "grace", id="graze"),
        pytest.param("cancelgrace", "cancel_grace", id="cancelgrace"),
        pytest.param("onfailure", "on_failure", id="onfailure"),
    ],
)
def test_an_unknown_key_is_refused_with_its_value_and_the_nearest_known_one(
    directory: Directory, key: str, near: str
) -> None:
    directory.configure(f"agg:\n  grace: 1\n  {key}: 4711\n")
    with pytest.raises(BadConfiguration) as raised:
        Config({})
    words = re.findall(r"[\w.-]*\w", str(raised.value))
    assert [part for part in ("config.yaml", key, "4711", near) if part not in words] == []


@pytest.mark.parametrize("key", ["zzz", "''", "5", "null", "true", "2020-12-05"])
def test_any_other_key_is_refused_too(directory: Directory, key: str) -> None:
    directory.configure(f"agg:\n  {key}: []\n")
    with pytest.raises(BadConfiguration, match=r"config\.yaml"):
        Config({})


@pytest.mark.parametrize(
    "section",
    ["[]", "[grace, 5]", "5", "''", "text", "true", "!!python/object:os.system {}", "!vault {grace: 1}"],
)
def test_a_section_that_is_no_mapping_is_refused(directory: Directory, section: str) -> None:
    directory.configure(f"agg: {section}\n")
    with pytest.raises(BadConfiguration, match=r"config\.yaml"):
        Config({})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"agg: {grace: 1\n", id="torn"),
        pytest.param(b"a: [\nagg: {grace: 1}\n", id="broken-elsewhere"),
        pytest.param(b"agg:\n\tgrace: 1\n", id="tab"),
        pytest.param(b"agg: *nobody\n", id="unknown-alias"),
        pytest.param(b"agg: {grace: !vault 1}\n", id="tag-in-the-section"),
        pytest.param(b"agg: {grace: !!python/object/apply:os.abort []}\n", id="dangerous-tag"),
        pytest.param(b"agg: &a {grace: *a}\n", id="recursive"),
        pytest.param(b"agg: {[a]: 1}\n", id="list-as-a-key"),
        pytest.param(b"agg: {{a: 1}: 1}\n", id="mapping-as-a-key"),
        pytest.param(b"agg: {<<: 1}\n", id="merge-of-no-mapping"),
        pytest.param(b"agg: {grace: " + b"[" * 1500 + b"]" * 1500 + b"}\n", id="deep"),
        pytest.param(b"agg: {grace: 1}\nx: \xff\n", id="not-utf-8"),
        pytest.param(b"agg: {grace: 1}\nx: \x00\n", id="nul"),
        pytest.param(b"agg: {grace: 1}\nx: \x1b\n", id="control-character"),
        pytest.param(b"agg: {grace: 1}\n" + b"x: y\n" * 5000 + b"z: \xff\n", id="not-utf-8-far-below"),
    ],
)
def test_a_file_with_a_section_that_cannot_be_read_is_refused(directory: Directory, content: bytes) -> None:
    directory.configure(content)
    with pytest.raises(BadConfiguration, match=r"config\.yaml") as raised:
        Config({})
    # Words for a person (SPEC 13).
    assert "Error" not in str(raised.value)


def test_a_broken_file_is_told_with_the_line(directory: Directory) -> None:
    directory.configure("agg:\n  grace: 1\nx: ]\n")
    with pytest.raises(BadConfiguration, match="line 3"):
        Config({})


def test_a_directory_in_place_of_the_file_is_refused(directory: Directory) -> None:
    directory.path.joinpath("config.yaml").mkdir()
    with pytest.raises(BadConfiguration, match=r"config\.yaml.*directory"):
        Config({})


def test_the_file_of_the_current_directory_is_read_whatever_drivers_read(directory: Directory) -> None:
    directory.path.joinpath("other.yaml").write_text("agg: {grace: 1}")
    directory.configure("agg: {grace: 2}")
    assert Config({"OPTUNE_CONFIG": "other.yaml"}).grace == 2


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@example({"io_timeout": 5e-324})
@given(
    st.dictionaries(
        st.sampled_from(["parallel", "serial", "io_timeout", "grace", "cancel_grace", "on_failure", "other"]),
        scalars | st.lists(scalars, max_size=2),
        max_size=3,
    )
)
def test_whatever_is_in_the_section_is_taken_or_refused_in_words(
    empty: Path, section: dict[str, Any]
) -> None:
    path = empty / "config.yaml"
    path.write_text(yaml.safe_dump({"agg": section}), encoding="ascii")
    refusal = ""
    try:
        config = read_in(empty, {})
    except BadConfiguration as error:
        refusal = str(error)
    finally:
        path.unlink()
    if refusal:
        assert refusal.startswith("config.yaml")
    else:
        assert config.parallel >= 1
        assert 0 <= float(config.grace) < float("inf")
        assert config.limit is None or 0 < float(config.limit) < float("inf")
        assert config.on_failure in ("continue", "stop")
