"""SPEC 12.2, 12.12, 12.13: encoders, and drivers that were written for the older library."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.driverlib import INPUT, LIBRARY, Driver

if TYPE_CHECKING:
    from pathlib import Path


def test_settings_without_an_encoder_are_unchanged(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path,
        """
        def adjust(self, data):
            config = {"type": "range", "min": 1, "max": 8, "variable": "CPU"}
            settings = self.requested_settings()
            return {"settings": settings, "same": settings == self.requested_settings(data),
                    "value": self.encode_value_if_needed("cpu", config, settings["web"]),
                    "absent": self.encode_value_if_needed("mem", None, settings["web"]),
                    "described": self.encode_describe_if_needed("cpu", config, 2)}
        """,
    )
    components = {"web": {"settings": {"cpu": {"value": 4}, "mem": None}}, "db": {"settings": {}}, "x": None}
    assert driver.adjust({"application": {"components": components}}).reply == {
        "status": "ok",
        "settings": {"web": {"cpu": {"value": 4}}},
        "same": True,
        "value": 4,
        "absent": None,
        "described": {"cpu": {"type": "range", "min": 1, "max": 8, "value": 2}},
    }


USES_ENCODER = """
        config = {"encoder": {"name": "jvm"}}
        def query(self):
            return {"settings": self.encode_describe_if_needed("opts", self.config, "-Xmx4g")}
        def adjust(self, data):
            settings = self.requested_settings()["web"]
            return {"value": self.encode_value_if_needed("opts", self.config, settings, str)}
"""


def write_encoders(directory: Path, base: str) -> None:
    (directory / "encoders").mkdir()
    (directory / "encoders" / "base.py").write_text(textwrap.dedent(base), encoding="utf-8")


OWN_EXCEPTION = """
class EncoderException(BaseException): pass
class EncoderConfigException(EncoderException): pass
def encode(*args, **kw): raise EncoderConfigException("bad")
describe = encode
"""


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (None, "no-encoder"),
        ("def encode(*args, **kw): raise ValueError('bad')\ndescribe = encode\n", "encoder-failed"),
        (OWN_EXCEPTION, "encoder-failed"),
        (OWN_EXCEPTION + "encode()", "encoder-failed"),
    ],
    ids=["missing", "fails", "its own exception", "its own exception when it is imported"],
)
def test_a_missing_or_failing_encoder_is_the_reason(tmp_path: Path, base: str | None, reason: str) -> None:
    if base is not None:
        write_encoders(tmp_path, base)
    names = "def info(self): return {'names': self.get_oco_settings({'opts': self.config})}"
    driver = Driver(tmp_path, textwrap.dedent(USES_ENCODER) + names)
    # The first case shows it for all phases.
    others = (driver.run("--query", "app"), driver.run("--info")) if base is None else ()
    for done in (driver.adjust(), *others):
        assert (done.returncode, done.reply["status"]) == (1, "failed")
        assert done.reply["reason"] == reason
        assert "setting opts" in done.reply["message"]
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("raised", "reply"),
    [
        ("SystemExit(3)", None),
        ("KeyboardInterrupt", {"status": "aborted", "reason": "SIGINT"}),
        ("os.kill(os.getpid(), signal.SIGTERM)", {"status": "aborted", "reason": "SIGTERM"}),
        ("os.kill(os.getpid(), signal.SIGUSR1)", {"status": "canceled", "reason": "SIGUSR1"}),
    ],
)
def test_a_signal_during_an_encoder_is_not_a_failure_of_the_encoder(
    tmp_path: Path, raised: str, reply: dict[str, Any] | None
) -> None:
    act = raised if "kill" in raised else f"raise {raised}"
    write_encoders(tmp_path, f"import os, signal\ndef encode(*args, **kw): {act}; return 1, set()\n")
    done = Driver(tmp_path, USES_ENCODER).adjust()
    assert (done.lines or [{}])[-1].items() >= (reply or {}).items()
    assert done.stdout or reply is None


def test_an_exception_of_an_encoder_that_the_driver_calls_becomes_an_error(tmp_path: Path) -> None:
    write_encoders(tmp_path, OWN_EXCEPTION)
    methods = "def adjust(self, data): import encoders.base; encoders.base.encode()"
    done = Driver(tmp_path, methods).adjust()
    expected = {"status": "failed", "error": "EncoderConfigException", "class": "failure", "message": "bad"}
    assert (done.returncode, done.lines) == (1, [expected])


# What the older library has


JVM = {
    "encoder": {"name": "jvm", "settings": {"MaxHeapSize": {"min": 1, "max": 4, "step": 1}}},
    "default": "-Xmx2g",
}
ENCODERS = """
class EncoderException(BaseException): pass
def describe(config, value):
    if not value:
        raise EncoderException("no value to decode")
    return {"Described": {"value": value}}
