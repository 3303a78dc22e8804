"""SPEC 14: `--test-driver` finds which rule a driver breaks; `--check` finds mistakes in descriptions."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from servo_agg.commands.conformance_rules import RULES, RuleResults, report_text
from tests.integration.test_docs import DRIVERS_PAGE, Session, read
from tests.support.locks import held_as_by_adjust
from tests.support.processes import environment, has_interpreter, wait_until
from tests.support.servo import REPOSITORY, on_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.servo import Completed, ServoDirectory

Object = dict[str, Any]

TEMPLATE = """\
#!/bin/sh
terminate() { exit 143; }
fail() {
    printf '{"status":"%s","reason":"%s","message":"%s"}\\n' "$@"
    exit 1
}
case $1 in
--info) echo '{"version":"1.0","has_cancel":true}' ;;
--query)
    setting='{"type":"range","min":1,"max":8,"step":1,"value":'$(cat value 2>/dev/null || echo 2)'}'
    echo '{"application":{"components":{"web":{"settings":{"cpu":'"$setting"'}}}}}'
    ;;
*)
    canceled=
    trap 'canceled=yes' USR1
    trap terminate TERM
    cpu=$(sed 's/.*"cpu":{"value":\\([0-9.]*\\).*/\\1/')
    [ "$cpu" -ge 1 ] && [ "$cpu" -le 8 ] || fail rejected out-of-range 'web.cpu: from 1 to 8'
    for percent in 0 20 40 60 80 100; do
        [ -z "$canceled" ] || fail canceled SIGUSR1 'web.cpu is unchanged'
        echo '{"progress":'$percent'}'
        sleep 0.2
    done
    echo "$cpu" >value
    echo '{"status":"ok"}'
    ;;
