"""SPEC 14: `--check` finds what is wrong with a servo directory, and says what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import textwrap
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.processes import environment, wait_until
from tests.servo import REPOSITORY, on_stderr
from tests.sources import describing
from tests.test_what_the_agent_gets import without

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.servo import Completed, ServoDirectory

ALONE = (
    'in config.yaml, section agg, serial: ["*"] has them asked one at a time; rather than * give the names of'
    " those that are in each other's way, if you know them. If it only needs longer beside them, raise"
    " OPTUNE_IO_TIMEOUT"
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


def checked(servo: ServoDirectory, *more: str, env: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Give what `--check app --json` says; exit status and stderr are looked at."""
    completed = servo.run("--check", "app", "--json", *more, env=env)
    (final,) = completed.messages
    assert completed.returncode == (0 if final["status"] == "ok" else 1), completed
    assert completed.stderr == b"" or "-v" in more or not final["drivers"], completed
    return final


def shown(completed: Completed) -> str:
    """Give the text of a check, its times, and the directory of drivers' libraries, made the same."""
    text = completed.stdout.decode()
    text = re.sub(r"PYTHONPATH=.*", "PYTHONPATH=PLACES", text)
    return re.sub(r"( +)\d\.\d{3}\b", lambda found: "0.000".rjust(len(found[0])), text)


class Fault(NamedTuple):
    """A way in which a servo directory can be broken, and what a check is to say of it."""

    prepare: Callable[[ServoDirectory], object]
    what: list[str]
    """What the sentence about it names, each a problem."""
    remedy: str
    drivers: list[str]
    """With which drivers it is, of the first problem."""
    verdicts: Mapping[str, str] = {}
    env: Mapping[str, str | None] = {}


def add_conflicts(servo: ServoDirectory) -> None:
    for name in ("10a", "20b", "30c"):
        servo.add(name, "plain", component="web")
    servo.add("40d", "plain", component="db")


def add_links_to_nowhere(servo: ServoDirectory) -> None:
    for name in ("10a", "20b", ".#30c"):
        (servo.drivers / name).symlink_to("nowhere")


def configure(text: str) -> Callable[[ServoDirectory], object]:
    return lambda servo: servo.configure(f"agg:\n  {text}\n")


def open_to_all(name: str) -> Callable[[ServoDirectory], object]:
    return lambda servo: (servo.path / name).chmod(0o777)


ONLY_JSON = "see what it prints: only JSON objects may go to its stdout"

MEND = "correct it: until then every operation fails"

