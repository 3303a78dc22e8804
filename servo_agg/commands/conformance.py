"""The command `--test-driver`: test whether one driver keeps the rules of the protocol (SPEC 14.41 to 14.49).

Rules:
- Only what the contract demands is tested. One mistake breaks one rule: what cannot be judged because of it
  is not tested.
- The driver is adjusted with its present values and with values out of range, and it gets a cancel and
  SIGTERM. Then its present values are restored. Queries in between show which values it has.
- An adjust is stopped after the limit of silence, and in any case after 20 times that limit.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.commands import conformance_rules as rules
from servo_agg.commands.adjust import require_psutil, require_watchdog, take_lock
from servo_agg.commands.conformance_calls import TestedDriver, TestEnded
from servo_agg.commands.conformance_judgment import (
    ObservedAdjust,
    adjust_failure,
    explanation_problem,
    format_value,
    is_equal,
    judge_progress,
    may_have_been_ending,
    message_with_call,
)
from servo_agg.commands.query import Result, stopped_result
from servo_agg.drivers.timeouts import CHECK_TIMEOUT
from servo_agg.errors import BadInput, SchemaError, close_matches
from servo_agg.output.tables import pluralize
from servo_agg.processes.snapshot import take_snapshot
from servo_agg.protocol.limits import values_outside, violation
from servo_agg.protocol.lint import lint_description, lint_info, lint_setting, setting_name
from servo_agg.protocol.messages import to_json, to_text
from servo_agg.protocol.routing import fill_missing, route
from servo_agg.protocol.settings import dotted_path, iter_settings, join_names, normalize_description

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from servo_agg.commands.conformance_calls import TestSignal
    from servo_agg.commands.query import Context
    from servo_agg.config import Config
    from servo_agg.protocol.outcome import Outcome
    from servo_agg.protocol.settings import SettingPath

    Object = dict[str, Any]

_SIGNAL_DELAY = 0.5
"""Seconds after which a driver that prints no progress is canceled or stopped."""

_PROCESS_END_WAIT = 0.5
"""Seconds after the end of a driver in which its other processes may end."""

_PROCESS_POLL_INTERVAL = 0.1
"""Seconds between two snapshots while such processes run."""


def run_conformance_test(
    context: Context, name: str, application: str, *, read_only: bool, json: bool, width: int | None
) -> Result:
    """Test one driver (SPEC 14.41 to 14.49). `read_only`: it is not adjusted.

    With `json` the result is `{"driver", "application", "status": "ok" | "failed", "rules": [{"rule",
    "verdict": "pass" | "fail" | "not-tested", "what", "remedy"}]}`, with null where there is nothing to say.
    Otherwise it is a table, wrapped to `width`. The exit status is 1 if the driver breaks a rule. Raises
    BadInput if there is no such driver, and, before it is adjusted, Busy or BadEnvironment.
    """
    name = _find_driver(context.config, name)
    if not read_only:
        take_lock(context)
        if context.loop.cause:
            return stopped_result(context.loop.cause)
        require_psutil()
        require_watchdog(context)
    driver = TestedDriver(context, name, application)
    test = _ConformanceTest(context, driver)
    try:
        test.run(read_only=read_only)
    except TestEnded:
        test.results.record_not_tested(rules.RULES, "a process of the driver survived SIGKILL")
    test.warn_if_unrestored()
    if context.loop.cause:
        return stopped_result(context.loop.cause, driver.outcomes, unkillable=context.supervisor.unkillable)
    failures = [result for result in test.results if result.verdict == "fail"]
    failure = None
    if failures:
        lines = (f"{result.rule}: {result.what}" for result in failures)
        message = "\n".join([f"{name} breaks {pluralize(len(failures), 'rule')}", *lines])
        failure = {"status": "failed", "reason": "broken-rules", "message": message}
    status = 1 if failures else 0
    if json:
        final = {
            "driver": name,
            "application": application,
            "status": "failed" if failures else "ok",
            "rules": [result.as_object() for result in test.results],
        }
        return Result(final, status, failure)
    return Result(rules.report_text(test.results, width), status, failure)


def _find_driver(config: Config, name: str) -> str:
    """Return the name of a driver that is given by name or path. Raises BadInput if there is none."""
    name = name.removeprefix("./").removeprefix("adjust.d/")
    if name in config.drivers:
        return name
    listing = config.listing
    if name in listing.not_executable:
        path = quote(f"adjust.d/{name}")
        raise BadInput(f"adjust.d/{name} is not executable; run: chmod +x {path}", f"chmod +x {path}")
    if name in listing.leftovers or name in listing.documents:
        raise BadInput(f"adjust.d/{name} is ignored because of its name; give it another name")
    if name in listing.unreachable:
        raise BadInput(f"adjust.d/{name} {listing.unreachable[name]}")
    near = close_matches(name, config.drivers)
    hint = f"did you mean {near[0]}?" if near else f"drivers: {', '.join(config.drivers) or 'none'}"
    raise BadInput(f"no such driver in {config.directory}/adjust.d ({hint}): {name!r}")


class _ConformanceTest:
    """The test of one driver.

    results  see RuleResults
    """

    def __init__(self, context: Context, driver: TestedDriver) -> None:
        self.results = rules.RuleResults()
        self._context = context
        self._driver = driver
        self._has_cancel = False
        self._description: Object = {}
        self._present_values: dict[SettingPath, Any] = {}
        self._unrestored = ""

    def run(self, *, read_only: bool) -> None:
        """Test the driver. Raises TestEnded."""
        if not self._test_info():
            self.results.record_not_tested(rules.RULES, "it cannot be started")
            return
        if not self._test_query():
            self.results.record_not_tested(rules.RULES, "it does not describe its settings")
        elif read_only:
            self.results.record_not_tested(rules.ADJUSTING, "--read-only was given")
        elif not self._present_values:
            self.results.record_not_tested(rules.ADJUSTING, "it describes no setting with a value")
        else:
            self._test_adjust()

    def warn_if_unrestored(self) -> None:
        """Warn if the driver may have a value that it did not have before the test."""
        if self._unrestored:
            self._context.warn(f"warning: {self._driver.name} may still have {self._unrestored}")

    # What all answers have in common.

    def _judge_output(self, outcome: Outcome, rule: str) -> bool:
        """Judge output and exit status; return whether the reply can be judged.

        `rule`: the rule about the reply.
        """
        facts = outcome.facts
        call = f"on {facts.option}" if facts.option else "in an adjust"
        if facts.failure == "malformed":
            self.results.record_failure(rules.STDOUT, message_with_call(outcome), rules.STDOUT_REMEDY)
            self.results.record_not_tested([rule], f"{call} its output is not JSON")
            return False
        if facts.failure is not None:
            self.results.record_failure(rule, outcome.message, *self._remedy(outcome))
            return False
        self.results.record_pass(rules.STDOUT)
        if facts.killed_by is not None:
            self.results.record_not_tested([rules.EXIT], f"{call} it was killed by {facts.killed_by}")
            return True
        if not facts.exit_code:
            self.results.record_pass(rules.EXIT)
            return True
        if not outcome.body:
            self.results.record_failure(rules.EXIT, message_with_call(outcome), rules.NO_REPLY_REMEDY)
            self.results.record_not_tested([rule], f"{call} it gave no reply")
            return False
        if outcome.body.get("status", "" if rule == rules.ADJUST else "ok") == "ok":
            what = f"{call}: replied ok but exited with status {facts.exit_code}"
            self.results.record_failure(rules.EXIT, what, rules.EXIT_REMEDY)
        return True

    def _remedy(self, outcome: Outcome) -> tuple[str, ...]:
        """Return what to do about a failure, then the commands in it."""
        call = outcome.facts.option
        if outcome.facts.failure == "cannot-start":
            path = quote(f"adjust.d/{self._driver.name}")
            command = f"{path} --info {quote(self._driver.application)}"
            return f"fix that, then verify with: {command}", command
        if outcome.facts.failure == "timeout" and not call:
            text = (
                f"print a progress line at least every {self._driver.adjust_limit:g} s, and exit after the"
                " reply; or set OPTUNE_IO_TIMEOUT to a larger value"
            )
            return (text,)
        if outcome.facts.failure == "timeout":
            limit = self._driver.query_limit
            # A larger value does not change the limit of a check.
            longer = ", or set OPTUNE_IO_TIMEOUT to a larger value" if limit < CHECK_TIMEOUT else ""
            return (f"answer {call} within {limit:g} s{longer}",)
        return ("find out why SIGKILL does not end its processes",)

    # The rules about --info and --query.

    def _test_info(self) -> bool:
        """Test the answer to --info; return whether the driver can be started."""
        outcome = self._driver.ask("info")
        if not self._judge_output(outcome, rules.INFO):
            return outcome.facts.failure != "cannot-start"
        body = outcome.body
        self._has_cancel = body.get("has_cancel") is True
        findings = [*lint_info(body)]
        if body.get("status", "ok") != "ok":
            self.results.record_failure(rules.INFO, outcome.message, rules.INFO_REMEDY)
        elif outcome.facts.killed_by is not None:
            self.results.record_failure(rules.INFO, outcome.message, rules.CAUSE_REMEDY)
        elif findings:
            what = "; ".join(map(str, findings))
            self.results.record_failure(rules.INFO, what, "; ".join(finding.remedy for finding in findings))
        else:
            version = format_value(to_text(body["version"]))
            cancel = "can be canceled" if self._has_cancel else "cannot be canceled"
            self.results.record_pass(rules.INFO, f"version {version}, {cancel}")
        return True

    def _test_query(self) -> bool:
        """Test the answer to --query; return whether it describes settings."""
        description = self._describe()
        if description is None:
            return False
        settings = dict(iter_settings(description))
        self.results.record_pass(rules.QUERY, pluralize(len(settings), "setting"))
        findings = [*lint_description(description)]
        if not (settings or findings):
            self.results.record_failure(rules.DESCRIPTION, "it describes no setting", rules.QUERY_REMEDY)
        elif findings:
            what = "; ".join(map(str, findings))
            remedy = "; ".join(f"{finding.path}: {finding.remedy}" for finding in findings)
            self.results.record_failure(rules.DESCRIPTION, what, remedy)
        else:
            self.results.record_pass(rules.DESCRIPTION)
        self._description = description
        self._present_values = {
            path: setting["value"]
            for path, setting in settings.items()
            if isinstance(setting, dict) and setting.get("value") is not None
        }
        return True

    def _describe(self) -> Object | None:
        """Query the driver; return its description, None if it has none, which is recorded."""
        outcome = self._driver.ask("query")
        if not self._judge_output(outcome, rules.QUERY):
            return None
        if outcome.body.get("status", "ok") != "ok" or outcome.facts.killed_by is not None:
            self.results.record_failure(rules.QUERY, outcome.message, rules.CAUSE_REMEDY)
            return None
        try:
            return normalize_description(outcome.body)
        except SchemaError as error:
            what = f"on --query: its reply is not a description: {error}"
            self.results.record_failure(rules.QUERY, what, rules.QUERY_REMEDY)
            return None

    # The rules about an adjust.

    def _request(self, change: Object | None = None) -> Object:
        """Return the input that sets all present values, except for those of `change`."""
        owners = dict.fromkeys(dict(iter_settings(self._description)), self._driver.name)
        request = fill_missing(change or {}, self._description, set(self._present_values))
        return route(request, owners)[self._driver.name]

    def _test_adjust(self) -> None:
        values = ", ".join(_assignment(path, value) for path, value in self._present_values.items())
        self._context.warn(f"adjusting {self._driver.name} with its present values: {values}")
        adjust = self._driver.adjust(self._request())
        judged = not adjust.took_too_long and self._judge_output(adjust.outcome, rules.ADJUST)
        judge_progress(self.results, adjust)
        if adjust.took_too_long:
            what = f"did not end within {adjust.seconds:.0f} s and was stopped"
            self.results.record_failure(rules.ADJUST, what, rules.DURATION_REMEDY)
        elif judged and adjust.says_ok and adjust.outcome.facts.killed_by is None:
            failed = "after an adjust with its present values,"
            self._judge_values(rules.ADJUST, f"within {adjust.seconds:.1f} s", failed, rules.EFFECT_REMEDY)
        elif judged:
            self.results.record_failure(rules.ADJUST, adjust_failure(adjust.outcome), *self._adjust_remedy())
        self._test_remaining_processes(adjust)
        if not self.results.has_passed(rules.ADJUST):
            self.results.record_not_tested(rules.RULES, "an adjust with its present values has not passed")
            return
        tried = ["a value out of range"] if self._test_refusal() else []
        tried += ["a cancel"] if self._test_cancel(adjust) else []
        tried += ["SIGTERM"] if self._test_termination(adjust) else []
        if tried:
            self._restore(f"after {join_names(tried)}")
        self.results.record_not_tested([rules.RECOVERY], "nothing had to be restored")

    def _judge_values(self, rule: str, passed: str, failed: str, remedy: str) -> bool:
        """Query the driver again; judge and return whether its values are as before the test.

        `passed`: what to say then. `failed`: what to say otherwise, before what --query shows. If the query
        fails, the rule is not tested.
        """
        description = self._describe()
        if description is None:
            self.results.record_not_tested([rule], "on --query it does not describe its settings any more")
            return False
        settings = dict(iter_settings(description))
        for path, present in self._present_values.items():
            setting = settings.get(path)
            value = setting.get("value") if isinstance(setting, dict) else None
            if not is_equal(value, present):
                shown = f"no value of {setting_name(path)}" if value is None else _assignment(path, value)
                self.results.record_failure(rule, f"{failed} --query shows {shown}", remedy)
                self._record_unrestored(path, value)
                return False
        self.results.record_pass(rule, passed)
        return True

    def _record_unrestored(self, path: SettingPath, value: Any) -> None:
        """Record a value that the driver may have now and did not have before the test."""
        if value is None:
            return
        before = (
            f" ({format_value(self._present_values[path])} before the test)"
            if path in self._present_values
            else ""
        )
        self._unrestored = f"{_assignment(path, value)}{before}"

    def _adjust_remedy(self) -> tuple[str, str]:
        """Return what to do about an adjust that fails, and the command in it."""
        path, value = next(iter(self._present_values.items()))
        assignment = quote(f"{dotted_path(path)}={value if isinstance(value, str) else to_json(value)}")
        command = f"./adjust -v {quote(self._driver.application)} --set {assignment}"
        text = (
            'end with `{"status":"ok"}` and exit status 0 when the values are in effect; to see its messages,'
            f" run: {command}"
        )
        return text, command

    def _test_remaining_processes(self, adjust: ObservedAdjust) -> None:
        if adjust.outcome.facts.exit_code is None or adjust.outcome.facts.signals_sent:
            self.results.record_not_tested([rules.PROCESSES], "it did not exit by itself")
            return
        loop = self._context.loop
        until = loop.now() + _PROCESS_END_WAIT
        while True:
            left = [
                process
                for process in take_snapshot().values()
                if process.session == adjust.pid and not process.is_zombie
            ]
            if not left or loop.now() >= until:
                break
            loop.pause(_PROCESS_POLL_INTERVAL)
            if loop.cause:
                raise TestEnded
        if left:
            names = ", ".join(process.name() for process in left)
            self.results.record_failure(
                rules.PROCESSES,
                f"still running in the session of the driver: {names}",
                rules.PROCESSES_REMEDY,
                rules.SERVICE_COMMAND,
            )
        else:
            self.results.record_pass(rules.PROCESSES)

    def _test_refusal(self) -> bool:
        """Test values out of range; return whether the driver got any."""
        tried = []
        for path, setting in iter_settings(self._description):
            # A wrong range was reported before, and may have no value out of it.
            if not isinstance(setting, dict) or any(lint_setting("", setting)):
                continue
            for value in values_outside(setting):
                assignment = _assignment(path, value)
                what = f"{assignment}, {violation(setting, value)}"
                self._context.warn(f"trying {what}: it must be refused")
                self._record_unrestored(path, value)
                adjust = self._driver.adjust(self._request(_change(path, value)))
                if not self._judge_refusal(adjust, assignment, what):
                    return True
                self._unrestored = ""
                tried.append(assignment)
        if not tried:
            self.results.record_not_tested(
                [rules.REFUSAL, rules.EXPLANATION],
                "no setting has a limit or list that a value could violate",
            )
            return False
        refused = tried[0] if len(tried) == 1 else pluralize(len(tried), "value")
        failed = f"refused {refused}, but"
        self._judge_values(rules.REFUSAL, f"refused {refused}", failed, rules.REFUSAL_REMEDY)
        return True

    def _judge_refusal(self, adjust: ObservedAdjust, assignment: str, what: str) -> bool:
        """Judge an adjust with a value that must be refused; return whether others may be tried."""
        outcome, results = adjust.outcome, self.results
        if adjust.says_ok:
            results.record_failure(rules.REFUSAL, f"accepted {what}", rules.REFUSAL_REMEDY)
            results.record_not_tested([rules.EXPLANATION], "it refused nothing")
            self._restore("after it accepted a value out of range")
            return False
        if outcome.facts.failure == "malformed":
            results.record_failure(rules.STDOUT, f"{assignment}: {outcome.message}", rules.STDOUT_REMEDY)
            results.record_not_tested([rules.REFUSAL, rules.EXPLANATION], "its output is not JSON")
            return False
        if outcome.facts.failure is not None or adjust.took_too_long:
            message = "did not end" if adjust.took_too_long else outcome.message
            results.record_failure(rules.REFUSAL, f"{assignment}: {message}", rules.REFUSAL_REMEDY)
            results.record_not_tested([rules.EXPLANATION], "it refused nothing")
            self._restore("after it was stopped")
            return False
        problem = explanation_problem(outcome)
        if problem:
            results.record_failure(rules.EXPLANATION, f"{assignment}: {problem}", rules.EXPLANATION_REMEDY)
        else:
            results.record_pass(rules.EXPLANATION, f"{outcome.status}, {outcome.reason}")
        return True

    def _restore(self, when: str) -> None:
        self._context.warn(f"adjusting {self._driver.name} with its present values again")
        adjust = self._driver.adjust(self._request())
        if not adjust.says_ok:
            self._record_no_recovery(when, adjust)
            return
        failed = f"{when}, an adjust with its present values has no effect:"
        if self._judge_values(rules.RECOVERY, when, failed, rules.EFFECT_REMEDY):
            self._unrestored = ""

    def _record_no_recovery(self, when: str, adjust: ObservedAdjust) -> None:
        what = f"{when}, it does not accept its present values: {adjust.outcome.message}"
        self.results.record_failure(rules.RECOVERY, what, rules.RECOVERY_REMEDY)

    # The rules about a cancel and SIGTERM.

    def _adjust_and_signal(self, normal: ObservedAdjust, signal: TestSignal) -> ObservedAdjust:
        """Adjust the driver with its present values, and send it a signal during the adjust."""
        self._context.warn(f"adjusting {self._driver.name} with its present values, to send it {signal}")
        # A driver that is slow to start may not have installed its handlers yet.
        prompt = bool(normal.progress_count) and normal.first_progress_at < normal.began_at + _SIGNAL_DELAY
        return self._driver.adjust(self._request(), signal, None if prompt else _SIGNAL_DELAY)

    def _record_not_signaled(self, rule: str, signal: TestSignal, adjust: ObservedAdjust) -> None:
        """Record that an adjust ended before the signal was sent."""
        self.results.record_not_tested(
            [rule], f"it ended after {adjust.seconds:.1f} s, before {signal} was sent"
        )
        if not adjust.says_ok:
            self._record_no_recovery("after an earlier adjust", adjust)

    def _test_cancel(self, normal: ObservedAdjust) -> bool:
        """Test a cancel; return whether one was sent. `normal`: an adjust without a cancel."""
        if not self._has_cancel:
            self.results.record_not_tested([rules.CANCEL], "has_cancel is not true")
            return False
        adjust = self._adjust_and_signal(normal, "SIGUSR1")
        outcome, facts, results = adjust.outcome, adjust.outcome.facts, self.results
        if adjust.signaled_at is None or "SIGUSR1" not in facts.signals_sent:
            self._record_not_signaled(rules.CANCEL, "SIGUSR1", adjust)
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if facts.failure == "malformed":
            results.record_failure(rules.STDOUT, f"after SIGUSR1: {outcome.message}", rules.STDOUT_REMEDY)
            results.record_not_tested([rules.CANCEL], "its output is not JSON")
        elif "SIGTERM" in facts.signals_sent:
            what = f"did not end within {seconds:.1f} s after SIGUSR1"
            results.record_failure(rules.CANCEL, what, rules.CANCEL_REMEDY)
        elif outcome.body.get("status") == "ok":
            if may_have_been_ending(normal, adjust):
                results.record_not_tested([rules.CANCEL], f"it ended by itself {seconds:.1f} s after SIGUSR1")
            else:
                results.record_failure(
                    rules.CANCEL, "replied ok although it was canceled", rules.CANCEL_REMEDY
                )
        elif facts.killed_by is not None:
            what = f"has_cancel is true, but SIGUSR1 ended it: killed by {facts.killed_by}"
            results.record_failure(rules.CANCEL, what, rules.HANDLER_REMEDY)
        elif explanation_problem(outcome):
            results.record_failure(
                rules.CANCEL, f"after SIGUSR1: {explanation_problem(outcome)}", rules.CANCEL_REMEDY
            )
        else:
            results.record_pass(rules.CANCEL, f"{outcome.status}, {seconds:.1f} s after SIGUSR1")
        return True

    def _test_termination(self, normal: ObservedAdjust) -> bool:
        """Test SIGTERM; return whether it was sent. `normal`: an adjust without it."""
        adjust = self._adjust_and_signal(normal, "SIGTERM")
        facts, results = adjust.outcome.facts, self.results
        if adjust.signaled_at is None or "SIGTERM" not in facts.signals_sent:
            self._record_not_signaled(rules.TERMINATION, "SIGTERM", adjust)
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if adjust.says_ok:
            results.record_not_tested(
                [rules.TERMINATION], f"it ended by itself, with ok, {seconds:.1f} s after SIGTERM"
            )
        elif "SIGKILL" not in facts.signals_sent:
            results.record_pass(rules.TERMINATION, f"{seconds:.1f} s after SIGTERM")
        elif facts.killed_by == "SIGKILL":
            what = f"did not end within {seconds:.1f} s after SIGTERM"
            results.record_failure(rules.TERMINATION, what, rules.TERMINATION_REMEDY)
        else:
            what = f"ended on SIGTERM, but a process that it had started did not end within {seconds:.1f} s"
            results.record_failure(rules.TERMINATION, what, rules.TERMINATION_REMEDY)
        return True


def _change(path: SettingPath, value: Any) -> Object:
    """Return the input that sets one value."""
    component, setting = path
    settings = {"settings": {setting: {"value": value}}}
    return {"application": settings if component is None else {"components": {component: settings}}}


def _assignment(path: SettingPath, value: Any) -> str:
    """Return a setting and its value for a message: `web.cpu=4`."""
    return f"{setting_name(path)}={format_value(value)}"