esac
"""
"""A driver that keeps all rules: its adjust takes 1.2 s, and ends with its value in a file."""

GRACE = "agg: {grace: 0.7, cancel_grace: 0.7}\n"


def run_conformance_test(
    servo: ServoDirectory, name: str, *options: str, env: Mapping[str, str | None] | None = None
) -> tuple[Completed, dict[str, Object]]:
    """Run a conformance test; return the run, and the rules by name."""
    completed = servo.run("--test-driver", name, "app", "--json", *options, env=env)
    (final,) = completed.messages
    assert [rule["rule"] for rule in final["rules"]] == list(RULES)
    assert list(final) == ["driver", "application", "status", "rules"]
    failed = any(rule["verdict"] == "fail" for rule in final["rules"])
    assert (completed.returncode, final["status"]) == ((1, "failed") if failed else (0, "ok"))
    for rule in final["rules"]:
        assert (rule["remedy"] is not None) == (rule["verdict"] == "fail")
        assert rule["what"] or rule["verdict"] == "pass"
    return completed, {rule["rule"]: rule for rule in final["rules"]}


def rules_with(rules: Mapping[str, Object], verdict: str) -> set[str]:
    return {name for name, rule in rules.items() if rule["verdict"] == verdict}


def test_a_driver_that_keeps_all_rules_passes_all_of_them(servo: ServoDirectory) -> None:
    servo.configure(GRACE)
    servo.add_script("01web", TEMPLATE)
    servo.add_script("02hangs", "#!/bin/sh\nsleep 600\n")
    completed = servo.run("--test-driver", "adjust.d/01web", "app")
    assert completed.returncode == 0, completed
    lines = completed.stdout.decode().splitlines()
    assert [line[:30].rstrip() for line in lines[1:-2]] == list(RULES)
    assert {line[30:].split()[0] for line in lines[1:-2]} == {"pass"}
    assert lines[-1] == "15 passed, 0 failed, 0 not tested"
    assert completed.stderr.decode().splitlines() == [
        "adjusting 01web with its present values: web.cpu=2",
        "trying web.cpu=9, above its maximum 8: it must be refused",
        "trying web.cpu=0, below its minimum 1: it must be refused",
        "adjusting 01web with its present values, to send it SIGUSR1",
        "adjusting 01web with its present values, to send it SIGTERM",
        "adjusting 01web with its present values again",
    ]


class Mistake(NamedTuple):
    """A change to the template that breaks one rule."""

    old: str
    new: str
    rule: str
    what: str
    """The beginning of what is said of it."""


MISTAKES = {
    "no version": Mistake('"version":"1.0",', "", "answers --info", "--info: has no `version`"),
    "has_cancel is a text": Mistake(
        '"has_cancel":true',
        '"has_cancel":"yes"',
        "answers --info",
        '--info: `has_cancel` is the string "yes"',
    ),
    "fails on --query": Mistake(
        "    setting=",
        "    fail failed no-config 'config.yaml is missing'\n    setting=",
        "answers --query",
        "config.yaml is missing (on --query: exited with status 1)",
    ),
    "describes nothing": Mistake(
        '{"application":{"components":{"web":{"settings":{"cpu":\'"$setting"\'}}}}}',
        '{"cpu":\'"$setting"\'}',
        "answers --query",
        "on --query: its reply is not a description: ",
    ),
    "fails on --query after an adjust": Mistake(
        "    setting=",
        "    [ ! -e value ] || fail failed locked 'the value is locked'\n    setting=",
        "answers --query",
        "the value is locked (on --query: exited with status 1)",
    ),
    "step 0": Mistake('"step":1', '"step":0', "describes valid settings", "web.cpu: `step` is 0"),
    "min above max": Mistake('"min":1', '"min":9', "describes valid settings", "web.cpu: `min` 9 is above"),
    "no setting": Mistake(
        """{"cpu":'"$setting"'}""", "{}", "describes valid settings", "it describes no setting"
    ),
    "debugging output": Mistake(
        "    canceled=\n",
        "    echo starting\n",
        "prints JSON objects only",
        "in an adjust: printed a line that is not JSON: ",
    ),
    "a banner": Mistake(
        "case $1 in",
        "echo '=== web ==='\ncase $1 in",
        "prints JSON objects only",
        "on --info: printed a line that is not JSON",
    ),
    "ok, but exit 3": Mistake(
        """echo '{"status":"ok"}'""",
        """echo '{"status":"ok"}'; exit 3""",
        "exits with the right status",
        "in an adjust: replied ok but exited with status 3",
    ),
    "says it on stderr only": Mistake(
        "    setting=",
        "    echo 'no config' >&2; exit 1\n    setting=",
        "exits with the right status",
        "on --query: exited with status 1, gave no reply; stderr: no config",
    ),
    "no status": Mistake(
        '{"status":"ok"}', '{"state":"done"}', "accepts its present values", "its reply has no status"
    ),
    "fails": Mistake(
        """echo '{"status":"ok"}'""",
        "fail failed start-failed 'port 80 is taken'",
        "accepts its present values",
        "port 80 is taken (exited with status 1)",
    ),
    "status success": Mistake(
        '{"status":"ok"}',
        '{"status":"success"}',
        "accepts its present values",
        "replied the status success; a success has the status ok",
    ),
    "another value": Mistake(
        'echo "$cpu" >value',
        "echo $((cpu % 8 + 1)) >value",
        "accepts its present values",
        "after an adjust with its present values, --query shows web.cpu=3",
    ),
    "progress 120": Mistake("80 100", "80 120", "prints progress from 0 to 100", "printed progress 120"),
    "progress in words": Mistake(
        "'{\"progress\":'$percent'}'",
        """'{"progress":"'$percent' %"}'""",
        "prints progress from 0 to 100",
        'printed progress "0 %"',
    ),
    "progress as a text": Mistake(
        "'{\"progress\":'$percent'}'",
        """'{"progress":"'$percent'"}'""",
        "prints progress from 0 to 100",
        'printed progress "0"',
    ),
    "progress back": Mistake(
        "40 60", "60 40", "never decreases its progress", "progress went from 60 back to 40"
    ),
    "buffered": Mistake(
        "'}'\n        sleep 0.2\n    done\n",
        "'}' >>buffer\n        sleep 0.2\n    done\n    cat buffer; rm buffer\n",
        "does not buffer its progress",
        "all of its output came within the last 0.1 s of ",
    ),
    "leaves a process": Mistake(
        """    echo '{"status":"ok"}'""",
        """    sleep 3 >/dev/null 2>&1 &\n    echo '{"status":"ok"}'""",
        "leaves no process running",
        "still running in the session of the driver: sleep (pid ",
    ),
    "accepts anything": Mistake(
        '[ "$cpu" -ge 1 ] && [ "$cpu" -le 8 ] || fail',
        ": || fail",
        "refuses a value out of range",
        "accepted web.cpu=9, above its",
    ),
    "accepts what is too low": Mistake(
        '[ "$cpu" -ge 1 ] && ',
        "",
        "refuses a value out of range",
        "accepted web.cpu=0, below its",
    ),
    "applies a value before it refuses it": Mistake(
        '    [ "$cpu" -ge 1 ]',
        '    echo "$cpu" >value\n    [ "$cpu" -ge 1 ]',
        "refuses a value out of range",
        "refused 2 values, but --query shows web.cpu=0",
    ),
    "refuses without a reason": Mistake(
        "fail rejected out-of-range",
        "fail rejected ''",
        "explains what it refuses",
        "web.cpu=9: `reason` of its reply is missing, blank or not text",
    ),
    "refuses without a message": Mistake(
        "|| fail rejected",
        """|| { echo '{"status":"rejected","reason":"no"}'; exit 1; } || fail rejected""",
        "explains what it refuses",
        "web.cpu=9: `message` of its reply is missing, blank or not text",
    ),
    "refuses with exit 0": Mistake(
        "|| fail rejected",
        """|| { echo '{"status":"rejected","reason":"no","message":"no"}'; exit 0; } || fail rejected""",
        "explains what it refuses",
        "web.cpu=9: replied rejected but exited with status 0",
    ),
    "refuses without a word": Mistake(
        "|| fail rejected",
        "|| exit 1 || fail rejected",
        "explains what it refuses",
        "web.cpu=9: exited with status 1, gave no reply",
    ),
    "no handler": Mistake(
        "    trap 'canceled=yes' USR1\n",
        "",
        "ends when canceled",
        "has_cancel is true, but SIGUSR1 ended it: killed by SIGUSR1",
    ),
    "ignores a cancel": Mistake("canceled=yes", "", "ends when canceled", "did not end within "),
    "ok after a cancel": Mistake(
        "fail canceled",
        """{ echo '{"status":"ok"}'; exit; } || fail""",
        "ends when canceled",
        "replied ok although",
    ),
    "crashes on a cancel": Mistake(
        "fail canceled",
        "exit 1 || fail",
        "ends when canceled",
        "after SIGUSR1: exited with status 1, gave no reply",
    ),
    "ignores SIGTERM": Mistake(
        "trap terminate TERM", "trap '' TERM", "ends on SIGTERM", "did not end within "
    ),
    "a child ignores SIGTERM": Mistake(
        "    for percent",
        "    (trap '' TERM; sleep 1.4) >/dev/null 2>&1 &\n    for percent",
        "ends on SIGTERM",
        "ended on SIGTERM, but a process that it had started did not end within ",
    ),
    "leaves a lock when it refuses": Mistake(
        '    [ "$cpu" -ge 1 ]',
        "    [ ! -e locked ] || fail failed locked 'another adjust is running'\n"
        '    [ "$cpu" -ge 1 ] && [ "$cpu" -le 8 ] || : >locked\n    [ "$cpu" -ge 1 ]',
        "accepts another adjust",
        "after an earlier adjust, it does not accept its present values: ",
    ),
    "leaves a lock": Mistake(
        "terminate() { exit 143; }",
        "terminate() { : >locked; exit 143; }\n[ ! -e locked ] || [ $1 != app ] || exit 1",
        "accepts another adjust",
        "after a value out of range, a cancel and SIGTERM, it does not accept its present values: ",
    ),
}


FIRST_MISTAKES = {mistake.rule: name for name, mistake in reversed(MISTAKES.items())}
"""The first mistake against each rule, which the quick suite tries."""


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(mistake, id=name, marks=() if name in FIRST_MISTAKES.values() else pytest.mark.full)
        for name, mistake in MISTAKES.items()
    ],
)
def test_a_broken_driver_fails_exactly_one_rule(servo: ServoDirectory, mistake: Mistake) -> None:
    servo.configure(GRACE)
    assert TEMPLATE.count(mistake.old) >= 1
    source = TEMPLATE.replace(mistake.old, mistake.new)
    servo.add_script("01web", source)
    completed, rules = run_conformance_test(servo, "01web")
    assert rules_with(rules, "fail") == {mistake.rule}, rules
    assert rules[mistake.rule]["what"].startswith(mistake.what)
    # Only one of them changes a value for good.
    assert (b"may still have" in completed.stderr) == (mistake is MISTAKES["another value"])


def test_a_driver_that_forgets_its_settings_fails(servo: ServoDirectory) -> None:
    forgetful = TEMPLATE.replace(
        "--query)\n", """--query)\n    [ ! -e value ] || { echo '{"settings":{}}'; exit; }\n"""
    )
    servo.add_script("01web", forgetful)
    _, rules = run_conformance_test(servo, "01web")
    assert rules_with(rules, "fail") == {"accepts its present values"}
    assert (
        rules["accepts its present values"]["what"]
        == "after an adjust with its present values, --query shows no value of web.cpu"
    )


def test_what_a_failing_query_leaves_open_is_not_tested(servo: ServoDirectory) -> None:
    # The third query comes after the values out of range.
    fails_later = """--query)
    echo query >>queries
    [ $(wc -l <queries) -lt 3 ] || fail failed gone 'no cluster'
