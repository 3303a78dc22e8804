"""The command `--test-driver`: find out whether one driver keeps the rules of the protocol (SPEC 14).

Rules:
- Only what the contract demands is tested. A mistake breaks one rule; what cannot be judged because of it is
  not tested.
- The driver is adjusted with its present values. Values out of range are tried too. After that, and after a
  cancel or a stop, it gets its present values again. Queries in between show whether it has them.
- A step ends after the limit I without a message, 30 s if T is unlimited, or when it takes 20 times as long.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.commands import conformance_rules as rules
from servo_agg.commands.adjust import require_psutil, require_watchdog, take_lock
from servo_agg.commands.conformance_calls import Ended, TestedDriver
from servo_agg.commands.conformance_judgment import (
    Adjust,
    adjust_failure,
    cause_of,
    is_equal,
    is_short,
    judge_progress,
    shown,
    unexplained,
)
from servo_agg.commands.query import Result, stopped_result
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

    from servo_agg.commands.conformance_calls import Interruption
    from servo_agg.commands.query import Context
    from servo_agg.config import Config
    from servo_agg.protocol.outcome import Outcome
    from servo_agg.protocol.settings import SettingPath

    Object = dict[str, Any]

_SIGNAL_AFTER = 0.5
"""Seconds after which a driver that prints no progress is canceled or stopped."""

_LEFTOVER_WAIT = 0.5
"""Seconds in which the last processes of a driver may end after its own end."""

_LEFTOVER_POLL_INTERVAL = 0.1
"""Seconds between two looks at them."""


def conformance(
    context: Context, name: str, application: str, *, read_only: bool, json: bool, width: int | None
) -> Result:
    """Test one driver (SPEC 14). `read_only`: it is not adjusted.

    With `json` the result is `{"driver", "application", "status": "ok" | "failed", "rules": [{"rule",
    "verdict": "pass" | "fail" | "not-tested", "what", "remedy"}]}`, with null where there is nothing to say.
    Otherwise it is a table, wrapped to `width`. The exit status is 1 if the driver breaks a rule. Raises
    BadInput if there is no such driver, and, before it is adjusted, Busy or BadEnvironment.
    """
    name = _selected(context.config, name)
    if not read_only:
        take_lock(context)
        if context.loop.cause:
            return stopped_result(context.loop.cause)
        require_psutil()
        require_watchdog(context)
    driver = TestedDriver(context, name, application)
    test = _DriverTest(context, driver)
    try:
        test.run(read_only=read_only)
    except Ended:
        test.verdicts.skip(rules.RULES, "a process of the driver survives SIGKILL")
    test.warn_of_changes()
    if context.loop.cause:
        return stopped_result(context.loop.cause, driver.outcomes, unkillable=context.supervisor.unkillable)
    broken = [verdict for verdict in test.verdicts if verdict.kind == "fail"]
    failure = None
    if broken:
        whats = (f"{verdict.rule}: {verdict.what}" for verdict in broken)
        message = "\n".join([f"{name} breaks {pluralize(len(broken), 'rule')}", *whats])
        failure = {"status": "failed", "reason": "broken-rules", "message": message}
    status = 1 if broken else 0
    if json:
        final = {
            "driver": name,
            "application": application,
            "status": "failed" if broken else "ok",
            "rules": [verdict.as_object() for verdict in test.verdicts],
        }
        return Result(final, status, failure)
    return Result(rules.report_text(test.verdicts, width), status, failure)


def _selected(config: Config, name: str) -> str:
    """Return the name of a driver, which may be given as a path. Raises BadInput if there is none."""
    name = name.removeprefix("./").removeprefix("adjust.d/")
    if name in config.drivers:
        return name
    listing = config.listing
    if name in listing.not_executable:
        path = quote(f"adjust.d/{name}")
        raise BadInput(f"adjust.d/{name} is not executable; run: chmod +x {path}")
    if name in listing.leftovers or name in listing.documents:
        raise BadInput(f"adjust.d/{name} is ignored because of its name; give it another name")
    if name in listing.unreachable:
        raise BadInput(f"adjust.d/{name} {listing.unreachable[name]}")
    near = close_matches(name, config.drivers)
    hint = f"did you mean {near[0]}?" if near else f"drivers: {', '.join(config.drivers) or 'none'}"
    raise BadInput(f"no such driver in {config.directory}/adjust.d ({hint}): {name!r}")


class _DriverTest:
    """The test of one driver.

    verdicts  what was found out
    """

    def __init__(self, context: Context, driver: TestedDriver) -> None:
        self.verdicts = rules.Verdicts()
        self._context = context
        self._driver = driver
        self._has_cancel = False
        self._description: Object = {}
        self._present: dict[SettingPath, Any] = {}
        self._changed = ""

    def run(self, *, read_only: bool) -> None:
        """Test the driver. Raises Ended."""
        if not self._test_info():
            self.verdicts.skip(rules.RULES, "it cannot be started")
            return
        answers = self._test_query()
        if read_only:
            self.verdicts.skip(rules.ADJUSTING, "--read-only leaves it out")
        elif not answers:
            self.verdicts.skip(rules.RULES, "it does not describe its settings")
        elif not self._present:
            self.verdicts.skip(rules.ADJUSTING, "it describes no setting with a value")
        else:
            self._test_adjust()

    def warn_of_changes(self) -> None:
        """Warn if the driver may have a value that it did not have before the test."""
        if self._changed:
            self._context.warn(f"warning: {self._driver.name} may still have {self._changed}")

    # What all answers have in common.

    def _judge_output(self, outcome: Outcome, rule: str) -> bool:
        """Judge output and exit status; return whether the reply can be judged. `rule`: the one about it."""
        facts = outcome.facts
        call = facts.option or "an adjust"
        if facts.failure == "malformed":
            self.verdicts.record_failure(rules.STDOUT, cause_of(outcome), rules.STDOUT_REMEDY)
            self.verdicts.skip([rule], f"on {call} its output is not JSON")
            return False
        if facts.failure is not None:
            self.verdicts.record_failure(rule, outcome.message, self._remedy(outcome))
            return False
        self.verdicts.record_pass(rules.STDOUT)
        if not facts.exit_code:
            self.verdicts.record_pass(rules.EXIT)
            return True
        if not outcome.body:
            self.verdicts.record_failure(rules.EXIT, cause_of(outcome), rules.NO_REPLY_REMEDY)
            self.verdicts.skip([rule], f"on {call} it gave no reply")
            return False
        if outcome.body.get("status", "" if rule == rules.ADJUST else "ok") == "ok":
            what = f"on {call}: replied ok but exited with status {facts.exit_code}"
            self.verdicts.record_failure(rules.EXIT, what, "exit with 0 when the reply says ok, only then")
        return True

    def _remedy(self, outcome: Outcome) -> str:
        call = outcome.facts.option
        path = quote(f"adjust.d/{self._driver.name}")
        if outcome.facts.failure == "cannot-start":
            return f"fix that, then verify with: {path} --info {quote(self._driver.application)}"
        if outcome.facts.failure == "timeout" and not call:
            return (
                f"print a progress line at least every {self._driver.limit:g} s, exit after the reply, or"
                " set a longer OPTUNE_IO_TIMEOUT"
            )
        if outcome.facts.failure == "timeout":
            return f"answer {call} within {self._driver.limit:g} s, or set a longer OPTUNE_IO_TIMEOUT"
        return "find out what holds its processes: SIGKILL does not end them"

    # The rules about --info and --query.

    def _test_info(self) -> bool:
        """Test the answer to --info; return whether the driver can be started."""
        outcome = self._driver.ask("info")
        if not self._judge_output(outcome, rules.INFO):
            return outcome.facts.failure != "cannot-start"
        body = outcome.body
        self._has_cancel = body.get("has_cancel") is True
        findings = [*lint_info(body)]
        if body.get("status", "ok") != "ok" or outcome.facts.killed_by is not None:
            self.verdicts.record_failure(rules.INFO, outcome.message, rules.INFO_REMEDY)
        elif findings:
            what = "; ".join(map(str, findings))
            self.verdicts.record_failure(rules.INFO, what, "; ".join(finding.remedy for finding in findings))
        else:
            version = shown(to_text(body["version"]))
            cancel = "can be canceled" if self._has_cancel else "cannot be canceled"
            self.verdicts.record_pass(rules.INFO, f"version {version}, {cancel}")
        return True

    def _test_query(self) -> bool:
        """Test the answer to --query; return whether it describes settings."""
        description = self._describe()
        if description is None:
            return False
        settings = dict(iter_settings(description))
        self.verdicts.record_pass(rules.QUERY, pluralize(len(settings), "setting"))
        findings = [*lint_description(description)]
        if not (settings or findings):
            self.verdicts.record_failure(rules.DESCRIPTION, "it describes no setting", rules.QUERY_REMEDY)
        elif findings:
            what = "; ".join(map(str, findings))
            remedy = "; ".join(f"{finding.path}: {finding.remedy}" for finding in findings)
            self.verdicts.record_failure(rules.DESCRIPTION, what, remedy)
        else:
            self.verdicts.record_pass(rules.DESCRIPTION)
        self._description = description
        self._present = {
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
            self.verdicts.record_failure(rules.QUERY, outcome.message, "fix the cause that it gives")
            return None
        try:
            return normalize_description(outcome.body)
        except SchemaError as error:
            what = f"on --query: its answer is not a description: {error}"
            self.verdicts.record_failure(rules.QUERY, what, rules.QUERY_REMEDY)
            return None

    # The rules about an adjust.

    def _request(self, change: Object | None = None) -> Object:
        """Return the input that has all present values, except for `change`."""
        owners = dict.fromkeys(dict(iter_settings(self._description)), self._driver.name)
        request = fill_missing(change or {}, self._description, set(self._present))
        return route(request, owners)[self._driver.name]

    def _test_adjust(self) -> None:
        values = ", ".join(f"{setting_name(path)}={shown(value)}" for path, value in self._present.items())
        self._context.warn(f"adjusting {self._driver.name} with its present values: {values}")
        adjust = self._driver.adjust(self._request())
        judged = not adjust.too_long and self._judge_output(adjust.outcome, rules.ADJUST)
        judge_progress(self.verdicts, adjust)
        if adjust.too_long:
            what = f"did not end within {adjust.seconds:.0f} s and was stopped"
            self.verdicts.record_failure(
                rules.ADJUST, what, "end it, and report a failure, when it takes too long"
            )
        elif judged and adjust.says_ok and adjust.outcome.facts.killed_by is None:
            self._judge_effect(adjust)
        elif judged:
            self.verdicts.record_failure(rules.ADJUST, adjust_failure(adjust.outcome), self._adjust_remedy())
        self._test_leftovers(adjust)
        if not self.verdicts.has_passed(rules.ADJUST):
            self.verdicts.skip(rules.RULES, "it does not accept its present values")
            return
        tried = ["a value out of range"] if self._test_refusal() else []
        tried += ["a cancel"] if self._test_cancel(adjust) else []
        tried += ["a stop"] if self._test_termination(adjust) else []
        if tried:
            self._restore(f"after {join_names(tried)}")
        self.verdicts.skip([rules.RECOVERY], "nothing had to be restored")

    def _judge_effect(self, adjust: Adjust) -> None:
        """Judge whether an adjust with its present values has left it with them."""
        changed = self._changed_value()
        if changed is None:
            self.verdicts.record_pass(rules.ADJUST, f"within {adjust.seconds:.1f} s")
            return
        path, value = changed
        present = shown(self._present[path])
        what = f"was adjusted to {setting_name(path)}={present}, and then --query shows {shown(value)}"
        self.verdicts.record_failure(rules.ADJUST, what, rules.EFFECT_REMEDY)
        self._note_change(path, value)

    def _changed_value(self) -> tuple[SettingPath, Any] | None:
        """Query the driver again; return a setting that has another value than before, and that value.

        None if there is no such setting, or if the driver does not describe its settings now.
        """
        settings = dict(iter_settings(self._describe() or {}))
        for path, present in self._present.items():
            setting = settings.get(path)
            if isinstance(setting, dict) and not is_equal(setting.get("value"), present):
                return path, setting.get("value")
        return None

    def _note_change(self, path: SettingPath, value: Any) -> None:
        """Remember what a driver may have now that it did not have before the test."""
        before = f" ({shown(self._present[path])} before the test)" if path in self._present else ""
        self._changed = f"{setting_name(path)}={shown(value)}{before}"

    def _adjust_remedy(self) -> str:
        path, value = next(iter(self._present.items()))
        assignment = quote(f"{dotted_path(path)}={value if isinstance(value, str) else to_json(value)}")
        return (
            'end with `{"status":"ok"}` and exit status 0 when the values are in effect; see what it says:'
            f" ./adjust -v {quote(self._driver.application)} --set {assignment}"
        )

    def _test_leftovers(self, adjust: Adjust) -> None:
        if adjust.outcome.facts.exit_code is None or adjust.outcome.facts.signals_sent:
            self.verdicts.skip([rules.LEFTOVERS], "it did not exit by itself")
            return
        loop = self._context.loop
        until = loop.now() + _LEFTOVER_WAIT
        while True:
            left = [
                process
                for process in take_snapshot().values()
                if process.session == adjust.pid and not process.is_zombie
            ]
            if not left or loop.now() >= until:
                break
            loop.pause(_LEFTOVER_POLL_INTERVAL)
            if loop.cause:
                raise Ended
        if left:
            names = ", ".join(process.name() for process in left)
            self.verdicts.record_failure(
                rules.LEFTOVERS, f"left running in its session: {names}", rules.LEFTOVER_REMEDY
            )
        else:
            self.verdicts.record_pass(rules.LEFTOVERS)

    def _test_refusal(self) -> bool:
        """Test values out of range; return whether the driver got any."""
        tried = []
        for path, setting in iter_settings(self._description):
            # A range that makes no sense was reported, and may have no value out of it.
            if not isinstance(setting, dict) or any(lint_setting("", setting)):
                continue
            for value in values_outside(setting):
                assignment = f"{setting_name(path)}={shown(value)}"
                what = f"{assignment}, {violation(setting, value)}"
                self._context.warn(f"trying {what}: it must be refused")
                self._note_change(path, value)
                adjust = self._driver.adjust(self._request(_change(path, value)))
                if not self._judge_refusal(adjust, assignment, what):
                    return True
                self._changed = ""
                tried.append(assignment)
        if not tried:
            self.verdicts.skip([rules.REFUSAL, rules.EXPLANATION], "no value can be out of range")
            return False
        refused = tried[0] if len(tried) == 1 else pluralize(len(tried), "value")
        changed = self._changed_value()
        if changed is None:
            self.verdicts.record_pass(rules.REFUSAL, f"refused {refused}")
        else:
            path, value = changed
            what = f"refused {refused}, and then --query shows {setting_name(path)}={shown(value)}"
            self.verdicts.record_failure(rules.REFUSAL, what, rules.REFUSAL_REMEDY)
            self._note_change(path, value)
        return True

    def _judge_refusal(self, adjust: Adjust, assignment: str, what: str) -> bool:
        """Judge an adjust with a value that must be refused; return whether others may be tried."""
        outcome, verdicts = adjust.outcome, self.verdicts
        if adjust.says_ok:
            verdicts.record_failure(rules.REFUSAL, f"accepted {what}", rules.REFUSAL_REMEDY)
            verdicts.skip([rules.EXPLANATION], "it refused nothing")
            self._restore("after it accepted a value out of range")
            return False
        if outcome.facts.failure == "malformed":
            verdicts.record_failure(rules.STDOUT, f"{assignment}: {outcome.message}", rules.STDOUT_REMEDY)
            verdicts.skip([rules.REFUSAL, rules.EXPLANATION], "its output is not JSON")
            return False
        if outcome.facts.failure is not None or adjust.too_long:
            message = "did not end" if adjust.too_long else outcome.message
            verdicts.record_failure(rules.REFUSAL, f"{assignment} is {message}", rules.REFUSAL_REMEDY)
            verdicts.skip([rules.EXPLANATION], "it refused nothing")
            self._restore("after it was stopped")
            return False
        problem = unexplained(outcome)
        if problem:
            verdicts.record_failure(rules.EXPLANATION, f"{assignment}: {problem}", rules.EXPLANATION_REMEDY)
        else:
            verdicts.record_pass(rules.EXPLANATION, f"{outcome.status}, {outcome.reason}")
        return True

    def _restore(self, when: str) -> None:
        self._context.warn(f"adjusting {self._driver.name} with its present values again")
        adjust = self._driver.adjust(self._request())
        if not adjust.says_ok:
            self._record_no_recovery(when, adjust)
            return
        changed = self._changed_value()
        if changed is not None:
            path, value = changed
            what = (
                f"{when} its present values have no effect: --query shows {setting_name(path)}={shown(value)}"
            )
            self.verdicts.record_failure(rules.RECOVERY, what, rules.EFFECT_REMEDY)
            self._note_change(path, value)
            return
        self._changed = ""
        self.verdicts.record_pass(rules.RECOVERY, when)

    def _record_no_recovery(self, when: str, adjust: Adjust) -> None:
        what = f"{when} it does not accept its present values: {adjust.outcome.message}"
        self.verdicts.record_failure(rules.RECOVERY, what, rules.RECOVERY_REMEDY)

    # The rules about a cancel and SIGTERM.

    def _interrupt(self, normal: Adjust, signal: Interruption) -> Adjust:
        """Adjust the driver with its present values and send it a signal meanwhile."""
        self._context.warn(f"adjusting {self._driver.name} with its present values, to send it {signal}")
        # A driver that is only slow to start may not have installed its handlers.
        prompt = bool(normal.progress_count) and normal.progress_at < normal.began_at + _SIGNAL_AFTER
        return self._driver.adjust(self._request(), signal, None if prompt else _SIGNAL_AFTER)

    def _skip_signal(self, rule: str, signal: Interruption, adjust: Adjust) -> None:
        """Record that an adjust ended before it could get a signal."""
        self.verdicts.skip([rule], f"it ended, after {adjust.seconds:.1f} s, before {signal} could be sent")
        if not adjust.says_ok:
            self._record_no_recovery("after an earlier adjust", adjust)

    def _test_cancel(self, normal: Adjust) -> bool:
        """Test a cancel; return whether one was sent. `normal`: the adjust without one."""
        if not self._has_cancel:
            self.verdicts.skip([rules.CANCEL], "has_cancel is not true")
            return False
        adjust = self._interrupt(normal, "SIGUSR1")
        outcome, facts, verdicts = adjust.outcome, adjust.outcome.facts, self.verdicts
        if adjust.signaled_at is None or "SIGUSR1" not in facts.signals_sent:
            self._skip_signal(rules.CANCEL, "SIGUSR1", adjust)
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if facts.failure == "malformed":
            verdicts.record_failure(rules.STDOUT, f"after SIGUSR1: {outcome.message}", rules.STDOUT_REMEDY)
            verdicts.skip([rules.CANCEL], "its output is not JSON")
        elif "SIGTERM" in facts.signals_sent:
            what = f"did not end within {seconds:.1f} s after SIGUSR1"
            verdicts.record_failure(rules.CANCEL, what, rules.CANCEL_REMEDY)
        elif outcome.body.get("status") == "ok":
            if is_short(normal, adjust):
                verdicts.skip([rules.CANCEL], f"it ended by itself {seconds:.1f} s after SIGUSR1")
            else:
                verdicts.record_failure(
                    rules.CANCEL, "replied ok although it was canceled", rules.CANCEL_REMEDY
                )
        elif facts.killed_by is not None:
            what = f"has_cancel is true, but SIGUSR1 ended it: killed by {facts.killed_by}"
            verdicts.record_failure(rules.CANCEL, what, rules.HANDLER_REMEDY)
        elif unexplained(outcome):
            verdicts.record_failure(
                rules.CANCEL, f"after SIGUSR1: {unexplained(outcome)}", rules.CANCEL_REMEDY
            )
        else:
            verdicts.record_pass(rules.CANCEL, f"{outcome.status}, {seconds:.1f} s after SIGUSR1")
        return True

    def _test_termination(self, normal: Adjust) -> bool:
        """Test a stop; return whether it was stopped. `normal`: the adjust without a stop."""
        adjust = self._interrupt(normal, "SIGTERM")
        facts, verdicts = adjust.outcome.facts, self.verdicts
        if adjust.signaled_at is None or "SIGTERM" not in facts.signals_sent:
            self._skip_signal(rules.TERMINATION, "SIGTERM", adjust)
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if adjust.says_ok:
            verdicts.skip([rules.TERMINATION], f"it ended by itself, with ok, {seconds:.1f} s after SIGTERM")
        elif "SIGKILL" not in facts.signals_sent:
            verdicts.record_pass(rules.TERMINATION, f"{seconds:.1f} s after SIGTERM")
        elif facts.killed_by == "SIGKILL":
            what = f"did not end within {seconds:.1f} s after SIGTERM"
            verdicts.record_failure(rules.TERMINATION, what, rules.TERMINATION_REMEDY)
        else:
            what = f"ended on SIGTERM, but a process that it had started did not within {seconds:.1f} s"
            verdicts.record_failure(rules.TERMINATION, what, rules.TERMINATION_REMEDY)
        return True


def _change(path: SettingPath, value: Any) -> Object:
    """Return the input that sets one value."""
    component, setting = path
    settings = {"settings": {setting: {"value": value}}}
    return {"application": settings if component is None else {"components": {component: settings}}}