FAULTS = {
    "no interpreter": Fault(
        lambda servo: servo.add_script("20bad", "#!/opt/py/bin/python3\n"),
        ["on --info: cannot be started: its interpreter /opt/py/bin/python3 does not exist"],
        "once that is mended, this must start it: adjust.d/20bad --info app",
        ["20bad"],
        {"20bad": "cannot-start"},
    ),
    "CR LF": Fault(
        lambda servo: servo.add_script("20 bad", "#!/bin/sh\r\n"),
        ["on --info: cannot be started: its first line ends in CR LF, as Windows writes it;"],
        "once that is mended, this must start it: 'adjust.d/20 bad' --info app",
        ["20 bad"],
        {"20 bad": "cannot-start"},
    ),
    "exit 1 on info": Fault(
        lambda servo: servo.add_script(
            "20bad", '#!/bin/sh\n[ "$1" != --info ] || exit 1\n. ./behave.sh\nbehave\n'
        ),
        ["on --info: exited with status 1, gave no reply"],
        "run it by hand: adjust.d/20bad --info app; see what it says",
        ["20bad"],
        {"20bad": "exit-status"},
    ),
    "no version": Fault(
        lambda servo: servo.add_script(
            "20bad", '#!/bin/sh\n[ "$1" != --info ] || { echo {}; exit; }\n. ./behave.sh\nbehave\n'
        ),
        ["on --info: its answer has no version"],
        f"run it by hand: adjust.d/20bad --info app; {ONLY_JSON}",
        ["20bad"],
        {"20bad": "malformed"},
    ),
    "rubbish on query": Fault(
        lambda servo: servo.add("20bad", "malformed", when="query"),
        ["on --query: its output is malformed: it is no JSON: 'Warning: the context was not set"],
        f"run it by hand: adjust.d/20bad --query app; {ONLY_JSON}",
        ["20bad"],
        {"20bad": "malformed"},
    ),
    "hangs": Fault(
        lambda servo: servo.add("20bad", "silent", when="query"),
        ["on --query: gave no answer within 4 s and was stopped"],
        "run it by hand: adjust.d/20bad --query app; see what it waits for, or whether it only needs longer",
        ["20bad"],
        {"20bad": "timeout"},
        {"OPTUNE_IO_TIMEOUT": "5"},
    ),
    "conflict": Fault(
        add_conflicts,
        ["only one driver may describe a setting, but 10a, 20b and 30c describe web.cpu and web.inst_type"],
        "let one of them describe each: give the component another name in the others, or have them describe"
        " less",
        ["10a", "20b", "30c"],
        {"10a": "conflict", "20b": "conflict", "30c": "conflict"},
    ),
    "unknown key": Fault(
        configure("paralel: 3"),
        ["config.yaml, line 2: the section agg has an unknown key 'paralel' (value 3): did you mean"],
        MEND,
        [],
    ),
    "wrong values": Fault(
        configure("grace: soon\n  parallel: 0"),
        [
            "config.yaml, line 2: agg.grace is the text 'soon', but it must be a number of seconds, from 0",
            "config.yaml, line 3: agg.parallel is 0, but it must be a whole number, 1 or more",
        ],
        MEND,
        [],
    ),
    "no YAML": Fault(configure("{"), ["config.yaml cannot be read as YAML: "], MEND, []),
    "bad timeout": Fault(
        lambda _: None,
        ["the environment variable OPTUNE_IO_TIMEOUT is '30s': it must be a plain decimal number of seconds"],
        MEND,
        [],
        {},
        {"OPTUNE_IO_TIMEOUT": "30s"},
    ),
    "a word for stderr that does not exist": Fault(
        lambda _: None,
        ["the environment variable OPTUNE_VERBOSE_STDERR is 'All', none of all, minimal and none: it counts"],
        "set it to one of these, or unset it, which means all (did you mean all?)",
        [],
        {},
        {"OPTUNE_VERBOSE_STDERR": "All"},
    ),
    "patterns without a driver": Fault(
        configure("serial: ['50*', '60*']\n  complete: ['50good~']"),
        [
            "config.yaml: agg.serial has the pattern '60*', which matches no driver",
            "config.yaml: agg.complete has the pattern '50good~', which matches no driver",
        ],
        "correct it, or leave it out; the drivers are 50good",
        [],
    ),
    "links to nowhere": Fault(
        add_links_to_nowhere,
        [
            "adjust.d/10a is a link to nowhere, which does not exist; adjust.d/20b is a link to nowhere, ",
        ],
        "mend what cannot be followed, or take it away",
        [],
    ),
    "config.yaml is a link to nowhere": Fault(
        lambda servo: (servo.path / "config.yaml").symlink_to("/nowhere/config.yaml"),
        ["config.yaml is a link to /nowhere/config.yaml, which does not exist"],
        MEND,
        [],
    ),
    "every file executable": Fault(
        lambda servo: [servo.add_script(name, "") for name in ("Makefile", "README.md", ".gitkeep")],
        [
            "on --info: cannot be started: it is no program: it has no #! line",
            "every file in adjust.d is executable, as on a volume that gives all files the same mode, and so",
        ],
        "",
        ["Makefile"],
        {"Makefile": "cannot-start"},
    ),
    "directory open to all": Fault(
        open_to_all("adjust.d"),
        ["adjust.d may be written by everybody on this machine, and what it holds is run as us"],
        "chmod o-w adjust.d",
        [],
    ),
    "driver open to all": Fault(
        open_to_all("adjust.d/50good"),
        ["adjust.d/50good may be written by everybody on this machine, and what it holds is run as us"],
        "chmod o-w adjust.d/50good",
        ["50good"],
        {"50good": "writable"},
    ),
    "a lock file": Fault(
        lambda servo: [servo.add_script(name, LOCKED) for name in ("10git", "20git")],
        [
            "fails when it is asked beside the others, but answers alone: on --query: exited with",
        ],
        ALONE,
        ["*git"],
        {"*git": "alone only"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_it_names_what_is_wrong_and_what_to_do(servo: ServoDirectory, fault: Fault) -> None:
    servo.add("50good", "plain", component="good")
    fault.prepare(servo)
    final = checked(servo, env=fault.env)
    assert final["status"] == "failed"
    problems = final["problems"]
    assert len(problems) == len(fault.what), problems
    for problem, what in zip(problems, fault.what):
        assert problem["what"].startswith(what)
        assert fault.remedy in ("", problem["remedy"])
    # Which of two that share a lock comes too late is chance.
    hurt = problems[0]["drivers"]
    names = [name.replace("*git", hurt[0]) if hurt else name for name in fault.drivers]
    assert hurt == names
    verdicts = {name.replace("*git", hurt[0]): verdict for name, verdict in fault.verdicts.items()}
    for row in final["drivers"]:
        assert row["verdict"] == verdicts.get(row["driver"], "ok"), row


class Opened(NamedTuple):
    """Something that everybody may write to, and what a check is to say of it."""

    path: Path
    what: str
    remedy: str
    drivers: list[str] = []  # noqa: RUF012 - it is not changed
    mode: int = 0o002
    """What is added to its mode."""


OPEN = "may be written by everybody on this machine"
AS_US = f"{OPEN}, and what it holds is run as us"


def closing(directory: Path) -> str:
    """Return the remedy for a directory on the way to something."""
    word = quote(str(directory))
    return f"chmod o-w {word}; or chmod +t {word}, if others must be able to write there"


def put_file(path: Path, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    path.chmod(mode)
    return path


def link_driver(servo: ServoDirectory, target: Path) -> None:
    """Have the driver 50good be a link to `target`."""
    target.parent.mkdir(parents=True)
    (servo.drivers / "50good").rename(target)
    (servo.drivers / "50good").symlink_to(target)


def a_linked_driver(servo: ServoDirectory) -> Opened:
    target = servo.path.parent / "elsewhere" / "driver"
    link_driver(servo, target)
    return Opened(
        target,
        f"adjust.d/50good (which leads to {target}) {AS_US}",
        f"chmod o-w {quote(str(target))}",
        ["50good"],
    )


def the_directory_of_a_linked_driver(servo: ServoDirectory, *, sticky: bool = False) -> Opened:
    target = servo.path.parent / "elsewhere" / "driver"
    link_driver(servo, target)
    if sticky:
        remedy = "move adjust.d/50good to a directory that only its owner may write to"
        what = f"{target.parent} {OPEN}: anybody can put modules beside adjust.d/50good, which it imports"
        return Opened(target.parent, what, remedy, ["50good"], 0o1002)
    what = f"{target.parent} {OPEN}: anybody can put something else in the place of adjust.d/50good"
    return Opened(target.parent, what, f"chmod o-w {quote(str(target.parent))}", ["50good"])


def a_directory_on_the_way_of_links(servo: ServoDirectory) -> Opened:
    target = servo.path.parent / "elsewhere" / "driver"
    link_driver(servo, target)
    between = servo.path.parent / "between"
    between.mkdir()
    (between / "current").symlink_to(target.parent)
    (servo.drivers / "50good").unlink()
    (servo.drivers / "50good").symlink_to("../../between/current/driver")
    what = f"{between} {OPEN}: anybody can put something else in the place of adjust.d/50good"
    remedy = closing(between)
    return Opened(between, what, remedy, ["50good"])


def a_linked_configuration(servo: ServoDirectory) -> Opened:
    target = put_file(servo.path.parent / "elsewhere" / "config.yaml")
    (servo.path / "config.yaml").symlink_to(target)
    what = f"config.yaml (which leads to {target}) {OPEN}, and it tells drivers what to do"
    return Opened(target, what, f"chmod o-w {quote(str(target))}")


def another_configuration(servo: ServoDirectory) -> Opened:
    servo.env["OPTUNE_CONFIG"] = "conf/drivers.yaml"
    path = put_file(servo.path / "conf" / "drivers.yaml")
    what = f"conf/drivers.yaml {OPEN}, and it tells drivers what to do"
    return Opened(path, what, "chmod o-w conf/drivers.yaml")


def the_parent(servo: ServoDirectory) -> Opened:
    parent = servo.path.parent
    what = f"{parent} {OPEN}: anybody can put something else in the place of {servo.path}"
    remedy = closing(parent)
    return Opened(parent, what, remedy)


def a_file(name: str, mode: int = 0o644) -> Callable[[ServoDirectory], Opened]:
    def prepare(servo: ServoDirectory) -> Opened:
        return Opened(put_file(servo.path / name, mode), f"{name} {AS_US}", f"chmod o-w {name}")

    return prepare


def copied(servo: ServoDirectory, place: Path) -> None:
    """Have a copy of us in a directory, which `./adjust` leads to unless it is there itself."""
    (servo.path / "adjust").unlink()
    place.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "adjust", place)
    shutil.copytree(
        REPOSITORY / "servo_agg", place / "servo_agg", ignore=shutil.ignore_patterns("__pycache__")
    )
    if place != servo.path:
        (servo.path / "adjust").symlink_to(place / "adjust")


def of_a_copy(name: str) -> Callable[[ServoDirectory], Opened]:
    """Return what copies us beside the drivers and names a part of the copy."""

    def prepare(servo: ServoDirectory) -> Opened:
        copied(servo, servo.path)
        return Opened(servo.path / name, f"{name} {AS_US}", f"chmod o-w {name}")

    return prepare


def of_a_linked_copy(name: str) -> Callable[[ServoDirectory], Opened]:
    """Return what links `./adjust` to a copy of us and names a part of it."""

    def prepare(servo: ServoDirectory) -> Opened:
        place = servo.path.parent / "installed"
        copied(servo, place)
        path = place / name
        shown = f"adjust (which leads to {path})" if name == "adjust" else str(path)
        return Opened(path, f"{shown} {AS_US}", f"chmod o-w {quote(str(path))}")

    return prepare


def the_directory_of_a_linked_copy(servo: ServoDirectory) -> Opened:
    place = servo.path.parent / "installed"
    copied(servo, place)
    what = f"{place} {OPEN}: anybody can put something else in the place of "
    return Opened(place, what, f"chmod o-w {quote(str(place))}")


OPENED = {
    "the servo directory": lambda servo: Opened(
        servo.path, f"{servo.path} {AS_US}", f"chmod o-w {quote(str(servo.path))}"
    ),
    "the servo directory, with the sticky bit": lambda servo: Opened(
        servo.path,
        f"{servo.path} {AS_US}",
        "move what is in it to a directory that only its owner may write to",
        [],
        0o1002,
    ),
    "its parent": the_parent,
    "adjust.d, with the sticky bit": lambda servo: Opened(
        servo.drivers, f"adjust.d {AS_US}", "chmod o-w adjust.d", [], 0o1002
    ),
    "adjust.py": a_file("adjust.py"),
    "util.py": a_file("util.py"),
    "a module of drivers": a_file("state_store.py"),
    "the agent": a_file("servo"),
    "a program": a_file("restart.sh", 0o755),
    "an encoder": a_file("encoders/jvm.py"),
    "a compiled module": a_file("__pycache__/adjust.cpython-311.pyc"),
    "a module beside drivers": a_file("adjust.d/helper.py"),
    "a file in a sub-directory of adjust.d": a_file("adjust.d/lib/deep/template"),
    "config.yaml": lambda servo: Opened(
        put_file(servo.path / "config.yaml"),
        f"config.yaml {OPEN}, and it tells drivers what to do",
        "chmod o-w config.yaml",
    ),
    "a config.yaml that is a link": a_linked_configuration,
    "OPTUNE_CONFIG": another_configuration,
    "a driver that is a link": a_linked_driver,
    "the directory of a driver that is a link": the_directory_of_a_linked_driver,
    "the same with the sticky bit": lambda servo: the_directory_of_a_linked_driver(servo, sticky=True),
    "a directory on the way of links": a_directory_on_the_way_of_links,
    "a copy of adjust": of_a_copy("adjust"),
    "a copy of the package": of_a_copy("servo_agg"),
    "a file of a copy of the package": of_a_copy("servo_agg/config.py"),
    "the driver library of a copy": of_a_copy("servo_agg/driverlib/adjust.py"),
    "adjust that is a link": of_a_linked_copy("adjust"),
    "the package that a link leads to": of_a_linked_copy("servo_agg"),
    "a file of the package that a link leads to": of_a_linked_copy("servo_agg/cli.py"),
    "the directory that a link leads to": the_directory_of_a_linked_copy,
}


@pytest.mark.parametrize("prepare", OPENED.values(), ids=OPENED.keys())
def test_it_names_what_everybody_may_write_to(
    servo: ServoDirectory, prepare: Callable[[ServoDirectory], Opened]
) -> None:
    servo.add("50good", "plain", component="good")
    opened = prepare(servo)
    assert checked(servo)["problems"] == []
    opened.path.chmod(opened.path.stat().st_mode | opened.mode)
    (problem,) = checked(servo)["problems"]
    assert problem["what"].startswith(opened.what)
    assert problem["remedy"] == opened.remedy
    assert problem["drivers"] == opened.drivers
    if opened.remedy.startswith("chmod"):
        subprocess.run(["/bin/sh", "-c", opened.remedy.partition(";")[0]], cwd=servo.path, check=True)
        assert checked(servo)["problems"] == []


def test_the_adjust_that_was_started_counts_wherever_it_lies(servo: ServoDirectory) -> None:
    servo.add("50good", "plain", component="good")
    place = servo.path.parent / "installed"
    copied(servo, place)
    (servo.path / "adjust").unlink()
    command = (str(place / "adjust"),)
    assert servo.run("--check", "app", command=command).returncode == 0
    (place / "adjust").chmod(0o757)
    (final,) = servo.run("--check", "app", "--json", command=command).messages
    assert [problem["what"] for problem in final["problems"]] == [f"{place / 'adjust'} {AS_US}"]


def test_many_files_that_everybody_may_write_to_are_one_problem(servo: ServoDirectory) -> None:
    servo.add("50good", "plain", component="good")
    for number in range(10):
        put_file(servo.drivers / "lib" / f"{number}.py", 0o666)
    put_file(servo.path / "adjust.py", 0o666)
    put_file(servo.path / "util.py", 0o666)
    first, second = checked(servo)["problems"]
    names = ", ".join(f"adjust.d/lib/{number}.py" for number in range(5))
    assert first["what"] == f"{names} and 5 more {OPEN}, and what they hold is run as us"
    assert first["remedy"] == "chmod -R o-w adjust.d"
    assert second["what"] == f"adjust.py and util.py {OPEN}, and what they hold is run as us"
    assert second["remedy"] == "chmod o-w adjust.py util.py"


def test_what_only_seems_open_to_everybody_is_no_problem(servo: ServoDirectory) -> None:
    servo.add("50good", "plain", component="good")
    # The mode of a link says nothing; a device belongs to nobody; in a directory with the sticky bit nobody
    # replaces what is another's; data is not run.
    link_driver(servo, servo.path.parent / "elsewhere" / "driver")
    (servo.path / "config.yaml").symlink_to("/dev/null")
    servo.env["OPTUNE_CONFIG"] = "/dev/null"
    (servo.drivers / "scratch").symlink_to("/tmp")  # noqa: S108 - every machine has it, open to everybody
    servo.path.parent.chmod(0o1777)
    put_file(servo.path / "agg.log", 0o666)
    put_file(servo.path / "state" / "values", 0o666).parent.chmod(0o777)
    assert checked(servo)["problems"] == []


def test_a_servo_directory_that_is_well_passes(servo: ServoDirectory) -> None:
    servo.add("01ec2asg", "plain", component="web", version="1.3", has_cancel=True)
    servo.add("02größe", "plain", component="db", settings='"x": {"value": 1}')
    completed = servo.run("--check", "app")
    assert completed.returncode == 0
    assert completed.stderr == b""
    assert shown(completed) == textwrap.dedent(
        """\
        driver    version  cancel  seconds  settings  verdict
        01ec2asg  1.3      yes       0.000         2  ok
        02größe   1.0      no        0.000         1  ok

        no problem found; 2 of 2 drivers ok
        """
    )


def test_of_many_drivers_the_broken_ones_stand_out(servo: ServoDirectory) -> None:
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
    assert shown(completed) == textwrap.dedent(
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

        problem 1: 7bad: on --info: cannot be started: its first line ends in CR LF, as Windows writes it; save it with LF line ends
            to do: once that is mended, this must start it: adjust.d/7bad --info app

        problem 2: 8bad: on --info: exited with status 1, gave no reply; stderr: line 1
            line 2
            line 3
            line 4
            ... 18 lines left out, --json has them ...
            line 23
            line 24
            line 25
            line 26
            line 27
            line 28
            line 29
            line 30
            to do: run it by hand: adjust.d/8bad --info app; see what it says

        problem 3: only one driver may describe a setting, but 5good and 6same describe c5.cpu and c5.inst_type
            to do: let one of them describe each: give the component another name in the others, or have them describe less

        remark: before you run a driver by hand, give it what it finds here: export PYTHONPATH=PLACES
        remark: passed over, since not executable: README.md and library.py; should one be a driver: chmod +x adjust.d/NAME
        3 problems found; 4 of 8 drivers ok
        """  # noqa: E501 - what is printed is as long as that
    )


def test_without_app_only_the_infos_are_asked(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    completed = servo.run("--check")
    assert completed.returncode == 0
    assert shown(completed) == textwrap.dedent(
        """\
        driver  version  cancel  seconds  settings  verdict
        01a     1.0      no        0.000         -  ok

        remark: settings were not asked for; adjust --check APP asks for them too
        no problem found; 1 of 1 driver ok
        """
    )
    assert {event.phase for event in servo.log()} == {"info"}


def test_the_json_has_it_all(servo: ServoDirectory) -> None:
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
    assert remarks[1].startswith("passed over, since not executable: 03c;")


def test_all_are_asked_although_some_fail(servo: ServoDirectory) -> None:
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


def test_the_remedy_for_a_driver_that_answers_alone_helps(servo: ServoDirectory) -> None:
    for name in ("10git", "20git", "30git"):
        servo.add_script(name, LOCKED)
    problems = checked(servo)["problems"]
    assert [problem["remedy"] for problem in problems] == [ALONE, ALONE]
    found = re.search(r"section (agg), (serial: \S+)", problems[0]["remedy"])
    assert found is not None
    servo.configure(f"{found[1]}:\n  {found[2]}\n")
    assert checked(servo)["problems"] == []


def test_who_is_never_asked_beside_others_is_not_told_to_be_asked_alone(servo: ServoDirectory) -> None:
    servo.configure("agg: {parallel: 1}")
    servo.add_script("01a", "#!/bin/sh\nmkdir seen && exit 1\n. ./behave.sh\nbehave\n")
    servo.add("02b", "plain")
    final = checked(servo)
    (problem,) = final["problems"]
    assert problem["what"].startswith(
        "failed when it was asked first, but not the second time: on --info: exited"
    )
    assert problem["remedy"] == "run it by hand, a few times: adjust.d/01a --info app"
    assert [row["verdict"] for row in final["drivers"]] == ["unsteady", "ok"]


def test_who_fails_once_only_is_not_told_to_be_asked_alone(servo: ServoDirectory) -> None:
    servo.add_script(
        "01a", "#!/bin/sh\n[ $1 = --query ] && mkdir seen 2>/dev/null && exit 1\n. ./behave.sh\nbehave\n"
    )
    servo.add("02b", "plain")
    final = checked(servo)
    (problem,) = final["problems"]
    assert problem["what"].startswith("failed when it was asked first, but not the second time: on --query:")
    assert [row["verdict"] for row in final["drivers"]] == ["unsteady", "ok"]


def test_a_driver_inside_that_fails_is_a_problem_without_an_application_too(servo: ServoDirectory) -> None:
    info = {
        "version": "aggregator 2.0.0 (unknown)",
        "has_cancel": True,
        "drivers": {"03bad": {"version": "unknown", "has_cancel": False, "message": "exited with status 3"}},
    }
    servo.add_script("10inner", describing(info))
    completed = servo.run("--check", "--json")
    assert completed.returncode == 1
    (problem,) = completed.messages[0]["problems"]
    assert problem["drivers"] == ["10inner"]
    assert problem["what"] == "03bad, a driver inside it, fails: exited with status 3"


@pytest.mark.full
def test_without_a_timeout_each_driver_has_its_time_also_one_after_another(servo: ServoDirectory) -> None:
    # All together take longer than one may.
    servo.configure("agg: {parallel: 1}")
    for name in ("01a", "02b", "03c"):
        servo.add(name, "slow", seconds=11)
    completed = servo.run("--check", "app", timeout=90)
    assert completed.returncode == 0, completed
    assert completed.seconds > 33


@pytest.mark.full
def test_without_a_timeout_a_driver_that_gives_no_answer_is_found(servo: ServoDirectory) -> None:
    servo.add("01hangs", "silent", when="info")
    servo.add_script(
        "02talks",
        '#!/bin/sh\n[ "$1" = --info ] || . ./behave.sh\n[ "$1" = --info ] || behave\n'
        "while :; do echo '{\"progress\":1}'; sleep 1; done\n",
    )
    completed = servo.run("--check", "--json", timeout=200)
    (final,) = completed.messages
    hung, talking = final["problems"]
    assert re.fullmatch(r"on --info: was silent for 30\.\d s and was stopped", hung["what"])
    assert hung["drivers"] == ["01hangs"]
    assert talking["drivers"] == ["02talks"]


def test_no_driver_at_all_is_a_problem(servo: ServoDirectory) -> None:
    (servo.drivers / "01 ec2asg").write_text("#!/bin/sh\n", encoding="utf-8")
    (servo.drivers / "02b").write_text("#!/bin/sh\n", encoding="utf-8")
    completed = servo.run("--check", "app")
    assert completed.returncode == 1
    assert completed.stderr == b""
    assert completed.stdout.decode() == textwrap.dedent(
        f"""\
        problem 1: there is no driver in {servo.path}/adjust.d
            to do: put executable files there, or make executable what is there: chmod +x 'adjust.d/01 ec2asg' adjust.d/02b

        1 problem found; 0 of 0 drivers ok
        """  # noqa: E501 - what is printed is as long as that
    )
    subprocess.run(
        ["sh", "-c", completed.stdout.decode().partition("there: ")[2].split("\n")[0]],
        cwd=servo.path,
        check=True,
    )
    assert [row["driver"] for row in checked(servo)["drivers"]] == ["01 ec2asg", "02b"]


def test_no_adjust_d_is_a_failure(servo: ServoDirectory) -> None:
    servo.drivers.rmdir()
    completed = servo.run("--check", "app")
    assert (completed.returncode, completed.stdout) == (1, b"")
    sentence = f"there is no {servo.path}/adjust.d: run this in the servo directory, which holds adjust.d"
    assert completed.stderr.decode() == on_stderr(f"adjust: {sentence}\n")
    (final,) = servo.run("--check", "--json").messages
    assert (final["reason"], final["message"]) == ("no-adjust-d", sentence)


def test_a_file_without_the_flag_beside_drivers_is_a_remark_only(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    (servo.drivers / "02b").write_text("#!/bin/sh\n", encoding="utf-8")
    completed = servo.run("--check", "app")
    assert completed.returncode == 0
    assert completed.stdout.decode().splitlines()[-2:] == [
        "remark: passed over, since not executable: 02b; should one be a driver: chmod +x adjust.d/NAME",
        "no problem found; 1 of 1 driver ok",
    ]


def test_what_is_no_driver_by_its_name_is_a_remark(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    for name in ("01a~", "README.md"):
        servo.add_script(name, "")
    (servo.drivers / ".gitkeep").write_text("", encoding="utf-8")
    final = checked(servo)
    assert final["problems"] == []
    assert final["remarks"] == [
        (
            "passed over although executable, since named like a backup copy or hidden: 01a~; should one"
            " be a driver, give it another name"
        ),
        "passed over although executable, since named like a document and without a #! line: README.md",
    ]


def test_of_many_mistakes_in_the_section_the_first_are_told(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.configure("agg:\n" + "".join(f"  key{number}: 1\n" for number in range(20_000)))
    problems = checked(servo)["problems"]
    assert len(problems) == 20
    assert "'key0'" in problems[0]["what"]


def test_without_psutil_it_says_so_and_checks_all_the_rest(servo: ServoDirectory) -> None:
    servo.add("01a", "plain")
    servo.add("02b", "silent", when="query")
    final = checked(servo, env={**without(servo, "psutil"), "OPTUNE_IO_TIMEOUT": "5"})
    hanging, missing = final["problems"]
    assert hanging["drivers"] == ["02b"]
    assert missing["drivers"] == []
    assert re.search(r"needs the Python package psutil.*-m pip install --upgrade psutil$", missing["what"])
    assert missing["remedy"] == "install it as said: until then every adjust fails"
    assert [row["verdict"] for row in final["drivers"]] == ["ok", "timeout"]


@pytest.mark.parametrize("json_too", [False, True])
def test_a_signal_ends_it_and_leaves_nothing(servo: ServoDirectory, json_too: bool) -> None:
    servo.add("01a", "stubborn", when="query")
    servo.add("02b", "plain")
    with subprocess.Popen(
        ["./adjust", "--check", "app", *(["--json"] if json_too else [])],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        servo.pids("01a", "leader", "child", "grandchild")
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    if json_too:
        assert json.loads(stdout)["reason"] == "SIGTERM"
    else:
        assert (stdout, stderr) == (b"", b"adjust: ended by SIGTERM; all drivers were stopped\n")


def test_nothing_is_waited_for_when_nobody_reads(servo: ServoDirectory) -> None:
    servo.add("01a", "silent", when="info")
    with subprocess.Popen(
        ["./adjust", "--check"],
        cwd=servo.path,
        env=environment(servo.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        servo.pids("01a", "leader", "child")
        assert process.stdout is not None
        process.stdout.close()
        wait_until(lambda: process.poll() is not None, 10, "the end of the check")
    assert process.returncode == 1


def test_what_drivers_say_cannot_spoil_the_screen(servo: ServoDirectory) -> None:
    servo.add_script("01a", describing({"version": "1\x1b[31m\n2", "application": {}}))
    servo.add_script("02\x1b[2Jb", "#!/bin/sh\nprintf 'a\\033[31m\\r\\n' >&2\nexit 1\n")
    text = servo.run("--check", "app").stdout.decode()
    places = text.replace(str(REPOSITORY), "").replace(str(servo.path), "")
    assert re.sub(r"[\n -~]", "", places) == ""
    assert "\n01a         1\\x1b[31m 2  no  " in text
    assert (
        "\nproblem 1: 02\\x1b[2Jb: on --info: exited with status 1, gave no reply; stderr: a\\x1b[31m" in text
    )
