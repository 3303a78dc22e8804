"""The example drivers of adjust.d, run as the aggregator runs them: by their paths, from a servo directory.

Each test works on a copy of the repository's adjust.d and config.yaml, without adjust.d/demo.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import environment

REPOSITORY = Path(__file__).resolve().parent.parent

LIBRARY = REPOSITORY / "servo_agg" / "driverlib"

DEADLINE = 15.0

Values = dict[str, dict[str, dict[str, Any]]]

ENVFILE = "10envfile"

LIMITS = "20limits"

BOTH = pytest.mark.parametrize("driver", [ENVFILE, LIMITS])

FIRST: Values = {
    ENVFILE: {"web": {"workers": 4, "timeout": 30, "gc": "g1"}},
    LIMITS: {"limits": {"queue_size": 128}},
}
"""What a query on a fresh copy tells, or some of it."""

CHANGE: Values = {
    ENVFILE: {"web": {"workers": 8, "timeout": 2.5, "gc": "serial"}},
    LIMITS: {"limits": {"queue_size": 256, "idle_seconds": 5}},
}

DEMO = {ENVFILE: "adjust.d/demo/web.env", LIMITS: "adjust.d/demo/limits.conf"}


@dataclass(frozen=True)
class Done:
    returncode: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def reply(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def progress(self) -> list[int]:
        return [line["progress"] for line in self.lines[:-1]]


class Servo:
    """A servo directory with the example drivers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(REPOSITORY / "adjust.d", path / "adjust.d", ignore=shutil.ignore_patterns("demo"))
        shutil.copy(REPOSITORY / "config.yaml", path)

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
        return Done(done.returncode, lines, done.stderr.decode())

    def query(self, driver: str, **env: Any) -> dict[str, dict[str, Any]]:
        """Return the values that a query tells: `{component: {setting: value}}`."""
        done = self.run(driver, "--query", "demo", **env)
        assert (done.returncode, len(done.lines), done.stderr) == (0, 1, ""), done
        return {
            component: {name: setting["value"] for name, setting in content["settings"].items()}
            for component, content in done.reply["application"]["components"].items()
        }

    def adjust(self, driver: str, values: dict[str, dict[str, Any]], **env: Any) -> Done:
        return self.run(driver, "demo", data=request(values), **env)

    def configure(self, section: str, content: Any) -> None:
        (self.path / "config.yaml").write_text(yaml.safe_dump({section: content}), encoding="utf-8")

    def file(self, driver: str) -> Path:
        return self.path / DEMO[driver]

    def others(self, driver: str) -> list[str]:
        """Return what lies beside the driver's file: nothing may be left there."""
        path = self.file(driver)
        return [entry.name for entry in path.parent.iterdir() if entry.name != path.name]


def request(values: dict[str, dict[str, Any]], **more: Any) -> bytes:
    components = {
        component: {"settings": {name: {"value": value} for name, value in settings.items()}}
        for component, settings in values.items()
    }
    return json.dumps(
        {"application": {"components": components}, "control": {"timeout": 600}, **more}
    ).encode()


@pytest.fixture
def servo_directory(tmp_path: Path) -> Servo:
    return Servo(tmp_path)


# Both


