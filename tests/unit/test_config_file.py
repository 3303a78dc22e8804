"""SPEC 11.6-11.9: reading config.yaml, as far as its content does not matter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from servo_agg.config_file import read_section
from servo_agg.errors import BadConfiguration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"a: [1, 2\n}\n", b"\tx: y\n:::\n", b"a: \xff\xfe\n", b"\x00\x01\x02", b"a: *nobody\n"),
        *(b"[" * 100_000, b"Agg: 5\nAGG: [\n", bytes(range(256))),
    ],
)
def test_a_file_without_the_bytes_agg_is_not_parsed(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert read_section() == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_tells_the_encoding(file: Path, encoding: str) -> None:
    file.write_text("caf\xe9: 1\nagg: {grace: 7}\n", encoding=encoding)
    assert read_section() == {"grace": 7}
    file.write_text("caf\xe9: 1\nagg: {grace: [1, 2]}\n", encoding=encoding)
    # The mark must not shift the value that the message quotes.
    with pytest.raises(BadConfiguration, match=r"line 2: agg\.grace is \[1, 2\], expected "):
        read_section()


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"k8s: caf\xe9\nagg: {grace: 1}\n", 1), (b"agg: {grace: 1}\n" + b"x: y\n" * 5000 + b"z: \xff\n", 5002)],
)
def test_bytes_that_are_not_utf_8_are_refused_with_their_line(file: Path, content: bytes, line: int) -> None:
    file.write_bytes(content)
    with pytest.raises(BadConfiguration) as raised:
        read_section()
    assert str(raised.value) == f"config.yaml is not UTF-8 (line {line}); save it as UTF-8"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("directory", "config.yaml must be a file, got a directory"),
        ("loop", "cannot read config.yaml: Too many levels of symbolic links"),
        ("broken link", "config.yaml is a link to nowhere, which does not exist"),
        ("pipe", "config.yaml must be a file, got a pipe"),
        ("device", "config.yaml must be a file, got a device"),
    ],
)
def test_a_config_yaml_that_is_not_a_file_is_refused(file: Path, kind: str, message: str) -> None:
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to({"broken link": "nowhere", "device": "/dev/zero"}.get(kind, file.name))
    with pytest.raises(BadConfiguration) as raised:
        read_section()
    assert str(raised.value) == message


def test_a_file_with_the_bytes_agg_has_at_most_1_mib(file: Path) -> None:
    content = b"agg: {grace: 7}\n#"
    file.write_bytes(content.ljust(1 << 20, b"x"))
    assert read_section() == {"grace": 7}
    file.write_bytes(content.ljust((1 << 20) + 1, b"x"))
    with pytest.raises(BadConfiguration, match="is longer than 1 MiB"):
        read_section()


def test_a_file_of_more_than_64_mib_is_refused(file: Path) -> None:
    with file.open("wb") as written:
        written.truncate((64 << 20) + 1)
    with pytest.raises(BadConfiguration) as raised:
        read_section()
    assert str(raised.value) == (
        "config.yaml is longer than 64 MiB; move what is not configuration to another file"
    )
