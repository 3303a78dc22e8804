"""The command `--test-driver`: find out whether one driver keeps the rules of the protocol (SPEC 14).

Rules:
- Only what the contract demands is tested. A mistake breaks one rule; what cannot be judged because of it is
  not tested.
- The driver is adjusted with its present values. A value out of range is tried too: a driver that accepts it
  gets its present values again, as does one that was canceled or stopped.
- A step ends after the limit I without a message, 30 s if T is unlimited, or when it takes 20 times as long.
"""

from __future__ import annotations

from shlex import quote

from servo_agg.commands.adjust import require_psutil, require_watchdog, take_lock
from servo_agg.commands.conformance_rules import (
    ADJUST,
    ADJUSTING,
    CANCEL,
    DESCRIPTION,
    EXIT,
    EXPLANATION,
    INFO,
    LEFTOVERS,
    ORDER,
    QUERY,
    RANGE,
    RECOVERY,
    REFUSAL,
    RULES,
    STDOUT,
    TERMINATION,
    TIMING,
    Verdicts,
    report_text,
)
from servo_agg.commands.query import Result, stopped_result
from servo_agg.drivers.process import DriverCall
from servo_agg.drivers.timeouts import CHECK_TIMEOUT
from servo_agg.errors import BadInput, SchemaError, close_matches
from servo_agg.output.tables import pluralize, truncate_middle
from servo_agg.processes.snapshot import take_snapshot
from servo_agg.protocol.limits import value_outside, violation
from servo_agg.protocol.lint import lint_description, lint_info, setting_name
from servo_agg.protocol.messages import Progress, encode, to_json, to_text
from servo_agg.protocol.routing import fill_missing, route
from servo_agg.protocol.settings import dotted_path, iter_settings, normalize_description

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from servo_agg.commands.query import Context
    from servo_agg.config import Config
    from servo_agg.drivers.run import DriverRun, PhaseOptions
    from servo_agg.protocol.messages import Message
    from servo_agg.protocol.outcome import Outcome
    from servo_agg.protocol.settings import SettingPath

    Object = dict[str, Any]
    Interruption = Literal["SIGUSR1", "SIGTERM"]

_SIGNAL_AFTER = 0.5
"""Seconds after which a driver that prints no progress is canceled or stopped."""

_MIN_REST = 0.5
"""Seconds that an adjust must have before it when it gets a signal: a shorter one may end before that."""

_MAX_LIMITS = 20
"""A step may take this many times the time for which a driver may be silent."""

_SLOW = 1.0
"""Seconds after which a driver whose first progress comes at its end is taken to buffer its output."""

_AT_END = 0.1
"""Seconds within which all output comes at once."""

_LEFTOVER_WAIT = 0.5
"""Seconds in which the last processes of a driver may end after its own end."""

_SHOWN = 60
"""Columns that are shown of a value."""


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
    test = _DriverTest(context, name, application)
    try:
        test.run(read_only=read_only)
    except _Ended:
        test.warn_of_changes()
        if context.loop.cause:
            return stopped_result(context.loop.cause, test.outcomes, unkillable=context.supervisor.unkillable)
        test.verdicts.skip(RULES, "a process of the driver survives SIGKILL")
    status = 1 if test.verdicts.failed else 0
    if json:
        final = {
            "driver": name,
            "application": application,
            "status": "failed" if status else "ok",
            "rules": [verdict.as_object() for verdict in test.verdicts],
        }
        return Result(final, status)
    return Result(report_text(test.verdicts, width), status)


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


class _Ended(Exception):
    """No further step is possible: the run is to end, or a process survives SIGKILL."""


class _Adjust:
    """One adjust of the driver, as it was seen. Moments are in seconds of the event loop.

    outcome      the verdict of the supervisor
    messages     what it printed, each with the moment of its arrival
    began_at, ended_at  when it was started and had ended
    pid          its process, which has ended
    signaled_at  when it was canceled or stopped, None if it had ended before
    too_long     whether it was stopped because it took too long
    """

    def __init__(self, now: float) -> None:
        self.outcome: Outcome
        self.messages: list[tuple[float, Message]] = []
        self.began_at = self.ended_at = now
        self.pid = 0
        self.signaled_at: float | None = None
        self.too_long = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at

    @property
    def progress(self) -> list[tuple[float, Progress]]:
        """Its progress messages, each with the moment of its arrival."""
        return [(at, message) for at, message in self.messages if isinstance(message, Progress)]

    @property
    def says_ok(self) -> bool:
        """Whether it replied `ok`, whatever its exit status."""
        return self.outcome.facts.failure is None and self.outcome.body.get("status") == "ok"