@BOTH
def test_info_needs_neither_configuration_nor_application(servo_directory: Servo, driver: str) -> None:
    (servo_directory.path / "config.yaml").unlink()
    for args in (["--info"], ["--info", "demo"]):
        done = servo_directory.run(driver, *args)
        assert (done.returncode, done.lines) == (0, [{"version": "1.0", "has_cancel": driver == ENVFILE}])
    version = subprocess.run(
        [servo_directory.path / "adjust.d" / driver, "--version"],
        env=environment({"PYTHONPATH": str(LIBRARY)}),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert version.stdout == b"1.0\n"


@BOTH
def test_without_an_application_the_usage_is_told(servo_directory: Servo, driver: str) -> None:
    for args in ([], ["--query"]):
        done = servo_directory.run(driver, *args)
        assert (done.returncode, done.lines) == (2, [])
        assert "usage:" in done.stderr


@BOTH
def test_an_adjust_shows_in_the_next_query(servo_directory: Servo, driver: str) -> None:
    before = servo_directory.query(driver)
    for component, settings in FIRST[driver].items():
        assert settings.items() <= before[component].items()

    done = servo_directory.adjust(driver, CHANGE[driver])
    assert (done.returncode, done.reply, done.stderr) == (0, {"status": "ok"}, "")
    assert done.progress
    assert done.progress == sorted(done.progress)
    assert done.progress[-1] == 100

    after = {name: {**settings, **CHANGE[driver][name]} for name, settings in before.items()}
    assert servo_directory.query(driver) == after
    assert servo_directory.others(driver) == []


@BOTH
def test_an_adjust_of_a_fresh_copy_creates_the_file_first(servo_directory: Servo, driver: str) -> None:
    assert servo_directory.adjust(driver, CHANGE[driver]).returncode == 0
    for component, settings in CHANGE[driver].items():
        assert settings.items() <= servo_directory.query(driver)[component].items()


@BOTH
def test_many_first_queries_at_once_agree(servo_directory: Servo, driver: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(servo_directory.query, [driver] * 6))
    assert answers == answers[:1] * 6
    assert servo_directory.others(driver) == []


def test_the_two_describe_different_components(servo_directory: Servo) -> None:
    assert set(servo_directory.query(ENVFILE)) & set(servo_directory.query(LIMITS)) == set()


@BOTH
def test_what_a_query_tells_is_what_an_optimizer_needs(servo_directory: Servo, driver: str) -> None:
    components = servo_directory.run(driver, "--describe", "demo").reply["application"]["components"]
    for component in components.values():
        for setting in component["settings"].values():
            if setting["type"] == "range":
                assert setting["min"] <= setting["value"] <= setting["max"]
                assert setting["step"] > 0
                assert setting["unit"]
            else:
                assert setting["value"] in setting["values"]


@pytest.mark.parametrize(
    ("driver", "component", "setting", "value", "told"),
    [
        (ENVFILE, "web", "workers", 17, "17 is not within 1..16"),
        (LIMITS, "limits", "queue_size", 4097, "4097 is not within 1..4096"),
        (LIMITS, "limits", "queue_size", -1, "-1 is not within 1..4096"),
        (LIMITS, "limits", "queue_size", 1.5, "1.5 is no integer"),
        (LIMITS, "limits", "queue_size", 10**20, "100000000000000000000 is no integer"),
        (LIMITS, "limits", "queue_size", 'a"b\\', "is no integer"),
        (LIMITS, "limits", "queue_size", {"value": 7}, "is no integer"),
        (LIMITS, "limits", "queue_size", [], "is no integer"),
        (LIMITS, "limits", "queue_size", None, "null is no integer"),
        (LIMITS, "limits", "heap", 1, "there is no such setting"),
    ],
)
def test_a_value_that_cannot_be_is_rejected_and_nothing_is_written(
    servo_directory: Servo, driver: str, component: str, setting: str, value: Any, told: str
) -> None:
    servo_directory.query(driver)
    before = servo_directory.file(driver).stat()
    values = {name: dict(settings) for name, settings in CHANGE[driver].items()}
    values[component][setting] = value
    done = servo_directory.adjust(driver, values)
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "rejected", "invalid-value")
    assert f"{component}.{setting}: " in done.reply["message"]
    assert told in done.reply["message"]
    assert len(done.lines) == 1
    assert servo_directory.file(driver).stat() == before


@BOTH
def test_a_setting_that_is_null_counts_as_not_given(servo_directory: Servo, driver: str) -> None:
    component, settings = next(iter(CHANGE[driver].items()))
    name = next(iter(settings))
    data = {"application": {"components": {component: {"settings": {name: None}}}}}
    done = servo_directory.run(driver, "demo", data=json.dumps(data).encode())
    assert (done.returncode, done.lines) == (0, [{"status": "ok"}])
    assert servo_directory.query(driver)[component][name] == FIRST[driver][component][name]


@BOTH
@pytest.mark.parametrize("data", [b"", b"{", b'{"application": {}} x', b"nonsense"])
def test_an_input_that_is_no_json_fails_in_words(servo_directory: Servo, driver: str, data: bytes) -> None:
    done = servo_directory.run(driver, "demo", data=data)
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "bad-input")
    assert "the input on stdin" in done.reply["message"]