"""
    servo.add_script("01web", TEMPLATE.replace("--query)\n", fails_later))
    _, rules = run_conformance_test(servo, "01web")
    assert rules_with(rules, "fail") == {"answers --query"}
    assert rules_with(rules, "not-tested") == {"refuses a value out of range", "accepts another adjust"}


def test_a_driver_that_is_killed_has_no_exit_status(servo: ServoDirectory) -> None:
    servo.add_script("01web", """#!/bin/sh\necho '{"version":"1.0"}'\nkill -KILL $$\n""")
    _, rules = run_conformance_test(servo, "01web", "--read-only")
    assert "exits with the right status" in rules_with(rules, "not-tested")
    assert rules["answers --info"]["remedy"] == "fix the cause that the message names"


def test_every_rule_is_broken_by_a_driver_of_the_table() -> None:
    assert set(FIRST_MISTAKES) == set(RULES)


def test_a_value_that_cannot_be_restored_is_named(servo: ServoDirectory) -> None:
    limits = '[ "$cpu" -ge 1 ] && [ "$cpu" -le 8 ] || fail'
    kept = TEMPLATE.replace(limits, ": || fail")
    kept = kept.replace('echo "$cpu" >value', 'grep -qx 9 value 2>/dev/null || echo "$cpu" >value')
    servo.add_script("01web", kept)
    completed = servo.run("--test-driver", "01web", "app", "--json")
    (final,) = completed.messages
    rules = {rule["rule"]: rule for rule in final["rules"]}
    assert rules_with(rules, "fail") == {"refuses a value out of range", "accepts another adjust"}
    assert rules["accepts another adjust"]["what"] == (
        "after it accepted a value out of range, an adjust with its present values has no effect:"
        " --query shows web.cpu=9"
    )
    assert completed.stderr.decode().splitlines()[-1] == (
        "warning: 01web may still have web.cpu=9 (2 before the test)"
    )