class _DriverTest:
    """The test of one driver.

    verdicts  what was found out
    outcomes  of the driver in the last step
    """

    def __init__(self, context: Context, name: str, application: str) -> None:
        self.verdicts = Verdicts()
        self.outcomes: list[Outcome] = []
        self._context = context
        self._name = name
        self._application = application
        self._limit = CHECK_TIMEOUT if context.config.limit is None else context.config.limit
        self._has_cancel = False
        self._description: Object = {}
        self._present: dict[SettingPath, Any] = {}
        self._changed = ""

    def run(self, *, read_only: bool) -> None:
        """Test the driver. Raises _Ended."""
        if not self._test_info():
            self.verdicts.skip(RULES, "it cannot be started")
            return
        answers = self._test_query()
        if read_only:
            self.verdicts.skip(ADJUSTING, "--read-only leaves it out")
        elif not answers:
            self.verdicts.skip(RULES, "it does not describe its settings")
        elif not self._present:
            self.verdicts.skip(ADJUSTING, "it describes no setting with a value")
        else:
            self._test_adjust()

    def warn_of_changes(self) -> None:
        """Warn if the driver may have a value that it should have refused."""
        if self._changed:
            self._context.warn(f"warning: {self._name} may still have {self._changed}, out of range")

    # Running the driver.

    def _ask(self, phase: Literal["info", "query"]) -> Outcome:
        context = self._context
        options = context.phase_options(phase, context.loop.now(), checking=True)
        return self._run(DriverCall(self._name, [f"--{phase}", self._application]), options)

    def _adjust(
        self,
        request: Object,
        signal: Interruption | None = None,
        after: float | None = None,
    ) -> _Adjust:
        """Adjust the driver.

        With `signal` it is canceled or stopped once it has printed progress, or `after` seconds if that is
        not None.
        """
        loop = self._context.loop
        adjust = _Adjust(loop.now())
        latest = adjust.began_at + _MAX_LIMITS * self._limit

        def on_messages(_: str, messages: Sequence[Message]) -> None:
            adjust.messages += [(loop.now(), message) for message in messages]

        def wants_stop(run: DriverRun, now: float) -> bool:
            adjust.pid = run.process.pid
            if run.exited or loop.cause:
                return False
            if now >= latest:
                adjust.too_long = True
                return True
            if signal is None or adjust.signaled_at is not None:
                return run.cancel_expired(now)
            if not (adjust.progress or (after is not None and now >= adjust.began_at + after)):
                return False
            adjust.signaled_at = now
            if signal == "SIGUSR1":
                run.cancel(now, is_aggregator=False)
            return signal == "SIGTERM"

        options = self._context.phase_options(
            "adjust", adjust.began_at, checking=True, on_messages=on_messages, wants_stop=wants_stop
        )
        adjust.outcome = self._run(DriverCall(self._name, [self._application], encode(request)), options)
        adjust.ended_at = loop.now()
        return adjust

    def _run(self, call: DriverCall, options: PhaseOptions) -> Outcome:
        context = self._context
        if not context.loop.poll():
            self.outcomes = context.supervisor.run([call], options)
        if context.loop.cause or not self.outcomes:
            raise _Ended
        return self.outcomes.pop()

    # What all answers have in common.

    def _judge_output(self, outcome: Outcome, rule: str, call: str) -> bool:
        """Judge output and exit status; return whether the reply can be judged. `rule`: the one about it."""
        facts = outcome.facts
        if facts.failure == "malformed":
            self.verdicts.record_failure(STDOUT, _cause(outcome), _STDOUT_REMEDY)
            self.verdicts.skip([rule], f"on {call} its output is not JSON")
            return False
        if facts.failure is not None:
            self.verdicts.record_failure(rule, outcome.message, self._remedy(outcome, call))
            return False
        self.verdicts.record_pass(STDOUT)
        if not facts.exit_code:
            self.verdicts.record_pass(EXIT)
            return True
        if not outcome.body:
            self.verdicts.record_failure(EXIT, _cause(outcome), _NO_REPLY_REMEDY)
            self.verdicts.skip([rule], f"on {call} it gave no reply")
            return False
        if outcome.body.get("status", "" if rule == ADJUST else "ok") == "ok":
            what = f"on {call}: replied ok but exited with status {facts.exit_code}"
            self.verdicts.record_failure(EXIT, what, "exit with 0 when the reply says ok, only then")
        return True

    def _remedy(self, outcome: Outcome, call: str) -> str:
        path = quote(f"adjust.d/{self._name}")
        if outcome.facts.failure == "cannot-start":
            return f"fix that, then verify with: {path} --info {quote(self._application)}"
        if outcome.facts.failure == "timeout" and call == _ADJUST_CALL:
            return (
                f"print a progress line at least every {self._limit:g} s while it waits, or raise"
                " OPTUNE_IO_TIMEOUT"
            )
        if outcome.facts.failure == "timeout":
            return f"answer {call} within {self._limit:g} s, or raise OPTUNE_IO_TIMEOUT"
        return "find out what holds its processes: SIGKILL does not end them"

    # The rules about --info and --query.

    def _test_info(self) -> bool:
        """Test the answer to --info; return whether the driver can be started."""
        outcome = self._ask("info")
        if not self._judge_output(outcome, INFO, "--info"):
            return outcome.facts.failure != "cannot-start"
        body = outcome.body
        self._has_cancel = body.get("has_cancel") is True
        findings = [*lint_info(body)]
        if body.get("status", "ok") != "ok" or outcome.facts.killed_by is not None:
            self.verdicts.record_failure(INFO, outcome.message, _INFO_REMEDY)
        elif findings:
            what = "; ".join(map(str, findings))
            self.verdicts.record_failure(INFO, what, "; ".join(finding.remedy for finding in findings))
        else:
            version = truncate_middle(to_text(body["version"]), _SHOWN)
            cancel = "can be canceled" if self._has_cancel else "cannot be canceled"
            self.verdicts.record_pass(INFO, f"version {version}, {cancel}")
        return True

    def _test_query(self) -> bool:
        """Test the answer to --query; return whether it describes settings."""
        outcome = self._ask("query")
        if not self._judge_output(outcome, QUERY, "--query"):
            return False
        if outcome.body.get("status", "ok") != "ok" or outcome.facts.killed_by is not None:
            self.verdicts.record_failure(QUERY, outcome.message, "fix the cause that it gives")
            return False
        try:
            description = normalize_description(outcome.body)
        except SchemaError as error:
            what = f"on --query: its answer is not a description: {error}"
            self.verdicts.record_failure(QUERY, what, _QUERY_REMEDY)
            return False
        settings = dict(iter_settings(description))
        self.verdicts.record_pass(QUERY, pluralize(len(settings), "setting"))
        findings = [*lint_description(description)]
        if findings:
            what = "; ".join(map(str, findings))
            remedy = "; ".join(f"{finding.path}: {finding.remedy}" for finding in findings)
            self.verdicts.record_failure(DESCRIPTION, what, remedy)
        else:
            self.verdicts.record_pass(DESCRIPTION)
        self._description = description
        self._present = {
            path: setting["value"]
            for path, setting in settings.items()
            if isinstance(setting, dict) and setting.get("value") is not None
        }
        return True

    # The rules about an adjust.

    def _request(self, change: Object | None = None) -> Object:
        """Return the input that has all present values, except for `change`."""
        owners = dict.fromkeys(dict(iter_settings(self._description)), self._name)
        request = fill_missing(change or {}, self._description, set(self._present))
        return route(request, owners)[self._name]

    def _test_adjust(self) -> None:
        values = ", ".join(f"{setting_name(path)}={_shown(value)}" for path, value in self._present.items())
        self._context.warn(f"adjusting {self._name} with its present values: {values}")
        adjust = self._adjust(self._request())
        judged = not adjust.too_long and self._judge_output(adjust.outcome, ADJUST, _ADJUST_CALL)
        self._test_progress(adjust)
        if adjust.too_long:
            what = f"did not end within {adjust.seconds:.0f} s and was stopped"
            self.verdicts.record_failure(ADJUST, what, "end it, and report a failure, when it takes too long")
        elif judged and adjust.says_ok and adjust.outcome.facts.killed_by is None:
            self.verdicts.record_pass(ADJUST, f"within {adjust.seconds:.1f} s")
        elif judged:
            self.verdicts.record_failure(ADJUST, adjust.outcome.message, self._adjust_remedy())
        self._test_leftovers(adjust)
        if not self.verdicts.has_passed(ADJUST):
            self.verdicts.skip(RULES, "it does not accept its present values")
            return
        self._test_refusal()
        interrupted = self._test_cancel(adjust)
        interrupted |= self._test_termination(adjust)
        if interrupted:
            self._restore("after it was canceled or stopped")
        self.verdicts.skip([RECOVERY], "nothing had to be restored")

    def _adjust_remedy(self) -> str:
        path, value = next(iter(self._present.items()))
        assignment = quote(f"{dotted_path(path)}={value if isinstance(value, str) else to_json(value)}")
        return (
            'end with `{"status":"ok"}` and exit status 0 when the values are in effect; see what it says:'
            f" adjust -v {quote(self._application)} --set {assignment}"
        )

    def _test_progress(self, adjust: _Adjust) -> None:
        verdicts, progress = self.verdicts, adjust.progress
        if not progress:
            verdicts.skip([RANGE, ORDER, TIMING], "it printed no progress")
            return
        last = 0.0
        for _, message in progress:
            percent = message.percent
            if percent is None or not 0 <= percent <= 100:  # noqa: PLR2004 - percent
                shown = _shown(message.body["progress"])
                verdicts.record_failure(RANGE, f"printed progress {shown}", "print a number from 0 to 100")
            if percent is not None:
                clamped = min(max(percent, 0), 100)
                if clamped < last:
                    what = f"progress went from {last:g} back to {clamped:g}"
                    verdicts.record_failure(ORDER, what, "print the same or a larger number than before")
                last = max(last, clamped)
        verdicts.record_pass(RANGE, pluralize(len(progress), "progress line"))
        verdicts.record_pass(ORDER)
        self._test_timing(adjust)

    def _test_timing(self, adjust: _Adjust) -> None:
        first_at, first = adjust.progress[0]
        last_at = adjust.messages[-1][0]
        seconds = last_at - adjust.began_at
        if seconds <= _SLOW:
            self.verdicts.skip([TIMING], f"it took {seconds:.1f} s: only more than {_SLOW:g} s would show it")
        elif last_at - first_at >= _AT_END:
            self.verdicts.record_pass(TIMING, f"the first line after {first_at - adjust.began_at:.1f} s")
        elif first.percent is not None and first.percent >= 100:  # noqa: PLR2004 - percent
            self.verdicts.skip([TIMING], "its only progress is that of the end")
        else:
            what = f"all of its output came within the last {_AT_END:g} s of {seconds:.1f} s"
            self.verdicts.record_failure(TIMING, what, _TIMING_REMEDY)

    def _test_leftovers(self, adjust: _Adjust) -> None:
        if adjust.outcome.facts.exit_code is None or adjust.outcome.facts.signals_sent:
            self.verdicts.skip([LEFTOVERS], "it did not exit by itself")
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
            loop.pause(_AT_END)
            if loop.cause:
                raise _Ended
        if left:
            names = ", ".join(process.name() for process in left)
            self.verdicts.record_failure(LEFTOVERS, f"left running in its session: {names}", _LEFTOVER_REMEDY)
        else:
            self.verdicts.record_pass(LEFTOVERS)

    def _test_refusal(self) -> None:
        tried = []
        for path, setting in iter_settings(self._description):
            value = value_outside(setting) if isinstance(setting, dict) else None
            if value is None:
                continue
            assignment = f"{setting_name(path)}={_shown(value)}"
            what = f"{assignment}, {violation(setting, value)}"
            self._context.warn(f"trying {what}: it must be refused")
            self._changed = assignment
            adjust = self._adjust(self._request(_change(path, value)))
            if not self._judge_refusal(adjust, assignment, what):
                return
            self._changed = ""
            tried.append(assignment)
        if not tried:
            self.verdicts.skip([REFUSAL, EXPLANATION], "no setting has a range or list")
        elif len(tried) == 1:
            self.verdicts.record_pass(REFUSAL, f"refused {tried[0]}")
        else:
            self.verdicts.record_pass(REFUSAL, f"refused {pluralize(len(tried), 'value')}")

    def _judge_refusal(self, adjust: _Adjust, assignment: str, what: str) -> bool:
        """Judge an adjust with a value that must be refused; return whether others may be tried."""
        outcome, verdicts = adjust.outcome, self.verdicts
        if adjust.says_ok:
            verdicts.record_failure(REFUSAL, f"accepted {what}", _REFUSAL_REMEDY)
            verdicts.skip([EXPLANATION], "it refused nothing")
            self._restore("after it accepted a value out of range")
            return False
        if outcome.facts.failure == "malformed":
            verdicts.record_failure(STDOUT, f"{assignment}: {outcome.message}", _STDOUT_REMEDY)
            verdicts.skip([REFUSAL, EXPLANATION], "its output is not JSON")
            return False
        if outcome.facts.failure is not None or adjust.too_long:
            message = "did not end" if adjust.too_long else outcome.message
            verdicts.record_failure(REFUSAL, f"{assignment} is {message}", _REFUSAL_REMEDY)
            verdicts.skip([EXPLANATION], "it refused nothing")
            self._restore("after it was stopped")
            return False
        problem = _unexplained(outcome)
        if problem:
            verdicts.record_failure(EXPLANATION, f"{assignment}: {problem}", _EXPLANATION_REMEDY)
        else:
            verdicts.record_pass(EXPLANATION, f"{outcome.status}, {outcome.reason}")
        return True

    def _restore(self, when: str) -> None:
        self._context.warn(f"adjusting {self._name} with its present values again")
        adjust = self._adjust(self._request())
        if adjust.says_ok:
            self._changed = ""
            self.verdicts.record_pass(RECOVERY, when)
        else:
            what = f"{when} it does not accept its present values: {adjust.outcome.message}"
            self.verdicts.record_failure(RECOVERY, what, _RECOVERY_REMEDY)

    # The rules about a cancel and SIGTERM.

    def _interrupt(self, normal: _Adjust, signal: Interruption) -> _Adjust:
        """Adjust the driver with its present values and send it a signal meanwhile."""
        self._context.warn(f"adjusting {self._name} with its present values, to send it {signal}")
        # A driver that is only slow to start may not have installed its handlers.
        prompt = bool(normal.progress) and normal.progress[0][0] < normal.began_at + _SIGNAL_AFTER
        return self._adjust(self._request(), signal, None if prompt else _SIGNAL_AFTER)

    def _test_cancel(self, normal: _Adjust) -> bool:
        """Test a cancel; return whether one was sent. `normal`: the adjust without one."""
        if not self._has_cancel:
            self.verdicts.skip([CANCEL], "has_cancel is not true")
            return False
        adjust = self._interrupt(normal, "SIGUSR1")
        outcome, facts, verdicts = adjust.outcome, adjust.outcome.facts, self.verdicts
        if adjust.signaled_at is None or "SIGUSR1" not in facts.signals_sent:
            verdicts.skip([CANCEL], f"it ended, after {adjust.seconds:.1f} s, before SIGUSR1 could be sent")
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if facts.failure == "malformed":
            verdicts.record_failure(STDOUT, f"after SIGUSR1: {outcome.message}", _STDOUT_REMEDY)
            verdicts.skip([CANCEL], "its output is not JSON")
        elif "SIGTERM" in facts.signals_sent:
            what = f"did not end within {seconds:.1f} s after SIGUSR1"
            verdicts.record_failure(CANCEL, what, _CANCEL_REMEDY)
        elif outcome.body.get("status") == "ok":
            if _is_short(normal, adjust):
                verdicts.skip([CANCEL], f"it ended by itself {seconds:.1f} s after SIGUSR1")
            else:
                verdicts.record_failure(CANCEL, "replied ok although it was canceled", _CANCEL_REMEDY)
        elif facts.killed_by is not None:
            what = f"has_cancel is true, but SIGUSR1 ended it: killed by {facts.killed_by}"
            verdicts.record_failure(CANCEL, what, _HANDLER_REMEDY)
        else:
            verdicts.record_pass(CANCEL, f"{outcome.status}, {seconds:.1f} s after SIGUSR1")
        return True

    def _test_termination(self, normal: _Adjust) -> bool:
        """Test a stop; return whether it was stopped. `normal`: the adjust without a stop."""
        adjust = self._interrupt(normal, "SIGTERM")
        facts, verdicts = adjust.outcome.facts, self.verdicts
        if adjust.signaled_at is None or "SIGTERM" not in facts.signals_sent:
            why = f"it ended, after {adjust.seconds:.1f} s, before SIGTERM could be sent"
            verdicts.skip([TERMINATION], why)
            return False
        seconds = adjust.ended_at - adjust.signaled_at
        if adjust.says_ok and _is_short(normal, adjust):
            verdicts.skip([TERMINATION], f"it ended by itself {seconds:.1f} s after SIGTERM")
        elif "SIGKILL" not in facts.signals_sent:
            verdicts.record_pass(TERMINATION, f"{seconds:.1f} s after SIGTERM")
        elif facts.killed_by == "SIGKILL":
            what = f"did not end within {seconds:.1f} s after SIGTERM"
            verdicts.record_failure(TERMINATION, what, _TERMINATION_REMEDY)
        else:
            what = f"ended on SIGTERM, but a process that it had started did not within {seconds:.1f} s"
            verdicts.record_failure(TERMINATION, what, _TERMINATION_REMEDY)
        return True


