"""The example drivers of adjust.d, run as the aggregator runs them: by their paths, from a servo directory.

Each test works on a copy of the repository's adjust.d and config.yaml, without adjust.d/demo.
All that the drivers print must match the schemas of docs/schemas.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.processes import environment
from tests.support.schemas import assert_driver_output_matches
from tests.support.servo import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

LIBRARY = REPOSITORY / "servo_agg" / "driverlib"

DEADLINE = 15.0

ENVFILE = "10envfile"

LIMITS = "20limits"

BOTH = pytest.mark.parametrize("driver", [ENVFILE, LIMITS])

COMPONENT = {ENVFILE: "web", LIMITS: "limits"}

FILE = {ENVFILE: "adjust.d/demo/web.env", LIMITS: "adjust.d/demo/limits.conf"}

FIRST: dict[str, dict[str, Any]] = {
    ENVFILE: {"workers": 4, "timeout": 30, "gc": "g1"},
    LIMITS: {"max_connections": 400, "queue_size": 128, "idle_seconds": 60},
}
"""The values in a query of a fresh copy."""

CHANGE: dict[str, dict[str, Any]] = {
    ENVFILE: {"workers": 8.0, "timeout": 2.5, "gc": "serial"},
    LIMITS: {"queue_size": 256.0, "idle_seconds": 5},
}


@dataclass(frozen=True)
class Done:
    returncode: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def reply(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def verdict(self) -> tuple[int, str, str]:
        return self.returncode, self.reply["status"], self.reply.get("reason", "")


class Servo:
    """A servo directory with the example drivers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(REPOSITORY / "adjust.d", path / "adjust.d", ignore=shutil.ignore_patterns("demo"))
        shutil.copy(REPOSITORY / "config.yaml", path)
        self.section = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))["envfile"]

    def run(self, driver: str, *args: str, data: bytes = b"", **env: Any) -> Done:
        done = subprocess.run(
            [f"adjust.d/{driver}", *args],
            cwd=self.path,
            env=environment({"PYTHONPATH": f"{self.path}:{LIBRARY}", **env}),
            input=data,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert_driver_output_matches(args, lines)
        return Done(done.returncode, lines, done.stderr.decode())

    def describe(self, driver: str, component: str, **env: Any) -> dict[str, dict[str, Any]]:
        """Return the description of the settings of the only component."""
        done = self.run(driver, "--query", "demo", **env)
        assert (done.returncode, len(done.lines), done.stderr) == (0, 1, ""), done
        assert list(done.reply["application"]["components"]) == [component]
        settings: dict[str, dict[str, Any]] = done.reply["application"]["components"][component]["settings"]
        return settings

    def query(self, driver: str) -> dict[str, Any]:
        """Return the current values."""
        described = self.describe(driver, COMPONENT[driver])
        return {name: setting["value"] for name, setting in described.items()}

    def adjust(self, driver: str, values: dict[str, Any], **env: Any) -> Done:
        settings = {name: {"value": value} for name, value in values.items()}
        components = {COMPONENT[driver]: {"settings": settings}}
        data = {"application": {"components": components}, "control": {"timeout": 600}}
        return self.run(driver, "demo", data=json.dumps(data).encode(), **env)

    def configure(self, **section: Any) -> None:
        """Change the section of the driver in config.yaml."""
        self.section.update(section)
        (self.path / "config.yaml").write_text(yaml.safe_dump({"envfile": self.section}), encoding="utf-8")

    def file(self, driver: str) -> Path:
        return self.path / FILE[driver]

    def write(self, driver: str, text: str) -> Path:
        path = self.file(driver)
        path.parent.mkdir()
        path.write_bytes(text.encode("latin-1"))
        return path

    def others(self, driver: str) -> list[str]:
        """Return the names of other files beside that of the driver."""
        path = self.file(driver)
        return [entry.name for entry in path.parent.iterdir() if entry.name != path.name]


def identity(path: Path) -> tuple[int, int]:
    """Return numbers that change when a file is written or replaced."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def servo_directory(tmp_path: Path) -> Servo:
    return Servo(tmp_path)


# Both


@BOTH
def test_info_needs_neither_configuration_nor_application(servo_directory: Servo, driver: str) -> None:
    (servo_directory.path / "config.yaml").unlink()
    done = servo_directory.run(driver, "--info")
    assert (done.returncode, done.lines) == (0, [{"version": "1.0", "has_cancel": False}])
    assert not servo_directory.file(driver).exists()


@BOTH
def test_without_an_application_the_usage_is_printed(servo_directory: Servo, driver: str) -> None:
    done = servo_directory.run(driver, "--query")
    assert (done.returncode, done.lines) == (2, [])
    assert "usage:" in done.stderr


@BOTH
def test_an_adjust_shows_in_the_next_query(servo_directory: Servo, driver: str) -> None:
    described = servo_directory.describe(driver, COMPONENT[driver])
    assert {name: setting["value"] for name, setting in described.items()} == FIRST[driver]
    for setting in described.values():
        if setting["type"] == "range":
            assert setting["min"] <= setting["value"] <= setting["max"]
            assert setting["step"] > 0
            assert setting["unit"]
        else:
            assert setting["value"] in setting["values"]

    done = servo_directory.adjust(driver, CHANGE[driver])
    assert (done.returncode, done.reply, done.stderr) == (0, {"status": "ok"}, "")
    progress = [line["progress"] for line in done.lines[:-1]]
    assert len(progress) > 1
    assert progress == sorted(progress)
    assert progress[-1] == 100

    assert servo_directory.query(driver) == {**FIRST[driver], **CHANGE[driver]}
    assert ".0" not in servo_directory.file(driver).read_text(encoding="utf-8")
    assert servo_directory.others(driver) == []


@BOTH
def test_simultaneous_first_starts_create_one_file(servo_directory: Servo, driver: str) -> None:
    """The queries must not replace the values of the adjust by the defaults."""
    with ThreadPoolExecutor(5) as pool:
        queries = [pool.submit(servo_directory.run, driver, "--query", "demo") for _ in range(4)]
        adjust = pool.submit(servo_directory.adjust, driver, CHANGE[driver])
    assert [each.result().returncode for each in [*queries, adjust]] == [0] * 5
    assert servo_directory.query(driver) == {**FIRST[driver], **CHANGE[driver]}
    assert servo_directory.others(driver) == []


@pytest.mark.parametrize(
    ("driver", "setting", "value", "message"),
    [
        (ENVFILE, "workers", 17, "17 is not within 1..16"),
        (ENVFILE, "workers", 2.5, "2.5 is not 1 plus a multiple of 1"),
        (ENVFILE, "timeout", "4", "'4' is not a number"),
        (ENVFILE, "workers", True, "True is not a number"),
        (ENVFILE, "gc", "zgc", "'zgc' is none of ['serial', 'parallel', 'g1']"),
        (ENVFILE, "heap", 1, "there is no such setting"),
        (LIMITS, "queue_size", 4097, "4097 is not within 1..4096"),
        (LIMITS, "queue_size", -1, "-1 is not within 1..4096"),
        (LIMITS, "queue_size", 1.5, "an integer is due"),
        (LIMITS, "queue_size", 10**20, "an integer is due"),
        (LIMITS, "queue_size", 'a"b\\', "an integer is due"),
        (LIMITS, "queue_size", {"value": 7}, "an integer is due"),
        (LIMITS, "queue_size", None, "an integer is due"),
        (LIMITS, 'heap" `of` $x \\', 1, "there is no such setting"),
    ],
)
def test_a_wrong_value_is_rejected_and_nothing_is_written(
    servo_directory: Servo, driver: str, setting: str, value: Any, message: str
) -> None:
    path = servo_directory.write(driver, "# nothing but this\n")
    before = identity(path)
    done = servo_directory.adjust(driver, {**CHANGE[driver], setting: value})
    assert done.verdict == (1, "rejected", "invalid-value")
    assert done.reply["message"] == f"{COMPONENT[driver]}.{setting}: {message}"
    assert len(done.lines) == 1
    assert identity(path) == before


@BOTH
def test_an_adjust_of_null_settings_writes_nothing(servo_directory: Servo, driver: str) -> None:
    """A setting that is null counts as not given."""
    path = servo_directory.write(driver, "")
    before = identity(path)
    settings = dict.fromkeys(FIRST[driver])
    data = {"application": {"components": {COMPONENT[driver]: {"settings": settings}}}}
    done = servo_directory.run(driver, "demo", data=json.dumps(data).encode())
    assert (done.returncode, done.lines) == (0, [{"status": "ok"}])
    assert identity(path) == before


@BOTH
def test_mode_and_other_lines_are_kept(servo_directory: Servo, driver: str) -> None:
    others = "# caf\xe9\r\n\nOTHER = 'x'\n#queue_size=1\n#WEB_GC=g1\nMY_WEB_GC=g1"
    path = servo_directory.write(driver, others)
    path.chmod(0o640)
    assert servo_directory.adjust(driver, CHANGE[driver]).returncode == 0
    text = path.read_bytes().decode("latin-1")
    assert text.startswith(others + "\n")
    assert len(text.splitlines()) == len(others.splitlines()) + len(CHANGE[driver])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert servo_directory.query(driver) == {**FIRST[driver], **CHANGE[driver]}


@BOTH
def test_a_file_that_cannot_be_read_is_the_reason(servo_directory: Servo, driver: str) -> None:
    (servo_directory.path / "adjust.d" / "demo").write_text("no directory", encoding="utf-8")
    done = servo_directory.run(driver, "--query", "demo")
    assert done.verdict == (1, "failed", "app-unavailable")
    assert FILE[driver] in done.reply["message"]


@BOTH
def test_a_value_in_the_file_that_is_not_a_number_is_the_reason(servo_directory: Servo, driver: str) -> None:
    servo_directory.write(driver, "WEB_WORKERS=many\nqueue_size=many\n")
    done = servo_directory.run(driver, "--query", "demo")
    assert done.verdict[:2] == (1, "failed")
    assert {ENVFILE: "WEB_WORKERS", LIMITS: "queue_size"}[driver] in done.reply["message"]


# 10envfile


def test_envfile_quotes_values_for_the_shell(servo_directory: Servo) -> None:
    values = ["plain", "a 'b' \"c\" $d #e", ""]
    names = ["FIRST", "SECOND", "THIRD", "FOURTH"]
    setting = {"type": "enum", "values": values, "default": "plain"}
    servo_directory.configure(settings={name: {**setting, "variable": name} for name in names})
    path = servo_directory.write(
        ENVFILE, "FIRST='a b'\nexport SECOND=x\nexport THIRD='plain'\nFOURTH=1\nFOURTH=2\n"
    )
    link = path.with_name("web.link")
    path.rename(link)
    path.symlink_to(link)

    wanted = dict(zip(names, [values[0], values[1], values[2], values[0]]))
    assert servo_directory.adjust(ENVFILE, wanted).returncode == 0
    assert servo_directory.query(ENVFILE) == wanted
    assert path.is_symlink()
    lines = path.read_text(encoding="utf-8").splitlines()
    names = ["FIRST", "export SECOND", "export THIRD", "FOURTH", "FOURTH"]
    assert [line.partition("=")[0] for line in lines] == names
    # The meaning of a line is that of the shell.
    script = f""". ./{FILE[ENVFILE]}; printf '%s\\n' "$FIRST" "$SECOND" "$THIRD" "$FOURTH" """
    said = subprocess.run(["sh", "-c", script], cwd=servo_directory.path, stdout=subprocess.PIPE, check=True)
    assert said.stdout.decode().splitlines() == list(wanted.values())


def test_envfile_refuses_a_value_of_several_lines(servo_directory: Servo) -> None:
    path = servo_directory.write(ENVFILE, "WEB_GC='one\ntwo'\n")
    done = servo_directory.adjust(ENVFILE, CHANGE[ENVFILE])
    assert done.verdict[:2] == (1, "failed")
    assert "WEB_GC" in done.reply["message"]
    assert path.read_text(encoding="utf-8") == "WEB_GC='one\ntwo'\n"


def test_envfile_runs_the_command_after_the_file_is_written(servo_directory: Servo) -> None:
    servo_directory.configure(command=f"cp {FILE[ENVFILE]} seen; echo noise")
    done = servo_directory.adjust(ENVFILE, {"workers": 3})
    assert (done.returncode, done.reply) == (0, {"status": "ok"})
    assert "WEB_WORKERS=3\n" in (servo_directory.path / "seen").read_text(encoding="utf-8")

    servo_directory.configure(command=["sh", "-c", "echo no such unit >&2; exit 5"])
    done = servo_directory.adjust(ENVFILE, {"workers": 3})
    assert done.verdict == (1, "failed", "command-failed")
    assert "status 5: no such unit" in done.reply["message"]


def test_envfile_serves_another_service_under_another_name(servo_directory: Servo) -> None:
    content = {"canary": {**servo_directory.section, "component": "canary", "file": "canary.env"}}
    (servo_directory.path / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (servo_directory.path / "adjust.d" / "canary").symlink_to(ENVFILE)
    assert servo_directory.describe("canary", "canary", OPTUNE_USE_DRIVER_NAME="1")
    assert (servo_directory.path / "canary.env").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.yaml"),
        ("envfile: [", "config.yaml"),
        ("", "section `envfile` of config.yaml lacks component, file, settings"),
        ("envfile: {component: web, file: f, settings: {s: {type: text}}}", "lacks type (range or enum)"),
    ],
)
def test_envfile_reports_mistakes_in_the_configuration(
    servo_directory: Servo, text: str | None, message: str
) -> None:
    path = servo_directory.path / "config.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = servo_directory.run(ENVFILE, "--query", "demo")
    assert done.verdict == (1, "failed", "bad-configuration")
    assert message in done.reply["message"]


def test_envfile_names_the_command_that_installs_pyyaml(servo_directory: Servo) -> None:
    (servo_directory.path / "yaml.py").write_text("raise ImportError", encoding="utf-8")
    done = servo_directory.run(ENVFILE, "--query", "demo")
    assert done.verdict == (1, "failed", "bad-environment")
    assert "pip install PyYAML" in done.reply["message"]


# 20limits


def test_limits_runs_with_few_tools(servo_directory: Servo) -> None:
    path = servo_directory.path / "bin"
    path.mkdir()
    tools = "sh awk chmod cp grep ln mkdir mktemp mv rm sed sync tail"
    for tool in tools.split():
        (path / tool).symlink_to(shutil.which(tool) or "/nowhere")
    done = servo_directory.adjust(LIMITS, CHANGE[LIMITS], PATH=str(path))
    assert (done.returncode, done.reply, done.stderr) == (0, {"status": "ok"}, "")
    assert servo_directory.describe(LIMITS, "limits", PATH=str(path))["queue_size"]["value"] == 256


@pytest.mark.parametrize("data", [b"", b'{"application": {', b'{"application": {}} x', b"[{}]"])
def test_limits_refuses_input_that_is_not_an_object(servo_directory: Servo, data: bytes) -> None:
    done = servo_directory.run(LIMITS, "demo", data=data)
    assert done.verdict == (1, "failed", "bad-input")
    assert done.reply["message"] == "the input on stdin is not a JSON object"


def test_limits_finds_its_integers_in_any_json(servo_directory: Servo) -> None:
    data = r"""
    {"control" : {"userdata": {"queue_size": {"value": 7}, "odd": [{}, [], -1.5e3, "\\", "",
     "\"limits\":{\"settings\":{\"queue_size\":{\"value\":8}}}"]}},
     "limits":{"settings":{"queue_size":{"value":9}}},
     "application":{"settings":{"queue_size":{"value":10}},"components":{
      "other/limits":{"settings":{"queue_size":{"value":11}}},
      "limits":{"queue_size":{"value":12},"settings"
       :{"queue_size"
         :
         { "unit":"requests", "was":{"value":13}, "value"	:	256.0 , "max":14}
       , "idle_seconds":null,"max_connections":{"value":10}}}}}}
    """
    done = servo_directory.run(LIMITS, "demo", data=data.encode())
    assert (done.returncode, done.reply) == (0, {"status": "ok"})
    expected = {"max_connections": 10, "queue_size": 256, "idle_seconds": 60}
    assert servo_directory.query(LIMITS) == expected
    # The same without any blank, as the aggregator writes it.
    compact = json.dumps(json.loads(data.replace("256.0", "64")), separators=(",", ":"))
    assert servo_directory.run(LIMITS, "demo", data=compact.encode()).returncode == 0
    assert servo_directory.query(LIMITS) == {**expected, "queue_size": 64}


def test_the_examples_are_executable_and_small() -> None:
    drivers = [entry for entry in (REPOSITORY / "adjust.d").iterdir() if entry.is_file()]
    assert sorted(entry.name for entry in drivers) == [ENVFILE, LIMITS]
    for driver in drivers:
        assert os.access(driver, os.X_OK)
        assert len(driver.read_text(encoding="utf-8").splitlines()) < 180