"""


CONFIGURATIONS: list[tuple[Any, list[str]]] = [
    ({"settings": {"JAVA_OPTS": JVM, "cpu": {"min": 1}}}, ["Described", "cpu"]),
    ({"settings": {"opts": {"encoder": JVM["encoder"]}, "cpu": {}}}, ["MaxHeapSize", "cpu"]),
    (
        {
            "components": {
                "a": {"settings": {"cpu": {}, "mem": None}},
                "b": {"settings": {"cpu": {}}},
                "c": None,
            }
        },
        ["cpu", "mem"],
    ),
    ({"settings": {"mem": {}}, "components": {"a": {"settings": {"cpu": {}}}}}, ["mem", "cpu"]),
    ({"mem": {"min": 1}, "cpu": {}}, ["mem", "cpu"]),
    *(({"name": "x", "settings": None}, []), ({}, []), (None, [])),
]


def test_get_oco_settings_returns_the_names_that_a_configuration_defines(tmp_path: Path) -> None:
    write_encoders(tmp_path, ENCODERS)
    configs = [config for config, _ in CONFIGURATIONS]
    methods = f"def adjust(self, data): return {{'names': [self.get_oco_settings(c) for c in {configs!r}]}}"
    assert Driver(tmp_path, methods).adjust().reply["names"] == [names for _, names in CONFIGURATIONS]


@pytest.mark.parametrize("config", ["cpu", ["cpu"], {"settings": ["cpu"]}, {"components": {"a": 1}}])
def test_a_configuration_of_another_shape_is_refused(tmp_path: Path, config: Any) -> None:
    driver = Driver(tmp_path, f"def adjust(self, data): self.get_oco_settings({config!r})")
    reply = driver.adjust().reply
    assert (reply["status"], reply["reason"]) == ("failed", "bad-configuration")
    assert "must be a mapping" in reply["message"]


@pytest.mark.parametrize(
    ("init", "args", "found"),
    [
        ("early = self.args.app_id, self.app_id", ("app", "--dry"), [["app", "app"], True, "app"]),
        ("early = None; self.args = self.parser.parse_args(['x'])", ("app",), [None, None, "x"]),
        ("early = None; self.app_id = 'mine'", ("app", "--dry"), [None, True, "mine"]),
        ("early = self.args; early.dry = 'changed'", ("app", "--dry"), [None, "changed", "app"]),
        ("early = self.args; early.extra = 1", ("app", "--dry"), [None, True, "app"]),
    ],
)
def test_the_command_line_is_known_before_run_and_arguments_can_still_be_added(
    tmp_path: Path, init: str, args: tuple[str, ...], found: list[Any]
) -> None:
    driver = Driver(
        tmp_path,
        f"""
        def __init__(self, *args):
            super().__init__(*args)
            {init}
            self.early = early
            self.parser.add_argument("--dry", action="store_true")
        def adjust(self, data):
            kept = isinstance(self.early, (tuple, type(None)))
            assert kept or self.early is self.args
            early = self.early if kept else None
            return {{"found": [early, getattr(self.args, "dry", None), self.app_id]}}
        """,
    )
    assert driver.run(*args, data=INPUT).reply["found"] == found


def test_an_unknown_option_is_a_usage_error_even_if_args_was_used_before(tmp_path: Path) -> None:
    done = Driver(tmp_path, "def __init__(self, *args): super().__init__(*args); self.args").run(
        "app", "--dry"
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_an_attribute_of_the_class_does_not_hide_the_command_line(tmp_path: Path) -> None:
    methods = "args = app_id = None\ndef adjust(self, data): return {'app': [self.args.app_id, self.app_id]}"
    assert Driver(tmp_path, methods).adjust().reply["app"] == ["app", "app"]


@dataclass(frozen=True)
class Row:
    """A driver that uses one name of the older library, and what it must print."""

    methods: str
    lines: list[dict[str, Any]]
    args: tuple[str, ...] = ("app",)
    returncode: int = 0
    interval: float | None = None


OK = {"status": "ok"}

WAITS_FOR_PROGRESS = """
    beats = 0
    def print_progress(self, *args, **kwargs):
        self.beats += 1
    def wait_for_beats(self, number):
        end = self.beats + number
        while self.beats < end:
            time.sleep(0.001)