def test_a_driver_without_progress_is_canceled_and_stopped_after_half_a_second(servo: ServoDirectory) -> None:
    servo.add_script("01web", TEMPLATE.replace("echo '{\"progress\":'$percent'}'", ":"))
    _, rules = run_conformance_test(servo, "01web")
    assert rules["ends when canceled"]["what"].startswith("canceled, ")
    assert rules_with(rules, "not-tested") == set(RULES[6:9])


def test_ok_after_sigterm_counts_as_not_tested(servo: ServoDirectory) -> None:
    servo.add_script("01web", TEMPLATE.replace("trap terminate TERM", "trap '' TERM"))
    _, rules = run_conformance_test(servo, "01web")
    assert rules_with(rules, "not-tested") == {"ends on SIGTERM"}
    assert rules["ends on SIGTERM"]["what"].startswith("it ended by itself, with ok, ")


# What the command refuses, and how it ends.


def test_read_only_does_not_adjust(servo: ServoDirectory) -> None:
    servo.add("01web", "plain")
    with held_as_by_adjust(servo.path):
        _, rules = run_conformance_test(servo, "01web", "--read-only")
    assert rules_with(rules, "pass") == set(RULES[:5])
    assert rules_with(rules, "not-tested") == set(RULES[5:])
    assert {event.phase for event in servo.log()} == {"info", "query"}


def test_without_a_description_each_rule_of_a_read_only_test_has_a_reason(servo: ServoDirectory) -> None:
    servo.add_script("01web", '#!/bin/sh\n[ $1 = --info ] && echo \'{"version":"1"}\'\n')
    # run_conformance_test requires the reasons.
    _, rules = run_conformance_test(servo, "01web", "--read-only")
    assert rules_with(rules, "not-tested") == set(RULES[1:3] + RULES[5:])