@BOTH
def test_mode_link_comments_and_other_lines_are_kept(servo_directory: Servo, driver: str) -> None:
    servo_directory.query(driver)
    path = servo_directory.file(driver)
    target = servo_directory.path / "target"
    target.write_text(
        "# a comment\n\n" + path.read_text(encoding="utf-8") + "OTHER = 'x'\nlast=1", encoding="utf-8"
    )
    target.chmod(0o640)
    path.unlink()
    path.symlink_to(target)
    assert servo_directory.adjust(driver, CHANGE[driver]).returncode == 0
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[:2] + lines[-2:] == ["# a comment", "", "OTHER = 'x'", "last=1"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert path.is_symlink()


@BOTH
def test_the_section_may_be_the_one_of_the_file_name(servo_directory: Servo, driver: str) -> None:
    content = yaml.safe_load((servo_directory.path / "config.yaml").read_text(encoding="utf-8"))
    ours = content["envfile" if driver == ENVFILE else "limits"]
    servo_directory.configure("canary", ours)
    (servo_directory.path / "adjust.d" / "canary").symlink_to(driver)
    assert servo_directory.query("canary", OPTUNE_USE_DRIVER_NAME="1")

    elsewhere = servo_directory.path / "elsewhere.yaml"
    (servo_directory.path / "config.yaml").rename(elsewhere)
    assert servo_directory.query("canary", OPTUNE_USE_DRIVER_NAME="1", OPTUNE_CONFIG="elsewhere.yaml")
    missing = servo_directory.run("canary", "--query", "demo", OPTUNE_CONFIG=str(elsewhere))
    assert (missing.returncode, missing.reply["reason"]) == (1, "bad-configuration")
    assert str(elsewhere) in missing.reply["message"]


@BOTH
def test_a_file_that_cannot_be_had_is_told_in_words(servo_directory: Servo, driver: str) -> None:
    (servo_directory.path / "adjust.d" / "demo").write_text(
        "a file where a directory is due", encoding="utf-8"
    )
    done = servo_directory.run(driver, "--query", "demo")
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "app-unavailable")
    assert DEMO[driver] in done.reply["message"]


@BOTH
def test_a_value_in_the_file_that_is_no_number_is_told_in_words(servo_directory: Servo, driver: str) -> None:
    servo_directory.query(driver)
    path = servo_directory.file(driver)
    path.write_text("WEB_WORKERS=many\nqueue_size=many\n", encoding="utf-8")
    done = servo_directory.run(driver, "--query", "demo")
    assert (done.returncode, done.reply["status"]) == (1, "failed")
    assert "'many'" in done.reply["message"]
    # An adjust puts it right.
    assert servo_directory.adjust(driver, CHANGE[driver]).returncode == 0
    assert servo_directory.query(driver)


# 10envfile


def web(**more: Any) -> dict[str, Any]:
    """Return a section with one component, whose settings are of all kinds."""
    settings = {
        "n": {"variable": "N", "type": "range", "min": 0, "max": 10, "step": 0.1, "default": 1},
        "opts": {
            "variable": "OPTS",
            "type": "enum",
            "values": ['a "b" $c', "plain", "", True],
            "default": "plain",
        },
    }
    return {"components": {"web": {"file": "web.env", "settings": settings, **more}}}


def test_all_that_is_wrong_is_told_at_once(servo_directory: Servo) -> None:
    wrong = {"workers": 2.5, "timeout": "4", "gc": "zgc", "heap": 1}
    done = servo_directory.adjust(ENVFILE, {"web": wrong, "db": {"heap": True}})
    assert done.reply["status"] == "rejected"
    assert done.reply["message"].split("; ") == [
        "web.workers: 2.5 is not a multiple of 1 above 1",
        "web.timeout: '4' is no number",
        "web.gc: 'zgc' is none of serial, parallel, g1",
        "web.heap: there is no such setting",
        "db.heap: there is no such setting",
    ]
    done = servo_directory.adjust(ENVFILE, {"web": {"workers": True, "timeout": None}})
    assert done.reply["message"] == "web.workers: True is no number; web.timeout: None is no number"


REWRITTEN = [
    ("OPTS=old # why\n", "plain", "OPTS=plain # why\n"),
    ("export OPTS='old'\n", "plain", "export OPTS='plain'\n"),
    ('OPTS="old one"\r\n', "plain", 'OPTS="plain"\r\n'),
    ("OPTS=-a -b\n", "plain", "OPTS=plain\n"),
    ("OPTS='old'\n", 'a "b" $c', 'OPTS="a \\"b\\" \\$c"\n'),
    ("OPTS=old\n", "", "OPTS=\n"),
    ("OPTS=old\n", True, "OPTS=true\n"),
    ("OPTS=one\nX=1\nOPTS=two\n", "plain", "OPTS=one\nX=1\nOPTS=plain\n"),
    ("#OPTS=no\nMY_OPTS=no", "plain", "#OPTS=no\nMY_OPTS=no\nOPTS=plain\n"),
    ("", "plain", "OPTS=plain\n"),
]
"""A file, the value that is to be in it, the file with that."""