"""

OLDER_LIBRARY = {
    "Adjust": Row(
        """
    _process = _fail = _run = _answer = "names that the new library uses too"
    def adjust(self): return {"got": [self.version, self.cli_desc, self.supports_cancel]}
    """,
        [{**OK, "got": ["1.2", "a driver of the tests", True]}],
    ),
    "run": Row("def run(self): print('{}', flush=True); Adjust.run(self)\ndef adjust(self): pass", [{}, OK]),
    "parser": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.parser.add_argument("--config", default="here")
    def adjust(self): return {"config": self.args.config}
    """,
        [{**OK, "config": "there"}],
        ("--config", "there", "app"),
    ),
    "args": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.early = self.args.app_id
    def adjust(self): return {"early": self.early}
    """,
        [{**OK, "early": "app"}],
    ),
    "app_id": Row(
        """
    def __init__(self, *args):
        Adjust.__init__(self, *args)
        self.early = self.app_id
    def adjust(self): return {"early": self.early}
    """,
        [{**OK, "early": "app"}],
    ),
    "input_data": Row("def adjust(self): return {'got': self.input_data}", [{**OK, "got": INPUT}]),
    "progress": Row("def adjust(self): self.progress = 30; self.print_progress()", [{"progress": 30}, OK]),
    "progress_message": Row(
        "def adjust(self): self.progress_message = 'now'; self.print_progress()",
        [{"progress": 0, "message": "now"}, OK],
    ),
    "print_progress": Row(
        "def adjust(self): self.print_progress('half', 2, 'restart', 50)",
        [{"progress": 0, "message": "half", "msg_index": 2, "stage": "restart", "stageprogress": 50}, OK],
    ),
    "timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.wait_for_beats(3)
        self.timer.cancel()
        self.timer.join()
    """,
        [OK],
        interval=0.01,
    ),
    "start_progress_timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.start_progress_timer()
        none = self.timer is None
        self.progress_interval = 0.01
        self.start_progress_timer()
        self.start_progress_timer()
        self.wait_for_beats(3)
        assert threading.active_count() == 2, threading.enumerate()
        return {"none": none}
    """,
        [{**OK, "none": True}],
    ),
    "stop_progress_timer": Row(
        WAITS_FOR_PROGRESS
        + """
    def adjust(self):
        self.wait_for_beats(1)
        timer = self.timer
        self.stop_progress_timer()
        self.stop_progress_timer()
        timer.join()
        none = self.timer is None
        self.start_progress_timer()
        self.wait_for_beats(1)
        return {"none": none}
    """,
        [{**OK, "none": True}],
        interval=0.01,
    ),
    "query": Row(
        "def query(self): return {'components': {'web': {}}}",
        [{"application": {"components": {"web": {}}}}],
        ("--query", "app"),
    ),
    "adjust": Row("def adjust(self): return {'state': 1}", [{**OK, "state": 1}]),
    "info": Row(
        "def info(self): return {'version': self.version, 'x': 1}",
        [{"version": "1.2", "has_cancel": True, "x": 1}],
        ("--info",),
    ),
    "handle_cancel": Row(
        """
    def handle_cancel(self, signal, frame):
        raise AdjustError("gave up", status="aborted", reason="canceled")
    def adjust(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        idle()
    """,
        [{"status": "aborted", "reason": "canceled", "message": "gave up"}],
        returncode=1,
    ),
    "debug": Row("def adjust(self): self.debug('a', 1, None)", [OK]),
    "_print_json_error": Row(
        "def adjust(self): self._print_json_error('E', 'c', 'm', 'rejected', 'r'); sys.exit(3)",
        [{"status": "rejected", "error": "E", "class": "c", "message": "m", "reason": "r"}],
        returncode=3,
    ),
    "get_oco_settings": Row(
        "def adjust(self): return {'names': self.get_oco_settings({'settings': {'mem': {}, 'cpu': {}}})}",
        [{**OK, "names": ["mem", "cpu"]}],
    ),
    "encode_value_if_needed": Row(
        """
    def adjust(self):
        settings = self.input_data["application"]["components"]["web"]["settings"]
        config = {"encoder": {"name": "twice"}}
        return {"encoded": self.encode_value_if_needed("opts", config, settings, expected_type=str),
                "plain": self.encode_value_if_needed("cpu", {"min": 1}, settings)}
    """,
        [{**OK, "encoded": "8", "plain": 4}],
    ),
    "encode_describe_if_needed": Row(
        """
    def query(self):
        settings = self.encode_describe_if_needed("opts", {"encoder": {"name": "twice"}}, "8")
        settings.update(self.encode_describe_if_needed("mem", {"min": 1}, 2))
        return {"settings": settings}
    """,
        [{"application": {"settings": {"cpu": {"value": 4}, "mem": {"min": 1, "value": 2}}}}],
        ("--query", "app"),
    ),
    "EncoderException": Row(
        """
    def query(self):
        self.encode_describe_if_needed("opts", {"encoder": {}}, None)
        return self.encode_describe_if_needed("opts", {"encoder": {"name": "twice"}}, None)
    """,
        [
            {
                "status": "failed",
                "reason": "encoder-failed",
                "message": "setting opts: its encoder cannot describe None: no value",
            }
        ],
        ("--query", "app"),
        returncode=1,
    ),
    "_run_command": Row(
        "def adjust(self): return {'printed': self._run_command('[[ a = a ]] && echo bash', pre=True)}",
        [{**OK, "printed": "bash\n"}],
    ),
    "AdjustError": Row(
        "def adjust(self): raise AdjustError('no', status='rejected', reason='r')",
        [{"status": "rejected", "reason": "r", "message": "no"}],
        returncode=1,
    ),
    "print_json_error": Row(
        """
    def adjust(self):
        from adjust import print_json_error
        print_json_error("E", "c", "m")
        print_json_error("E", "c", "m", "aborted", "r")
        self.print_json_error("E", "c", "m")
        self.print_json_error(error="E", cl="c", message="m", status="aborted", reason="r")
    """,
        [
            {"status": "failed", "error": "E", "class": "c", "message": "m"},
            {"status": "aborted", "error": "E", "class": "c", "message": "m", "reason": "r"},
        ]
        * 2
        + [OK],
    ),
    "run_and_track": Row(
        """
    def adjust(self):
        from util import run_and_track
        bad = run_and_track("./inner", "bad", data=self.input_data)
        good = run_and_track("./inner", "good", data=self.input_data, progress_cb=lambda _: print("{}"))
        return {"children": [bad, good]}
    """,
        [{}, {**OK, "children": [{"status": "failed", "reason": "bad", "message": "no"}, {"status": "ok"}]}],
    ),
    "run_and_track_cancel": Row(
        """
    def adjust(self):
        from util import run_and_track, run_and_track_cancel
        return {"child": run_and_track("./inner", "waits", progress_cb=lambda _: run_and_track_cancel())}
    """,
        [
            {
                **OK,
                "child": {
                    "status": "canceled",
                    "reason": "asked",
                    "message": "./inner replied with the status canceled",
                },
            }
        ],
    ),
    "run_and_track_terminate": Row(
        """
    def adjust(self):
        from util import run_and_track, run_and_track_terminate
        return {"child": run_and_track("./inner", "waits", progress_cb=lambda _: run_and_track_terminate())}
    """,
        [{**OK, "child": {"status": "failed", "reason": "terminated", "message": "./inner was stopped"}}],
    ),
    "g_args": Row(
        """
    def adjust(self):
        import util
        util.g_args.verbose = True
        return util.run_and_track("./inner", "good")
    """,
        [OK],
    ),
}
"""What docs/writing-drivers.md lists, row by row."""

OLDER_ENCODERS = """
class EncoderException(BaseException): pass
def encode(config, values, expected_type=None):
    return expected_type(values["cpu"]["value"] * 2), {"cpu"}
def describe(config, value):
    if value is None:
        raise EncoderException("no value")
    return {"cpu": {"value": int(value) // 2}}
"""

OLDER_CHILD = """#!/bin/sh
trap 'echo "{\\"status\\":\\"canceled\\",\\"reason\\":\\"asked\\"}"; exit 1' USR1
echo '{"progress":1}'
case $1 in
good) echo '{"status":"ok"}' ;;
bad) echo '{"status":"failed","reason":"bad","message":"no"}'; exit 1 ;;
waits) while :; do sleep 0.02; done ;;
esac
"""


@pytest.mark.parametrize("name", OLDER_LIBRARY)
def test_a_driver_that_uses_the_older_library_runs_unchanged(tmp_path: Path, name: str) -> None:
    row = OLDER_LIBRARY[name]
    write_encoders(tmp_path, OLDER_ENCODERS)
    (tmp_path / "inner").write_text(OLDER_CHILD, encoding="utf-8")
    (tmp_path / "inner").chmod(0o755)
    done = Driver(tmp_path, row.methods, progress_interval=row.interval).run(*row.args, data=INPUT)
    assert (done.returncode, done.lines) == (row.returncode, row.lines), done.stderr


def test_the_table_of_the_older_library_has_a_test_for_each_row() -> None:
    page = (LIBRARY.parent.parent / "docs" / "writing-drivers.md").read_text(encoding="utf-8")
    section = page.split("## Drivers for the older library\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([A-Za-z_]+)", section, re.MULTILINE)
    assert rows == list(OLDER_LIBRARY)