def test_a_conformance_test_takes_the_lock_of_an_adjust(servo: ServoDirectory) -> None:
    servo.add("01web", "plain")
    with held_as_by_adjust(servo.path):
        completed = servo.run("--test-driver", "01web", "app", "--json", env={"OPTUNE_IO_TIMEOUT": "1"})
    assert completed.returncode == 1
    assert completed.reply["reason"] == "busy"
    assert servo.log() == []


def test_a_driver_that_cannot_be_found_is_named_with_the_reason(servo: ServoDirectory) -> None:
    servo.add("01web", "plain")
    servo.add("02db", "plain").chmod(0o644)
    servo.add("03old.bak", "plain")
    for name, message in {
        "01wed": f"no such driver in {servo.path}/adjust.d (did you mean 01web?): '01wed'",
        "x": f"no such driver in {servo.path}/adjust.d (drivers: 01web): 'x'",
        "02db": "adjust.d/02db is not executable; run: chmod +x adjust.d/02db",
        "03old.bak": "adjust.d/03old.bak is ignored because of its name; give it another name",
    }.items():
        completed = servo.run("--test-driver", name, "app")
        assert (completed.returncode, completed.stdout) == (1, b"")
        assert completed.stderr.decode() == on_stderr(f"adjust: {message}\n")


def test_a_driver_that_hangs_in_every_call_does_not_hang_the_test(servo: ServoDirectory) -> None:
    servo.add_script("01web", "#!/bin/sh\nexec sleep 600\n")
    completed = servo.run("--test-driver", "01web", "app", env={"OPTUNE_IO_TIMEOUT": "2"})
    assert completed.returncode == 1
    assert completed.seconds < 15
    assert completed.stdout.decode().splitlines()[-1] == "0 passed, 2 failed, 13 not tested"
    assert b"answer --query within 1 s, or set OPTUNE_IO_TIMEOUT to a larger value" in completed.stdout


def test_a_driver_that_hangs_in_an_adjust_fails_that_rule(servo: ServoDirectory) -> None:
    servo.add("01web", "silent", when="adjust")
    _, rules = run_conformance_test(servo, "01web", env={"OPTUNE_IO_TIMEOUT": "2"})
    assert rules_with(rules, "fail") == {"accepts its present values"}
    assert "was silent for" in rules["accepts its present values"]["what"]


def test_an_adjust_that_never_ends_is_stopped_after_20_limits(servo: ServoDirectory) -> None:
    servo.configure(GRACE)
    servo.add_script(
        "01web",
        TEMPLATE.replace("for percent in 0 20 40 60 80 100", "percent=5; while :").replace(
            "sleep 0.2", "sleep 0.05"
        ),
    )
    _, rules = run_conformance_test(servo, "01web", env={"OPTUNE_IO_TIMEOUT": "0.6"})
    assert rules_with(rules, "fail") == {"accepts its present values"}
    assert rules["accepts its present values"]["what"].startswith("did not end within 6 s")


def test_a_driver_that_hangs_on_a_value_out_of_range_fails_that_rule(servo: ServoDirectory) -> None:
    servo.configure(GRACE)
    servo.add_script("01web", TEMPLATE.replace("|| fail rejected", "|| exec sleep 600 || fail rejected"))
    _, rules = run_conformance_test(servo, "01web", env={"OPTUNE_IO_TIMEOUT": "2"})
    assert rules_with(rules, "fail") == {"refuses a value out of range"}
    assert re.match(r"web\.cpu=9: was silent for [\d.]+ s ", rules["refuses a value out of range"]["what"])


@pytest.mark.full
def test_progress_without_end_takes_no_memory(servo: ServoDirectory) -> None:
    flood = "[ -e flooded ] || { : >flooded; yes '{\"progress\":0}' | head -n 1000000; }"
    servo.add_script("01web", TEMPLATE.replace("    for percent", f"    {flood}\n    for percent", 1))
    # 1,000,000 objects would take more than that.
    limited = ["sh", "-c", 'ulimit -v 400000 && exec "$@"', "sh", "./adjust"]
    completed = servo.run(command=[*limited, "--test-driver", "01web", "app"])
    assert completed.returncode == 0, completed
    assert b"1000006 progress lines" in completed.stdout


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_ends_a_driver_test_like_any_run(servo: ServoDirectory, number: int, name: str) -> None:
    servo.add("01web", "stubborn", when="adjust")
    servo.configure("agg: {grace: 0.5}\n")
    with servo.start("--test-driver", "01web", "app", "--json") as program:
        servo.pids("01web", "grandchild")
        program.send_signal(number)
        completed = program.finish()
    assert completed.returncode == 128 + number
    assert (completed.reply["status"], completed.reply["reason"]) == ("terminated", name)