def test_a_line_is_rewritten_with_the_quotes_that_it_needs(servo_directory: Servo) -> None:
    content = web()
    one = content["components"].pop("web")
    values = {}
    for number, (before, opts, _) in enumerate(REWRITTEN):
        content["components"][f"c{number}"] = {**one, "file": f"{number}.env"}
        values[f"c{number}"] = {"opts": opts}
        (servo_directory.path / f"{number}.env").write_bytes(before.encode())
    servo_directory.configure("envfile", content)

    assert servo_directory.adjust(ENVFILE, values).returncode == 0
    files = [
        (servo_directory.path / f"{number}.env").read_bytes().decode() for number in range(len(REWRITTEN))
    ]
    assert files == [after for _, _, after in REWRITTEN]
    described = servo_directory.query(ENVFILE)
    assert [component["opts"] for component in described.values()] == [opts for _, opts, _ in REWRITTEN]
    # The shell is the judge of what a line means.
    script = """for n in 0 1 3 4 5 6 7 8 9; do (. ./$n.env; printf '%s\\n' "$OPTS"); done"""
    said = subprocess.run(
        ["/bin/sh", "-c", script], cwd=servo_directory.path, stdout=subprocess.PIPE, check=True
    )
    meant = [opts for _, opts, after in REWRITTEN if "\r" not in after]
    assert said.stdout.decode().splitlines() == ["true" if opts is True else opts for opts in meant]


@pytest.mark.parametrize("line", ["OPTS='one\ntwo'\n", 'OPTS="a\n', "OPTS=one\\\ntwo\n"])
def test_a_value_of_several_lines_is_left_alone(servo_directory: Servo, line: str) -> None:
    servo_directory.configure("envfile", web())
    path = servo_directory.path / "web.env"
    path.write_text("N=2\n" + line, encoding="utf-8")
    done = servo_directory.adjust(ENVFILE, {"web": {"n": 3, "opts": "plain"}})
    assert (done.returncode, done.reply["status"]) == (1, "failed")
    assert "OPTS" in done.reply["message"]
    assert path.read_text(encoding="utf-8") == "N=2\n" + line


def test_a_missing_file_is_an_error_unless_it_may_be_created(servo_directory: Servo) -> None:
    servo_directory.configure("envfile", web())
    done = servo_directory.run(ENVFILE, "--query", "demo")
    assert (done.returncode, done.reply["reason"]) == (1, "app-unavailable")
    assert "web.env cannot be read" in done.reply["message"]
    assert not (servo_directory.path / "web.env").exists()


def test_the_command_runs_after_the_file_is_written(servo_directory: Servo) -> None:
    servo_directory.configure("envfile", web(create=True, command="cp web.env seen; echo noise"))
    done = servo_directory.adjust(ENVFILE, {"web": {"n": 0.3}})
    assert (done.returncode, done.reply, done.progress) == (0, {"status": "ok"}, [50, 100])
    assert "N=0.3\n" in (servo_directory.path / "seen").read_text(encoding="utf-8")


def test_a_command_that_fails_fails_the_adjust(servo_directory: Servo) -> None:
    servo_directory.configure(
        "envfile", web(create=True, command=["sh", "-c", "echo no such unit >&2; exit 5"])
    )
    done = servo_directory.adjust(ENVFILE, {"web": {"n": 3}})
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "failed", "command-failed")
    assert "status 5: no such unit" in done.reply["message"]


def test_a_cancel_comes_into_force_between_two_components(servo_directory: Servo) -> None:
    content = web(create=True, command="kill -USR1 $PPID; sleep 0.05; touch done")
    content["components"]["worker"] = {**content["components"]["web"], "file": "worker.env"}
    servo_directory.configure("envfile", content)
    done = servo_directory.adjust(ENVFILE, {"web": {"n": 3}, "worker": {"n": 4}})
    assert (done.returncode, done.reply["status"], done.reply["reason"]) == (1, "canceled", "SIGUSR1")
    assert "worker" in done.reply["message"]
    assert (servo_directory.path / "done").exists()
    assert "N=1\n" in (servo_directory.path / "worker.env").read_text(encoding="utf-8")


