"""SPEC 14.7-14.17: `--check` finds what is wrong with a servo directory, and what to do about it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.servo import REPOSITORY, on_stderr
from tests.support.sources import answer_script, without_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.servo import Completed, ServoDirectory

ALONE = (
    'ask the drivers one at a time: set serial: ["*"] in section agg of config.yaml, or list only the drivers'
    " that disturb one another; if this driver is only slower while others run, raise OPTUNE_IO_TIMEOUT"
    " instead"
)

LOCKED = """\
#!/bin/sh
. ./behave.sh
if [ "$phase" = query ]; then
    refused=
    mkdir clone 2>/dev/null || refused=yes
    : >"clone/$name"
    if [ -n "$refused" ]; then echo 'the clone is in use' >&2; exit 4; fi
    set -- adjust.d/*git
    all=$# waited=0
    while set -- clone/*; [ "$#" -lt "$all" ] && [ "$waited" -lt 8 ]; do
        sleep 0.25
        waited=$((waited + 1))
    done
    rm -r clone
fi
behave
"""
"""A driver that cannot be queried beside another of its kind."""


def checked(servo: ServoDirectory, env: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Return the result of `--check app --json`."""
    completed = servo.run("--check", "app", "--json", env=env)
    (final,) = completed.messages
    assert completed.returncode == (0 if final["status"] == "ok" else 1), completed
    assert completed.stderr == b"" or not final["drivers"], completed
    return final


def normalized(completed: Completed) -> str:
    """Return the text of a check with placeholders for times and PYTHONPATH."""
    text = completed.stdout.decode()
    text = re.sub(r"PYTHONPATH=.*", "PYTHONPATH=PATHS", text)
    return re.sub(r"( +)\d\.\d{3}\b", lambda found: "0.000".rjust(len(found[0])), text)


class Mistake(NamedTuple):
    """A mistake in a servo directory, and what a check must say of it."""

    make: Callable[[ServoDirectory], object]
    what: tuple[str, ...]
    """The start of each problem."""
    remedy: str | None
    """Of each problem; None if they differ."""
    drivers: tuple[str, ...] = ()
    """Of the first problem."""
    verdict: str = "ok"
    """Of these drivers; all others are ok."""
    env: Mapping[str, str | None] = {}


def script(name: str, source: str) -> Callable[[ServoDirectory], object]:
    return lambda servo: servo.add_script(name, source)


def behaving(test: str, reaction: str) -> str:
    """Return the source of a driver that runs `reaction` if a shell test fails, and then behaves well."""
    return f"#!/bin/sh\n{test} || {reaction}\n. ./behave.sh\nbehave\n"


def add_conflict(servo: ServoDirectory) -> None:
    for name in ("10a", "20b", "30c"):
        servo.add(name, "plain", component="web")
    servo.add("40d", "plain", component="db")


def add_broken_links(servo: ServoDirectory) -> None:
    for name in ("10a", "20b", ".#30c"):
        (servo.drivers / name).symlink_to("nowhere")


def make_all_executable(servo: ServoDirectory) -> None:
    for name in ("Makefile", "README.md", ".gitkeep"):
        servo.add_script(name, "")


def configure(text: str) -> Callable[[ServoDirectory], object]:
    return lambda servo: servo.configure(f"agg:\n  {text}\n")


def nothing(_: ServoDirectory) -> None:
    pass


ONLY_JSON = "only JSON objects may go to its stdout"
FIX = "fix this; every operation fails until then"
NO_INTERPRETER = "cannot be started: its interpreter /opt/py/bin/python3 does not exist"
CR_LF = "cannot be started: its first line ends in CR LF (Windows line endings);"
VARIABLE = "the environment variable"

MISTAKES = {
    "no interpreter": Mistake(
        script("20bad", "#!/opt/py/bin/python3\n"),
        (f"on --info: {NO_INTERPRETER}",),
        "fix that, then verify with: adjust.d/20bad --info app",
        ("20bad",),
        "cannot-start",
    ),
    "CR LF": Mistake(
        script("20 bad", "#!/bin/sh\r\n"),
        (f"on --info: {CR_LF}",),
        "fix that, then verify with: 'adjust.d/20 bad' --info app",
        ("20 bad",),
        "cannot-start",
    ),
    "exit 1 on info": Mistake(
        script("20bad", behaving('[ "$1" != --info ]', "exit 1")),
        ("on --info: exited with status 1, gave no reply",),
        "run it by hand: adjust.d/20bad --info app",
        ("20bad",),
        "exit-status",
    ),
    "no version": Mistake(
        script("20bad", behaving('[ "$1" != --info ]', "{ echo {}; exit; }")),
        ("on --info: its reply has no version",),
        f"run it by hand: adjust.d/20bad --info app; {ONLY_JSON}",
        ("20bad",),
        "malformed",
    ),
    "malformed query": Mistake(
        lambda servo: servo.add("20bad", "malformed", when="query"),
        ("on --query: printed a line that is not JSON: 'Warning: the context was not set",),
        f"run it by hand: adjust.d/20bad --query app; {ONLY_JSON}",
        ("20bad",),
        "malformed",
    ),
    "hangs": Mistake(
        lambda servo: servo.add("20bad", "silent", when="query"),
        ("on --query: did not answer within 2 s and was stopped",),
        "run it by hand: adjust.d/20bad --query app; find out what it waits for, or raise OPTUNE_IO_TIMEOUT",
        ("20bad",),
        "timeout",
        {"OPTUNE_IO_TIMEOUT": "3"},
    ),
    "conflict": Mistake(
        add_conflict,
        ("only one driver may describe a setting, but 10a, 20b and 30c describe web.cpu and web.inst_type",),
        "rename the component in all but one of them, or remove the setting from their descriptions",
        ("10a", "20b", "30c"),
        "conflict",
    ),
    "wrong values": Mistake(
        configure("grace: soon\n  paralel: 3"),
        (
            "config.yaml, line 2: agg.grace is the string 'soon', expected a number",
            "config.yaml, line 3: unknown key 'paralel' (value 3) in section agg; did you mean",
        ),
        FIX,
    ),
    "not YAML": Mistake(configure("{"), ("config.yaml is not valid YAML at line 3, column 1",), FIX),
    "wrong timeout": Mistake(
        nothing,
        (f"{VARIABLE} OPTUNE_IO_TIMEOUT must be a decimal number of",),
        FIX,
        env={"OPTUNE_IO_TIMEOUT": "30s"},
    ),
    "unknown word": Mistake(
        nothing,
        (f"{VARIABLE} OPTUNE_VERBOSE_STDERR must be all, minimal or none (any other word is treated",),
        "set OPTUNE_VERBOSE_STDERR to one of these words (did you mean all?), or unset it to get the default,"
        ' "all"',
        env={"OPTUNE_VERBOSE_STDERR": "All"},
    ),
    "patterns without a driver": Mistake(
        configure("serial: ['50*', '60*']\n  complete: ['50good~']"),
        (
            "config.yaml: a pattern of agg.serial matches no driver: '60*'",
            "config.yaml: a pattern of agg.complete matches no driver: '50good~'",
        ),
        "fix or remove it; the drivers are 50good",
    ),
    "broken links": Mistake(
        add_broken_links,
        ("adjust.d/10a is a link to nowhere, which does not exist; adjust.d/20b is a link to nowhere, ",),
        "fix or remove these entries",
    ),
    "all files executable": Mistake(
        make_all_executable,
        (
            "on --info: cannot be started: it has no #! line",
            "every file in adjust.d is executable (the volume may force one mode on all files), so",
        ),
        None,
        ("Makefile",),
        "cannot-start",
    ),
    "driver that any user may write to": Mistake(
        lambda servo: (servo.drivers / "50good").chmod(0o777),
        ("adjust.d/50good is world-writable and runs as the agent's user",),
        "chmod o-w adjust.d/50good",
        ("50good",),
        "writable",
    ),
    "log in a directory that does not exist": Mistake(
        configure("log: logs/agg.log"),
        ("the log logs/agg.log cannot be written: ",),
        "as agg.log in config.yaml, name a file that the agent's user may write to",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_each_mistake_is_a_problem_with_a_remedy(servo: ServoDirectory, mistake: Mistake) -> None:
    servo.add("50good", "plain", component="good")
    mistake.make(servo)
    final = checked(servo, mistake.env)
    assert final["status"] == "failed"
    problems = final["problems"]
    assert len(problems) == len(mistake.what), problems
    for problem, what in zip(problems, mistake.what):
        assert problem["what"].startswith(what)
        assert mistake.remedy in (None, problem["remedy"])
    assert tuple(problems[0]["drivers"]) == mistake.drivers
    for row in final["drivers"]:
        assert row["verdict"] == (mistake.verdict if row["driver"] in mistake.drivers else "ok"), row


@pytest.mark.parametrize("writable", ["adjust", "servo_agg/config.py", "."])
def test_the_installed_program_that_adjust_links_to_is_examined(servo: ServoDirectory, writable: str) -> None:
    servo.add("50good", "plain")
    installed = servo.path.parent / "installed"
    installed.mkdir()
    shutil.copy(REPOSITORY / "adjust", installed)
    # Other workers write bytecode to files of these names, and rename them.
    shutil.copytree(
        REPOSITORY / "servo_agg", installed / "servo_agg", ignore=shutil.ignore_patterns("*.pyc.*")
    )
    (servo.path / "adjust").unlink()
    (servo.path / "adjust").symlink_to(installed / "adjust")
    path = installed / writable
    path.chmod(0o757)
    (problem,) = checked(servo)["problems"]
    assert str(path) in problem["what"]
    assert "world-writable" in problem["what"]
    assert problem["remedy"] == f"chmod o-w {shlex.quote(str(path))}"


def test_a_correct_servo_directory_has_no_problem(servo: ServoDirectory) -> None:
    servo.add("01ec2asg", "plain", component="web", version="1.3", has_cancel=True)
    servo.add("02größe", "plain", component="db", settings='"x": {"value": 1}')
    completed = servo.run("--check", "app")
    assert completed.returncode == 0
    assert completed.stderr == b""
    assert normalized(completed) == textwrap.dedent(
        """\
        driver    version  cancel  seconds  settings  verdict
        01ec2asg  1.3      yes       0.000         2  ok
        02größe   1.0      no        0.000         1  ok

        no problem found; 2 of 2 drivers ok
        """
    )


def test_the_text_shows_all_drivers_problems_and_remarks(servo: ServoDirectory) -> None:
    for number in range(1, 6):
        servo.add(f"{number}good", "plain", component=f"c{number}")
    servo.add("6same", "plain", component="c5")
    servo.add_script("7bad", "#!/bin/sh\r\n")
    servo.add_script("8bad", "#!/bin/sh\nseq -f 'line %g' 30 >&2\nexit 1\n")
    (servo.drivers / "README.md").write_text("", encoding="utf-8")
    (servo.drivers / "library.py").write_text("", encoding="utf-8")
    completed = servo.run("--check", "app")
    assert completed.returncode == 1
    assert completed.stderr == b""
    assert normalized(completed) == textwrap.dedent(
        """\
        driver  version  cancel  seconds  settings  verdict
        1good   1.0      no        0.000         2  ok
        2good   1.0      no        0.000         2  ok
        3good   1.0      no        0.000         2  ok
        4good   1.0      no        0.000         2  ok
        5good   1.0      no        0.000         2  conflict
        6same   1.0      no        0.000         2  conflict
        7bad    -        -             -         -  cannot-start
        8bad    -        -         0.000         -  exit-status

        problem 1: 7bad: on --info: cannot be started: its first line ends in CR LF (Windows line endings); save it with LF line endings
            remedy: fix that, then verify with: adjust.d/7bad --info app

        problem 2: 8bad: on --info: exited with status 1, gave no reply; stderr: line 1
            line 2
            line 3
            line 4
            ... 18 lines omitted; --json shows them ...
            line 23
            line 24
            line 25
            line 26
            line 27
            line 28
            line 29
            line 30
            remedy: run it by hand: adjust.d/8bad --info app

        problem 3: only one driver may describe a setting, but 5good and 6same describe c5.cpu and c5.inst_type
            remedy: rename the component in all but one of them, or remove the setting from their descriptions

        remark: to run a driver by hand, first set its module path: export PYTHONPATH=PATHS
        remark: ignored (not executable): README.md and library.py; to make a script a driver, add a #! line and run: chmod +x adjust.d/NAME
        3 problems found; 4 of 8 drivers ok
        """  # noqa: E501 - what is printed is as long as that
    )


def test_without_app_only_info_is_requested(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    completed = servo.run("--check")
    assert completed.returncode == 0
    assert normalized(completed) == textwrap.dedent(
        """\
        driver  version  cancel  seconds  settings  verdict
        01a     1.0      no        0.000         -  ok

        remark: settings were not checked; to check them, run: ./adjust --check APP
        no problem found; 1 of 1 driver ok
        """
    )
    assert {event.phase for event in servo.log()} == {"info"}


def test_the_json_is_complete(servo: ServoDirectory) -> None:
    servo.add("01a", "plain", component="web", has_cancel=True)
    servo.add_script("02b", "#!/bin/sh\nseq 1000 >&2\nexit 1\n")
    (servo.drivers / "03c").write_text("", encoding="utf-8")
    final = checked(servo)
    for row in final["drivers"]:
        assert isinstance(row.pop("seconds"), float)
    (problem,) = final.pop("problems")
    remarks = final.pop("remarks")
    assert final == {
        "status": "failed",
        "directory": str(servo.path),
        "application": "app",
        "drivers": [
            {"driver": "01a", "version": "1.0", "has_cancel": True, "settings": 2, "verdict": "ok"},
            {
                "driver": "02b",
                "version": None,
                "has_cancel": None,
                "settings": None,
                "verdict": "exit-status",
            },
        ],
    }
    assert problem["drivers"] == ["02b"]
    assert problem["what"].splitlines()[1:] == [str(number) for number in range(2, 1001)]
    (setting,) = shlex.split(remarks[0].partition("export ")[2])
    library = setting.rpartition(":")[2]
    assert os.path.isfile(os.path.join(library, "adjust.py"))
    assert remarks[1].startswith("ignored (not executable): 03c;")


def test_all_drivers_are_queried_even_if_some_fail(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01bad", "exit3", when="info query")
    servo.add("02good", "plain")
    servo.add("03bad", "malformed", when="info query")
    servo.add("04good", "plain")
    rows = {row["driver"]: row["verdict"] for row in checked(servo)["drivers"]}
    assert rows == {"01bad": "exit-status", "02good": "ok", "03bad": "malformed", "04good": "ok"}
    good = [(event.name, event.phase) for event in servo.log() if event.what == "start"]
    assert {pair for pair in good if "good" in pair[0]} == {
        (name, phase) for name in ("02good", "04good") for phase in ("info", "query")
    }


def test_serial_is_suggested_for_a_driver_that_fails_beside_others(servo: ServoDirectory) -> None:
    for name in ("10git", "20git"):
        servo.add_script(name, LOCKED)
    final = checked(servo)
    (problem,) = final["problems"]
    assert problem["what"].startswith(
        "fails when asked together with the others, but answers when asked alone: on --query: exited with"
    )
    verdicts = {row["driver"]: row["verdict"] for row in final["drivers"]}
    # Which of the two comes too late varies.
    assert sorted(verdicts.values()) == ["alone only", "ok"]
    assert problem["drivers"] == [name for name in verdicts if verdicts[name] == "alone only"]
    assert problem["remedy"] == ALONE
    servo.configure('agg: {serial: ["*"]}')
    assert checked(servo)["problems"] == []


@pytest.mark.parametrize("operation", ["info", "query"])
def test_a_driver_that_fails_once_is_unsteady(servo: ServoDirectory, operation: str) -> None:
    if operation == "info":
        servo.configure("agg: {parallel: 1}")
    test = f"[ $1 != --{operation} ] || ! mkdir seen 2>/dev/null"
    servo.add_script("01a", behaving(f"{{ {test}; }}", "exit 1"))
    servo.add("02b", "plain")
    final = checked(servo)
    (problem,) = final["problems"]
    assert problem["what"].startswith(
        f"failed the first time it was asked, but answered the second time: on --{operation}: exited"
    )
    assert problem["remedy"] == f"run it by hand several times: adjust.d/01a --{operation} app"
    assert [row["verdict"] for row in final["drivers"]] == ["unsteady", "ok"]


def test_a_failing_inner_driver_is_a_problem(servo: ServoDirectory) -> None:
    info = {
        "version": "aggregator 2.0.0 (unknown)",
        "has_cancel": True,
        "drivers": {"03bad": {"version": "unknown", "has_cancel": False, "message": "exited with status 3"}},
    }
    servo.add_script("10inner", answer_script(info))
    completed = servo.run("--check", "--json")
    assert completed.returncode == 1
    (problem,) = completed.messages[0]["problems"]
    assert problem["drivers"] == ["10inner"]
    assert problem["what"] == "its inner driver 03bad fails: exited with status 3"


@pytest.mark.full
def test_with_a_longer_timeout_each_driver_has_30_s_even_in_turn(servo: ServoDirectory) -> None:
    # Together they take longer than the limit of one driver.
    servo.configure("agg: {parallel: 1}")
    for name in ("01a", "02b", "03c"):
        servo.add(name, "slow", seconds=11)
    completed = servo.run("--check", "app", env={"OPTUNE_IO_TIMEOUT": "120"}, timeout=90)
    assert completed.returncode == 0, completed
    assert completed.seconds > 33


@pytest.mark.full
def test_without_a_timeout_a_silent_driver_is_found(servo: ServoDirectory) -> None:
    servo.add("01hangs", "silent", when="info")
    servo.add_script(
        "02talks",
        '#!/bin/sh\n[ "$1" = --info ] || . ./behave.sh\n[ "$1" = --info ] || behave\n'
        "while :; do echo '{\"progress\":1}'; sleep 1; done\n",
    )
    completed = servo.run("--check", "--json", timeout=200)
    (final,) = completed.messages
    hung, talking = final["problems"]
    assert hung["what"] == "on --info: did not answer within 30 s and was stopped"
    assert hung["drivers"] == ["01hangs"]
    assert talking["drivers"] == ["02talks"]


def test_an_empty_adjust_d_is_a_problem(servo: ServoDirectory) -> None:
    (servo.drivers / "01 ec2asg").write_text("#!/bin/sh\n", encoding="utf-8")
    (servo.drivers / "02b").write_text("#!/bin/sh\n", encoding="utf-8")
    completed = servo.run("--check", "app")
    assert completed.returncode == 1
    assert completed.stderr == b""
    assert completed.stdout.decode() == textwrap.dedent(
        f"""\
        problem 1: no driver in {servo.path}/adjust.d
            remedy: add executable files, or make the files there executable: chmod +x 'adjust.d/01 ec2asg' adjust.d/02b

        1 problem found; 0 of 0 drivers ok
        """  # noqa: E501 - what is printed is as long as that
    )
    subprocess.run(
        ["sh", "-c", completed.stdout.decode().partition("executable: ")[2].split("\n")[0]],
        cwd=servo.path,
        check=True,
    )
    assert [row["driver"] for row in checked(servo)["drivers"]] == ["01 ec2asg", "02b"]


def test_a_missing_adjust_d_is_a_failure(servo: ServoDirectory) -> None:
    servo.drivers.rmdir()
    completed = servo.run("--check", "app")
    assert (completed.returncode, completed.stdout) == (1, b"")
    sentence = (
        f"{servo.path}/adjust.d does not exist; run adjust in the servo directory, which holds adjust.d"
    )
    assert completed.stderr.decode() == on_stderr(f"adjust: {sentence}\n")
    (final,) = servo.run("--check", "--json").messages
    assert (final["reason"], final["message"]) == ("no-adjust-d", sentence)


@pytest.mark.parametrize(
    ("line", "module", "remedy", "by"),
    [
        (
            "#!/usr/bin/python3 -u",
            "boto3",
            "boto3 for /usr/bin/python3: /usr/bin/python3 -m pip install boto3",
            "stderr",
        ),
        (
            "#!/usr/bin/env python3",
            "yaml.nodes",
            "PyYAML for python3: python3 -m pip install PyYAML",
            "reply",
        ),
        ("#!/usr/bin/env -S python3 -u", "a.b.c", "a for python3: python3 -m pip install a", "stderr"),
        ("#!/bin/sh", "boto3", "boto3 for the Python interpreter that it uses", "stderr"),
        ("#!/bin/sh", "boto3", "boto3 for the Python interpreter that it uses", "reply"),
    ],
)
def test_a_missing_module_is_to_be_installed_for_the_interpreter_of_the_driver(
    servo: ServoDirectory, line: str, module: str, remedy: str, by: str
) -> None:
    if "python" in line:
        report = "sys.exit(f'Traceback:\\n  File x\\nModuleNotFoundError: {text}')"
        if by == "reply":
            report = "print(json.dumps({'status': 'failed', 'message': text})), sys.exit(1)"
        source = f'import json, sys\ntext = "No module named {module!r}"\n{report}\n'
    elif by == "stderr":
        source = f"echo \"ImportError: No module named '{module}'\" >&2; exit 1\n"
    else:
        source = f'echo \'{{"status":"failed","message":"No module named \'\\\'{module}\\\'\'"}}\'; exit 1\n'
    servo.add_script("01a", f"{line}\n{source}")
    (problem,) = checked(servo)["problems"]
    assert problem["remedy"] == f"install {remedy}"


def test_a_missing_pyyaml_is_a_problem_with_the_command_that_installs_it(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.configure("agg: {grace: 5}")
    (problem,) = checked(servo, env=without_modules(servo, "yaml"))["problems"]
    assert problem["what"].endswith(", but PyYAML, which is needed to read it, is missing")
    assert re.fullmatch(
        r"install PyYAML: .+ -m pip install PyYAML; every operation fails until then", problem["remedy"]
    )


def test_ignored_files_are_remarks(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    for name in ("01a~", "README.md"):
        servo.add_script(name, "")
    (servo.drivers / ".gitkeep").write_text("", encoding="utf-8")
    final = checked(servo)
    assert final["problems"] == []
    assert final["remarks"] == [
        ("ignored (named like a backup copy or hidden): 01a~; to make one a driver, rename it"),
        "ignored (named like a document, and without a #! line): README.md",
    ]


def test_twenty_mistakes_in_the_section_are_reported(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.configure("agg:\n" + "".join(f"  key{number}: 1\n" for number in range(20_000)))
    problems = checked(servo)["problems"]
    assert len(problems) == 20
    assert "'key0'" in problems[0]["what"]


def test_a_missing_psutil_is_a_problem_beside_the_others(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.add("02b", "exit3", when="query")
    final = checked(servo, env=without_modules(servo, "psutil"))
    failing, missing = final["problems"]
    assert failing["drivers"] == ["02b"]
    assert missing["drivers"] == []
    assert re.search(r"the Python package psutil.*is missing or broken \(.*\)$", missing["what"])
    assert missing["remedy"].endswith("-m pip install --upgrade psutil; every adjust fails until then")
    assert [row["verdict"] for row in final["drivers"]] == ["ok", "exit-status"]


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_sigterm_ends_a_check_and_its_drivers(servo: ServoDirectory, json: tuple[str, ...]) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add("01a", "stubborn", when="query")
    servo.add("02b", "plain")
    with servo.start("--check", "app", *json) as program:
        servo.pids("01a", "leader", "child", "grandchild")
        program.send_signal(signal.SIGTERM)
        completed = program.finish()
    assert completed.returncode == 128 + signal.SIGTERM
    if json:
        assert completed.reply["reason"] == "SIGTERM"
    else:
        assert completed.stdout == b""
        assert re.fullmatch(
            rb"adjust: terminated by SIGTERM; 01a had not answered --query for \d+\.\d s;"
            rb" all drivers were stopped\n",
            completed.stderr,
        )


def test_a_check_ends_when_its_reader_leaves(servo: ServoDirectory) -> None:
    servo.add("01a", "silent", when="info")
    with servo.start("--check") as program:
        servo.pids("01a", "leader", "child")
        program.stdout.close()
        assert program.process.wait(10) == 1


def test_control_characters_of_drivers_are_escaped(servo: ServoDirectory) -> None:
    servo.add_script("01a", answer_script({"version": "1\x1b[31m\n2", "application": {}}))
    servo.add_script("02\x1b[2Jb", "#!/bin/sh\nprintf 'a\\033[31m\\r\\n' >&2\nexit 1\n")
    text = servo.run("--check", "app").stdout.decode()
    places = text.replace(str(REPOSITORY), "").replace(str(servo.path), "")
    assert re.sub(r"[\n -~]", "", places) == ""
    assert "\n01a         1\\x1b[31m 2  no  " in text
    assert (
        "\nproblem 1: 02\\x1b[2Jb: on --info: exited with status 1, gave no reply; stderr: a\\x1b[31m" in text
    )


def test_a_check_asks_a_hung_driver_once_and_ends_in_time(servo: ServoDirectory) -> None:
    hung = [f"{number:02}silent" for number in range(10)]
    for name in hung:
        servo.add(name, "silent", when="info query")
    servo.add("10plain", "plain")
    completed = servo.run("--check", "app", "--json", env={"OPTUNE_IO_TIMEOUT": "3"})
    verdicts = {row["driver"]: row["verdict"] for row in completed.reply["drivers"]}
    assert verdicts == {**dict.fromkeys(hung, "timeout"), "10plain": "ok"}
    started = [event.name for event in servo.log() if event.what == "start"]
    assert sorted(started) == [*hung, "10plain", "10plain"]
    assert completed.seconds < 2 * 2 + 5


def test_the_second_attempts_of_a_check_are_limited_together(servo: ServoDirectory) -> None:
    for name in ("01", "02", "03", "04", "05"):
        servo.add_script(
            name,
            """\
            #!/bin/sh
            [ -e "asked.$0" ] && exec sleep 60
            mkdir -p asked.adjust.d; touch "asked.$0"
            exit 3
            """,
        )
    completed = servo.run("--check", "--json", env={"OPTUNE_IO_TIMEOUT": "20"})
    assert [row["verdict"] for row in completed.reply["drivers"]] == ["exit-status"] * 5
    assert completed.seconds < 12


def test_a_script_without_the_executable_flag_is_a_problem(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.add_script("02b", "#!/bin/sh\n").chmod(0o644)
    (problem,) = checked(servo)["problems"]
    assert problem["what"].startswith("scripts that are not run as drivers, ")
    assert problem["what"].endswith(": 02b")
    assert problem["remedy"].startswith("chmod +x adjust.d/02b;")