def test_a_signal_during_a_test_warns_of_values_that_may_be_left(servo: ServoDirectory) -> None:
    limits = '[ "$cpu" -ge 1 ] && [ "$cpu" -le 8 ] || fail'
    accepting = TEMPLATE.replace(limits, "[ $cpu != 9 ] || : >accepted; : || fail")
    servo.add_script("01web", accepting)
    with servo.start("--test-driver", "01web", "app") as program:
        wait_until((servo.path / "accepted").exists, 30, "the value out of range")
        program.send_signal(signal.SIGINT)
        completed = program.finish()
    assert completed.returncode == 128 + signal.SIGINT
    assert "warning: 01web may still have web.cpu=9 (2 before the test)" in completed.stderr.decode()


@pytest.mark.parametrize("width", [40, 60, 80, 120, None])
def test_the_table_fits_the_terminal(width: int | None) -> None:
    found = RuleResults()
    found.record_pass(RULES[0], "version 1.0")
    found.record_failure(RULES[1], "something is wrong with it, " * 9, "do this and then that " * 9)
    found.record_not_tested(RULES[2:], "it does not describe its settings")
    lines = report_text(found, width).splitlines()
    assert lines[-1] == "1 passed, 1 failed, 13 not tested"
    assert width is None or max(map(len, lines)) <= max(width, 42)
    text = " ".join(" ".join(lines).split())
    assert "FAIL" in text


@pytest.mark.parametrize("width", [40, 60, 90, None])
def test_a_command_in_the_table_can_be_copied(width: int | None) -> None:
    found = RuleResults()
    command = "./adjust -v demo --set 'web.inst_type=m5 large'"
    found.record_failure(RULES[0], "it failed", f"see its messages: {command}", command)
    lines = [line.strip() for line in report_text(found, width).splitlines()]
    script = "\n".join(lines)
    script = script[script.index("./adjust") :].partition("\n" + RULES[1])[0]
    assert ("\\\n" in script) is (width is not None)
    assert shlex.split(script.replace("\\\n", "")) == shlex.split(command)


@pytest.mark.parametrize("value", ["a\nb", "a\x1bb", "a" * 1000], ids=["newline", "escape", "long"])
def test_the_table_shows_no_command_with_another_value(value: str) -> None:
    found = RuleResults()
    command = f"./adjust -v demo --set {shlex.quote(f'web.s={value}')}"
    found.record_failure(RULES[0], "it failed", f"see its messages: {command}", command)
    text = report_text(found, None)
    assert "remedy: see its messages: the command that --json shows\n" in text
    assert "./adjust" not in text


# Drivers that people read.


def assert_passes(path: Path, name: str, **variables: str) -> dict[str, Object]:
    """Test a driver of a servo directory, which must break no rule; return the rules."""
    completed = subprocess.run(
        ["./adjust", "--test-driver", name, "demo", "--json"],
        cwd=path,
        env=environment(variables),
        capture_output=True,
        check=False,
    )
    rules = {rule["rule"]: rule for rule in json.loads(completed.stdout)["rules"]}
    assert rules_with(rules, "fail") == set(), completed
    assert completed.returncode == 0
    return rules


@pytest.mark.parametrize("name", [pytest.param("10envfile", marks=pytest.mark.full), "20limits"])
def test_the_examples_pass(tmp_path: Path, name: str) -> None:
    shutil.copytree(REPOSITORY / "adjust.d", tmp_path / "adjust.d", ignore=shutil.ignore_patterns("demo"))
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    (tmp_path / "adjust").symlink_to(REPOSITORY / "adjust")
    rules = assert_passes(tmp_path, name)
    assert {RULES[index] for index in range(8)} <= rules_with(rules, "pass")


def drivers_of(session: Session) -> list[str]:
    """Return the commands of a page that write drivers and make them executable."""
    commands = []
    for step in session.steps:
        if step.command.startswith("cat >"):
            commands.append(step.command)
        else:
            lines = step.command.splitlines()
            commands += [line for line in lines if line.startswith(("chmod ", "mkdir "))]
    return commands