def test_of_two_adjusts_at_once_neither_is_lost(servo_directory: Servo) -> None:
    settings = {
        f"s{number}": {"variable": f"S{number}", "type": "range", "min": 0, "max": 9, "default": 0}
        for number in range(6)
    }
    one = {"file": "web.env", "create": True, "settings": settings}
    servo_directory.configure("envfile", {"components": {"web": one}})
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda name: servo_directory.adjust(ENVFILE, {"web": {name: 5}}), settings))
    assert [each.returncode for each in done] == [0] * 6
    assert servo_directory.query(ENVFILE) == {"web": dict.fromkeys(settings, 5)}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (None, "`variable` is None"),
        ({"variable": "A B", "type": "range"}, "`variable` is 'A B'"),
        ({"variable": "A", "type": "text"}, "`type` is 'text'"),
        ({"variable": "A", "type": "range", "min": 5, "max": 1}, "a range needs numbers"),
        (
            {"variable": "A", "type": "range", "min": 1, "max": 5, "default": 9},
            "`default`: 9 is not within 1..5",
        ),
        ({"variable": "A", "type": "enum", "values": "abc"}, "an enum needs a list"),
        ({"variable": "A", "type": "enum", "values": ["a\nb"]}, "a value of more than one line"),
    ],
)
def test_a_mistake_in_a_setting_s_configuration_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, setting: Any, told: str
) -> None:
    monkeypatch.syspath_prepend(LIBRARY)
    names = runpy.run_path(str(REPOSITORY / "adjust.d" / ENVFILE))
    with pytest.raises(names["AdjustError"], match=re.escape(f"configuration of setting web.s: {told}")):
        names["Setting"]("web.s", setting)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("envfile: [", "no valid YAML"),
        ("other: 1", "no section `envfile`"),
        ("", "no section `envfile`"),
        ("envfile: {components: {web: {settings: {}}}}", "component web: it needs `file`"),
        ("envfile: {components: {web: {file: f, settings: {s: 1}}}}", "setting web.s: `variable`"),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_that_is_not_there_is_told_in_words(
    servo_directory: Servo, text: str | None, told: str
) -> None:
    path = servo_directory.path / "config.yaml"
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    done = servo_directory.run(ENVFILE, "--query", "demo")
    assert (done.returncode, done.reply["reason"]) == (1, "bad-configuration")
    assert told in done.reply["message"]


def test_what_other_sections_hold_is_no_concern(servo_directory: Servo) -> None:
    path = servo_directory.path / "config.yaml"
    path.write_text("theirs: !vault secret\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert servo_directory.query(ENVFILE)


def test_without_pyyaml_it_says_how_to_get_it(servo_directory: Servo) -> None:
    (servo_directory.path / "yaml.py").write_text("raise ImportError", encoding="utf-8")
    done = servo_directory.run(ENVFILE, "--query", "demo")
    assert (done.returncode, done.reply["reason"]) == (1, "bad-environment")
    assert "pip install PyYAML" in done.reply["message"]


# 20limits


def test_limits_needs_little(servo_directory: Servo) -> None:
    tools = "sh awk chmod cp dirname ln mkdir mktemp mv readlink rm sed sync tail tr"
    path = servo_directory.path / "bin"
    path.mkdir()
    for tool in tools.split():
        (path / tool).symlink_to(shutil.which(tool) or "/nowhere")
    assert servo_directory.query(LIMITS, PATH=str(path))
    done = servo_directory.adjust(LIMITS, CHANGE[LIMITS], PATH=str(path))
    assert (done.returncode, done.reply, done.stderr) == (0, {"status": "ok"}, "")


def test_limits_finds_its_integers_in_any_json(servo_directory: Servo) -> None:
    data = r"""
    {"control" : {"userdata": {"queue_size": {"value": 7}, "odd": [{}, [], -1.5e3,
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
    expected = {"limits": {"max_connections": 10, "queue_size": 256, "idle_seconds": 60}}
    assert servo_directory.query(LIMITS) == expected
    # The same without any blank, as the aggregator writes it.
    compact = json.dumps(json.loads(data.replace("256.0", "64")), separators=(",", ":"))
    assert servo_directory.run(LIMITS, "demo", data=compact.encode()).returncode == 0
    assert servo_directory.query(LIMITS)["limits"]["queue_size"] == 64


def test_the_examples_are_executable_and_named_as_the_configuration_says() -> None:
    names = sorted(entry.name for entry in (REPOSITORY / "adjust.d").iterdir() if entry.is_file())
    assert names == [ENVFILE, LIMITS]
    assert all(os.access(REPOSITORY / "adjust.d" / name, os.X_OK) for name in names)
    configured = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    assert set(configured) == {name.lstrip("0123456789") for name in names}