def _is_short(normal: _Adjust, adjust: _Adjust) -> bool:
    """Return whether an adjust that got a signal may have been at its end. `normal`: one without a signal."""
    signaled_after = (adjust.signaled_at or adjust.began_at) - adjust.began_at
    return normal.seconds - signaled_after < _MIN_REST


def _change(path: SettingPath, value: Any) -> Object:
    """Return the input that sets one value."""
    component, setting = path
    settings = {"settings": {setting: {"value": value}}}
    return {"application": settings if component is None else {"components": {component: settings}}}


def _cause(outcome: Outcome) -> str:
    """Return the message of an outcome, which says in what it failed."""
    return outcome.message if outcome.facts.option else f"on an adjust: {outcome.message}"


def _unexplained(outcome: Outcome) -> str:
    """Return what is wrong with the reply of a driver that has refused a value, "" if nothing is."""
    body = outcome.body
    if not body:
        return f"gave no reply ({outcome.message})"
    for key in ("status", "reason"):
        word = body.get(key)
        if not isinstance(word, str) or not word.strip():
            return f"its reply has no `{key}`"
    if outcome.facts.exit_code == 0:
        return f"replied {outcome.status} but exited with status 0"
    return ""


def _shown(value: Any) -> str:
    return truncate_middle(value if isinstance(value, str) else to_json(value), _SHOWN)