SESSIONS = [
    session
    for session in read(DRIVERS_PAGE).sessions
    if drivers_of(session) and all(has_interpreter(step.command) for step in session.steps)
]


# The quick suite tries the first two; test_docs tries the last one.
@pytest.mark.parametrize(
    "session",
    [
        pytest.param(session, id=session.name, marks=() if number < 2 else pytest.mark.full)
        for number, session in enumerate(SESSIONS)
    ],
)
def test_the_drivers_of_the_page_pass(servo: ServoDirectory, session: Session) -> None:
    commands = drivers_of(session)
    if not any("chmod +x" in command for command in commands):
        commands.append("chmod +x adjust.d/*")
    tests = 0
    for command in commands:
        subprocess.run(["sh", "-c", command], cwd=servo.path, check=True)
        if "chmod +x" in command:
            for driver in sorted(path for path in servo.drivers.iterdir() if path.is_file()):
                source = driver.read_text(encoding="utf-8")
                rules = assert_passes(servo.path, driver.name, LAMP_SECONDS="0.3")
                assert set(RULES[:6]) <= rules_with(rules, "pass")
                assert "SIGUSR1" not in source or rules_with(rules, "pass") == set(RULES), rules
                tests += 1
    assert tests >= 1


SH_LAMP = next(
    step.command.partition("\n")[2].rpartition("\n")[0] + "\n"
    for session in SESSIONS
    for step in session.steps
    if step.command.startswith("cat >adjust.d/10lamp")
)

NEWCOMER_MISTAKES = {
    "an interpreter that does not exist": ("#!/bin/sh", "#!/bin/shell", "answers --info"),
    "lines that end in CR LF": ("\n", "\r\n", "answers --info"),
    "a line for debugging": (
        'echo \'{"progress"',
        'echo dimming; echo \'{"progress"',
        "prints JSON objects only",
    ),
    "ok in capitals": ('{"status":"ok"}', '{"status":"OK"}', "accepts its present values"),
    "no check of the value": ('"$watts" -le 60', '"$watts" -le 600', "refuses a value out of range"),
    "a quote too many": ('\'{"type"', '\'{""type"', "prints JSON objects only"),
}


@pytest.mark.parametrize(("old", "new", "rule"), NEWCOMER_MISTAKES.values(), ids=NEWCOMER_MISTAKES.keys())
def test_the_mistakes_of_a_newcomer_are_found(servo: ServoDirectory, old: str, new: str, rule: str) -> None:
    assert old in SH_LAMP
    servo.add_script("10lamp", SH_LAMP.replace(old, new))
    _, rules = run_conformance_test(servo, "10lamp")
    assert rules_with(rules, "fail") == {rule}, rules


# The same findings in a check.


def test_a_check_reports_each_finding_in_a_description(servo: ServoDirectory) -> None:
    servo.add("01web", "plain", settings='"cpu":{"type":"range","min":9,"max":8,"value":2},"mem":4')
    servo.add("02db", "plain", has_cancel='"no"')
    completed = servo.run("--check", "app", "--json")
    assert completed.returncode == 1
    (final,) = completed.messages
    assert [(problem["drivers"], problem["what"]) for problem in final["problems"]] == [
        (["02db"], '--info: `has_cancel` is the string "no"'),
        (["01web"], "01web.cpu: `min` 9 is above `max` 8"),
        (["01web"], "01web.mem: is 4"),
    ]
    assert all(problem["remedy"] for problem in final["problems"])
    assert {row["driver"]: row["verdict"] for row in final["drivers"]} == dict.fromkeys(
        ("01web", "02db"), "description"
    )
    text = servo.run("--check", "app").stdout.decode()
    assert "problem 2: 01web: 01web.cpu: `min` 9 is above `max` 8" in text
    assert "remedy: set `min` to the lower end of the range" in text


def test_a_query_passes_wrong_descriptions_on_unchanged(servo: ServoDirectory) -> None:
    servo.add("01web", "plain", settings='"cpu":{"type":"rnge","min":"9","value":[]}')
    completed = servo.run("--query", "app")
    assert completed.returncode == 0
    settings = completed.reply["application"]["components"]["01web"]["settings"]
    assert settings == {"cpu": {"type": "rnge", "min": "9", "value": []}}