_ADJUST_CALL = "an adjust"

_STDOUT_REMEDY = "send everything else to stderr, also what the commands print that it runs (`>&2`)"

_NO_REPLY_REMEDY = (
    'print the cause as JSON before it exits: {"status":"failed","reason":"WORD","message":"SENTENCE"}'
)

_INFO_REMEDY = 'answer {"version":"1.0","has_cancel":false}'

_QUERY_REMEDY = (
    'answer {"application":{"components":{"NAME":{"settings":{"NAME":{"value":4,"type":"range","min":1,'
    '"max":8,"step":1}}}}}}'
)

_TIMING_REMEDY = "flush stdout after each line, and print progress before and while it waits"

_LEFTOVER_REMEDY = (
    "wait for what it starts; let a service leave the session: setsid SERVICE </dev/null >/dev/null 2>&1 &"
)

_REFUSAL_REMEDY = (
    "compare each value with its range or list before anything is changed; answer"
    ' {"status":"rejected","reason":"out-of-range","message":SENTENCE} and exit with 1'
)

_EXPLANATION_REMEDY = (
    'answer {"status":"rejected","reason":"out-of-range","message":SENTENCE} and exit with 1'
)

_CANCEL_REMEDY = 'on SIGUSR1 end the adjust: answer {"status":"canceled","reason":"SIGUSR1"} and exit with 1'

_HANDLER_REMEDY = f"{_CANCEL_REMEDY}; or answer --info with `has_cancel` false"

_TERMINATION_REMEDY = "end on SIGTERM, and end the processes that it has started"

_RECOVERY_REMEDY = "remove what an earlier run may have left, such as a lock file, before it works"
