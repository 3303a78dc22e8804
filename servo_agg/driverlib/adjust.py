"""The base class of adjust drivers: command line, JSON lines, progress, cancel, errors (SPEC 12).

A driver is an executable that describes and changes the settings of something. With this module it is a
subclass of `Adjust` that says what is its own, and nothing else:

    #!/usr/bin/env python3
    from adjust import Adjust, AdjustError

    class Lamp(Adjust):
        def query(self):
            return {"components": {"lamp": {"settings": {"watts": {
                "type": "range", "min": 5, "max": 60, "step": 5, "value": read_watts()}}}}}

        def adjust(self, data):
            watts = data["application"]["components"]["lamp"]["settings"]["watts"]["value"]
            if watts > 60:
                raise AdjustError("lamp.watts: at most 60", status="rejected", reason="out-of-range")
            self.print_progress("dimming")
            write_watts(watts)

    if __name__ == "__main__":
        Lamp("1.0", "dims the lamp", supports_cancel=False).run()

What such a driver then is to its caller:

    lamp --version       the version, as text
    lamp --info [APP]    {"version": "1.0", "has_cancel": false}
    lamp --query APP     {"application": {"components": {...}}}; --describe is the same
    lamp APP             reads {"application": {...}, "control": {...}} from stdin, prints progress lines,
                         then {"status": "ok"} or {"status": ..., "reason": ..., "message": ...}

The exit status is 0 on success, 1 on failure or cancel, 2 on wrong usage, 128 + n when ended by signal n.
The driver's interpreter loads this file, and that may be any Python from 3.6 on: annotations are quoted where
that one would evaluate them. Every driver pays for what is imported here each time it starts, so what only
some need is imported where it is used.
"""
# ruff: noqa: INP001 - it is found through PYTHONPATH, as `adjust`: its directory is no package
# ruff: noqa: PLC0415 - what only some drivers need is imported where it is used: start-up time

import argparse
import json
import os
import signal
import sys
from _thread import RLock  # `threading` offers the same lock, for the price of importing it

TYPE_CHECKING = False  # `typing` has it too, for the same price
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType, ModuleType
    from typing import Any, TextIO

__all__ = ["Adjust", "AdjustError", "print_json_error"]

_ONE_PIECE = 4096
"""Bytes that Linux writes to a pipe all at once or not at all."""

_SIGNALS = range(1, 32)
"""All that a driver may have a handler for, but the real-time ones, two of which belong to the C library."""

_DESCRIBES = ("type", "min", "max", "step", "values", "unit", "default", "pinned")
"""The keys of a setting's configuration that belong in its description."""

_output = RLock()
"""Held while a line is printed. A signal handler may print while the code that it interrupted does."""


class AdjustError(Exception):
    """What a driver raises to end with a failure that the agent is told of (SPEC 12).

    The arguments make up the message, which is for a person: what failed, why, what to do. `status` is what
    the agent acts on: "failed", "rejected" (the values cannot be had and nothing was changed), "aborted",
    "transient-failure". `reason` is one word for machines, e.g. "start-failed" or "app-unavailable".
    """

    # For a subclass whose constructor does not call this one.
    status = "failed"
    reason = "unknown"

    def __init__(self, *args: "Any", status: str = "failed", reason: str = "unknown") -> None:
        self.status = status
        self.reason = reason
        super().__init__(*args)


_NOT_OF_AN_ENCODER = (AdjustError, SystemExit, KeyboardInterrupt, GeneratorExit)
"""What passes through a call of an encoder. Encoders' own exceptions derive from BaseException."""


class _Stopped(SystemExit):
    """The way out of a driver that is to stop: `finally` clauses run, `except Exception` lets it pass."""

    def __init__(self, status: str, number: int, code: int) -> None:
        super().__init__(code)
        self.exit_status = code
        self.reply = {
            "status": status,
            "reason": _signal_name(number),
            "message": f"{status} by {_signal_name(number)} before it was done",
        }


class Adjust:
    """An adjust driver; to be subclassed (SPEC 12).

    Arguments: `version`, any text; `cli_desc`, what --help says of the driver; `supports_cancel`, whether the
    driver may be sent SIGUSR1 to make it give up early; `progress_interval`, the seconds between two progress
    messages that are printed during `adjust` without the driver's doing, None for none.

    A subclass overrides `query` and `adjust`, and if it likes `info` and `handle_cancel`. It finds:

    `parser`          the ArgumentParser; add arguments between construction and `run`
    `args`            what the parser found; a subclass may assign another namespace before `run`
    `app_id`          APP of the command line, or None (--info may come without it); may be assigned, too
    `input_data`      the object read from stdin; None unless in an adjust
    `progress`        percent done, 0 to 100; the subclass sets it
    `progress_message`  the text that goes with it when `print_progress` is given none
    `timer`           the thread that prints progress every `progress_interval` seconds, None if none runs
    """

    def __init__(
        self,
        version: str,
        cli_desc: str,
        supports_cancel: bool,
        progress_interval: "float | None" = None,
    ) -> None:
        self.version = version
        self.cli_desc = cli_desc
        self.supports_cancel = supports_cancel
        self.progress_interval = progress_interval
        self.args = None
        self.app_id = None
        self.input_data: Any = None
        self.progress: float = 0
        self.progress_message: Any = None
        self.timer: Any = None

        # "resolve": a driver may bring an option of its own by a name that is ours.
        self.parser = argparse.ArgumentParser(description=cli_desc, conflict_handler="resolve")
        self.parser.add_argument("--version", action="store_true", help="print the version and exit")
        self.parser.add_argument(
            "--info", action="store_true", help="print version and abilities as JSON and exit"
        )
        self.parser.add_argument(
            "--query", "--describe", action="store_true", help="print the settings as JSON and exit"
        )
        self.parser.add_argument(
            "app_id", nargs="?", metavar="APP", help="the application; needed except for --info and --version"
        )

        # All that is ours to know hangs on one mangled name: drivers use `_process`, `_fail` and the like.
        self.__run = _Run(self)

    # Attributes that exist before `run`: the command line is parsed when they are first used.

    @property
    def args(self) -> "Any":
        """What the parser found on the command line."""
        mine = vars(self)
        if mine.get("args") is None:
            mine["args"] = self.__run.parse_early()
        return mine["args"]

    @args.setter
    def args(self, value: "Any") -> None:
        vars(self)["args"] = value

    @property
    def app_id(self) -> "str | None":
        """The application, APP of the command line."""
        assigned: str | None = vars(self).get("app_id")
        return getattr(self.args, "app_id", None) if assigned is None else assigned

    @app_id.setter
    def app_id(self, value: "str | None") -> None:
        vars(self)["app_id"] = value

    # What a subclass overrides.

    def info(self) -> "dict[str, Any]":
        """Return what --info prints: at least `version` and `has_cancel`; a key left out is filled in."""
        return {"version": self.version, "has_cancel": bool(self.supports_cancel)}

    def query(self) -> "dict[str, Any]":
        """Return the present settings: `{"application": {"components": {C: {"settings": {S: {...}}}}}}`.

        What stands inside of `application` may also be returned alone. Each setting has `value`, `type`
        ("range" with `min`, `max`, `step`; "enum" with `values`) and, if it has one, `unit`.
        Raise AdjustError when the settings cannot be told.
        """
        raise AdjustError("this driver cannot be queried: it defines no query()", reason="not-implemented")

    def adjust(self, data: "dict[str, Any]") -> "Any":  # noqa: ARG002 - it is what an override gets
        """Make the settings what `data` says; `data` is the object read from stdin, whole.

        A dict that is returned is merged into the reply: `{"status": "ok"}` and what it holds; anything else
        that is returned is disregarded. Raise AdjustError when it cannot be done. An override that takes no
        argument, as drivers had it of old, is called without one and finds the object in `input_data`.
        """
        raise AdjustError("this driver cannot adjust: it defines no adjust()", reason="not-implemented")

    def handle_cancel(self, signal: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - the usual pair
        """Give up early. Called on SIGUSR1 during an adjust, each time it comes, when cancel is supported.

        This one ends the driver where it is: `finally` clauses run, then the last line says `canceled`. An
        override may raise AdjustError, or note that there is a cancel and return: `adjust` then goes on and
        ends when it has come to a safe point. `signal` is the number, `frame` what was interrupted.
        """
        self.__run.leave("canceled", signal, 1)

    # What a subclass calls.

    def run(self) -> None:
        """Do what the command line asks for; returns after an adjust that went well, else exits.

        Whatever `query` or `adjust` raises becomes the last line on stdout: {"status", "reason", "message"}
        for an AdjustError, {"status", "error", "class", "message"} for another exception, whose traceback
        goes to stderr; the exit status is 1. A SystemExit of the driver's own passes, and nothing is printed.
        """
        self.__run.do()

    def print_progress(
        self,
        message: "Any" = None,
        msg_index: "int | None" = None,
        stage: "str | None" = None,
        stageprogress: "float | None" = None,
    ) -> None:
        """Print one progress line: `progress` percent, and the text or `progress_message`.

        `msg_index` numbers the messages, `stage` names the present stage and `stageprogress` tells how many
        percent of that are done; each is left out when None. Any thread may call it. Once the final line has
        been printed it does nothing.
        """
        line = {
            "progress": self.progress,
            "message": self.progress_message if message is None else message,
            "msg_index": msg_index,
            "stage": stage,
            "stageprogress": stageprogress,
        }
        # JSON has no NaN, and a line that is no JSON costs the driver its life.
        told = {key: value for key, value in line.items() if value is not None and _is_finite(value)}
        told.setdefault("progress", 0)
        with _output:
            if not self.__run.answered:
                _print_line(sys.stdout, _dumps(told))

    def debug(self, *message: "Any") -> None:
        """Print the arguments, separated by blanks, as one line on stderr."""
        _print_line(sys.stderr, " ".join(map(str, message)))

    def start_progress_timer(self) -> None:
        """Start printing a progress line every `progress_interval` seconds, until `stop_progress_timer`.

        `run` does it before `adjust`. A timer that runs already is replaced. Without a `progress_interval`
        there is none.
        """
        self.stop_progress_timer()
        if self.progress_interval:
            self.timer = _repeat(self.progress_interval, self.__run.beat)

    def stop_progress_timer(self) -> None:
        """Stop what `start_progress_timer` started; `run` does it before the final line."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def print_json_error(
        self, error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
    ) -> None:
        """Print a line that tells of an error, as the function of that name does; the driver goes on."""
        print_json_error(error, cl, message, status, reason)

    def _print_json_error(
        self, error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
    ) -> None:
        """Print such a line; the name that older drivers call."""
        self.print_json_error(error, cl, message, status, reason)

    def get_oco_settings(self, config: "Mapping[str, Any] | None") -> "list[str]":
        """Return the names of the settings that the driver's configuration `config` defines, each once.

        They stand in `settings` of `config`, and in `settings` of each of its `components`; with neither key,
        `config` is itself the mapping of settings. A setting with an `encoder` stands for the settings that
        `encoders.base` describes, given the setting's `default`. An encoder that cannot describe them without
        the present value stands for those in its own `settings`. Raises AdjustError where that is impossible.
        """
        names: dict[str, None] = {}
        for name, setting in _configured_settings(config):
            encoder = setting.get("encoder") if isinstance(setting, dict) else None
            for each in self.__encoded_names(name, setting) if encoder else [name]:
                names[each] = None
        return list(names)

    def __encoded_names(self, name: str, setting: "dict[str, Any]") -> "list[str]":
        try:
            return list(self.encode_describe_if_needed(name, setting, setting.get("default")))
        except AdjustError:
            encoder = setting["encoder"]
            settings = encoder.get("settings") if isinstance(encoder, dict) else None
            if not settings or not isinstance(settings, (dict, list)):
                raise
            return list(settings)

    def requested_settings(self, data: "Mapping[str, Any] | None" = None) -> "dict[str, dict[str, Any]]":
        """Return the settings that the optimizer asks for: `{component: {setting: {"value": ...}}}`.

        `data` is the object given to `adjust`, by default `input_data`. Components without a setting, and
        settings that are null, are left out: null counts as not given.
        """
        found: dict[str, dict[str, Any]] = {}
        application = ((self.input_data if data is None else data) or {}).get("application") or {}
        for component, content in (application.get("components") or {}).items():
            settings = (content or {}).get("settings") or {}
            given = {name: setting for name, setting in settings.items() if setting is not None}
            if given:
                found[component] = given
        return found

    def encode_value_if_needed(
        self,
        name: str,
        config: "Mapping[str, Any] | None",
        settings: "Mapping[str, Any]",
        expected_type: "Any" = None,
    ) -> "Any":
        """Return the value to write for the setting `name`, None when `settings` gives none for it.

        `config` is the setting's section of the driver's configuration. With a key `encoder` in it, several
        settings of the optimizer make up one value: `encoders.base` of the servo directory computes it from
        `settings`, in the type `expected_type` if that is given. Without, it is the `value` of
        `settings[name]`. `settings` is `{setting: {"value": ...}}`. Raises AdjustError where it cannot be
        done.
        """
        if config and config.get("encoder"):
            options = {} if expected_type is None else {"expected_type": expected_type}
            try:
                # The pair is the value and the names of the settings that went into it.
                return _encoders(name).encode(config["encoder"], settings, **options)[0]
            except _NOT_OF_AN_ENCODER:
                raise
            except BaseException as error:
                raise AdjustError(
                    f"setting {name}: its encoder failed: {_message(error)}",
                    reason="encoder-failed",
                ) from error
        setting = settings.get(name)
        return setting.get("value") if isinstance(setting, dict) else setting

    def encode_describe_if_needed(
        self, name: str, config: "Mapping[str, Any] | None", value: "Any"
    ) -> "dict[str, Any]":
        """Return the description of the setting `name` whose present value is `value`: `{setting: {...}}`.

        With a key `encoder` in `config`, `encoders.base` of the servo directory tells which settings make up
        the value, and there may be several. Without, it is one setting: `value`, and of `config` the keys
        that describe a setting (`type`, `min`, `max`, `step`, `values`, `unit`, `default`, `pinned`).
        Raises AdjustError where it cannot be done.
        """
        if config and config.get("encoder"):
            try:
                return dict(_encoders(name).describe(config["encoder"], value))
            except _NOT_OF_AN_ENCODER:
                raise
            except BaseException as error:
                raise AdjustError(
                    f"setting {name}: its encoder cannot describe {value!r}: {_message(error)}",
                    reason="encoder-failed",
                ) from error
        described = {key: config[key] for key in _DESCRIBES if key in config} if config else {}
        described["value"] = value
        return {name: described}

    def _run_command(self, cmd: "str | list[str]", pre: bool = True) -> str:
        """Run a command that the operator has configured, wait for it, return what it printed on stdout.

        A text is run by bash, or by sh where there is no bash; a list as it is. Its standard input is empty.
        `pre` tells whether it is the one before or the one after the change: a failure's message names it.
        Raises AdjustError (reason "command-failed") when it does not start or exits with another status
        than 0. When a signal handler raises meanwhile, as on a cancel, all processes of the command are
        ended first: SIGTERM, and SIGKILL after 2 s. After its own exit none is.
        """
        if TYPE_CHECKING:
            from servo_agg.driverlib.driver_processes import Command
        else:
            from driver_processes import Command

        what = "{}-command {!r}".format("pre" if pre else "post", cmd)
        self.debug("running", what)
        command = Command(cmd)
        command.run()
        if command.status is None:
            told = f"{what} cannot be started: {command.problem}"
            raise AdjustError(told, reason="command-failed") from command.problem
        printed = command.out.decode("utf-8", "replace")
        if command.status != 0:
            status = command.status
            ended = f"exited with status {status}" if status > 0 else _killed_by(-status)
            complaint = command.err[-4096:].decode("utf-8", "replace").strip() or printed[-4096:].strip()
            raise AdjustError(
                "{} {}{}".format(what, ended, ": " + complaint if complaint else ""), reason="command-failed"
            )
        return printed


class _Run:
    """The course of one run of a driver, from the command line to the final line."""

    def __init__(self, driver: Adjust) -> None:
        self.driver = driver
        self.process = os.getpid()
        self.ending = False
        self.answered = False
        self.early: Any = None
        self.found_early: dict[str, Any] = {}

    def do(self) -> None:
        try:
            self.do_what_is_asked()
        except _Stopped as stopped:
            self.fail(stopped.reply, stopped.exit_status)
        except KeyboardInterrupt:
            interrupted = _Stopped("aborted", signal.SIGINT, 128 + signal.SIGINT)
            self.fail(interrupted.reply, interrupted.exit_status)
        except AdjustError as error:
            told = _message(error) if error.args else "the driver does not say what is wrong"
            self.fail(
                {"status": error.status or "failed", "reason": error.reason or "unknown", "message": told}
            )
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the agent has to be told, whatever it is
            self.ending = True
            _print_traceback()
            self.fail(_error_reply(type(error).__name__, "failure", _message(error)))
        else:
            # Whatever the driver does after `run` can be stopped like any program.
            self.ending = False
        finally:
            self.driver.stop_progress_timer()

    def parse_early(self) -> "Any":
        """Parse the command line before `run`. Unknown arguments are no error: they may be added yet."""
        self.early, _ = self.driver.parser.parse_known_args()
        self.found_early = dict(vars(self.early))
        return self.early

    def parse(self) -> "Any":
        """Return the arguments; those that the driver has assigned stand."""
        driver = self.driver
        known = vars(driver).get("args")
        if known is None or known is self.early:
            parsed = driver.parser.parse_args()
            if self.early is not None:
                # The driver may keep this object, and may have changed it.
                for name, value in vars(parsed).items():
                    if getattr(self.early, name, None) is self.found_early.get(name):
                        setattr(self.early, name, value)
                parsed = self.early
            driver.args = parsed
        return driver.args

    def do_what_is_asked(self) -> None:
        driver = self.driver
        args = self.parse()
        asked = {name: getattr(args, name, None) for name in ("version", "info", "query")}
        if driver.app_id is None:
            driver.app_id = getattr(args, "app_id", None)
        if asked["version"]:
            _print_line(sys.stdout, str(driver.version))
            sys.exit(0)
        if not driver.app_id and not asked["info"]:
            driver.parser.error("the application is missing: give its name or id as APP")

        _handle_unless_handled(signal.SIGTERM, self.on_sigterm)
        _handle_unless_handled(signal.SIGINT, self.on_sigint)
        if asked["info"]:
            told = {"version": driver.version, "has_cancel": bool(driver.supports_cancel)}
            told.update(driver.info() or {})
            self.answer(told)
        elif asked["query"]:
            self.answer(_application(driver.query()))
        else:
            self.adjust()
            return
        sys.exit(0)

    def adjust(self) -> None:
        driver = self.driver
        if driver.supports_cancel:
            _handle_unless_handled(signal.SIGUSR1, self.on_sigusr1)
        driver.input_data = _read_input()
        driver.start_progress_timer()

        method: Any = driver.adjust
        result = method(driver.input_data) if _takes_an_argument(method) else method()
        # The change is made: a signal that comes only now must not turn success into failure.
        self.ending = True
        reply = {"status": "ok"}
        if isinstance(result, dict):
            reply.update(result)
        elif result is not None:
            driver.debug("adjust() returned", repr(result), "which is no dict and is disregarded")
        self.answer(reply)
        if reply["status"] != "ok":
            sys.exit(1)

    def answer(self, reply: "dict[str, Any]") -> None:
        """Print the final line: no progress comes after it."""
        line = _dumps(reply)
        self.driver.stop_progress_timer()
        with _output:
            self.answered = True
            _print_line(sys.stdout, line)

    def fail(self, reply: "dict[str, Any]", code: int = 1) -> None:
        self.ending = True
        try:
            # Whatever a driver has put there, this line has to get out.
            self.answer({key: str(value) for key, value in reply.items()})
        except (OSError, ValueError) as error:
            # Nobody reads any more; the exit status is all that is left to say.
            self.driver.debug(reply["message"])
            self.driver.debug("stdout does not take the reply:", error)
        sys.exit(code)

    def beat(self) -> bool:
        """Print progress for the timer; return whether it is to go on."""
        try:
            self.driver.print_progress()
        except OSError:
            return False
        except Exception:  # noqa: BLE001 - a mistake in an override must not make the driver look dead
            _print_traceback()
        return True

    def leave(self, status: str, number: int, code: int) -> None:
        """Raise the way out; once only: a second signal must not cut short what the first one began."""
        if not self.ending:
            self.ending = True
            raise _Stopped(status, number, code)

    def on_sigterm(self, number: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - the usual pair
        if os.getpid() != self.process:
            _die_of(number)
        else:
            self.leave("aborted", number, 128 + number)

    def on_sigint(self, number: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - the usual pair
        if os.getpid() != self.process:
            raise KeyboardInterrupt
        if not self.ending:
            self.ending = True
            raise KeyboardInterrupt

    def on_sigusr1(self, number: int, frame: "FrameType | None") -> None:
        if os.getpid() != self.process:
            _die_of(number)
        elif not self.ending:
            self.driver.handle_cancel(number, frame)


def print_json_error(
    error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
) -> None:
    """Print a line that tells of an error: `error` names it, `cl` classes it, `message` is for a person.

    A later reply replaces it: a driver may also print one as a warning. `reason` is left out when None.
    Nothing is raised and nothing ends (SPEC 12).
    """
    reply = _error_reply(error, cl, message)
    reply["status"] = status
    if reason is not None:
        reply["reason"] = reason
    _print_line(sys.stdout, _dumps(reply))


def _error_reply(error: "Any", cl: "Any", message: "Any") -> "dict[str, Any]":
    return {"status": "failed", "error": error, "class": cl, "message": message}


def _application(result: "Any") -> "dict[str, Any]":
    """Return what a driver's `query` has returned in its full form."""
    if not isinstance(result, dict):
        raise AdjustError(
            f"the settings are unknown: query() returned {result!r}, where a dict is due",
            reason="bad-query",
        )
    if "application" in result:
        return result
    # A driver that returns its failure instead of raising it describes no application.
    if result.get("status", "ok") != "ok" and not {"components", "settings"} & set(result):
        raise AdjustError(
            result.get("message", "the settings are unknown"),
            status=result["status"],
            reason=result.get("reason", "unknown"),
        )
    return {"application": result}


def _configured_settings(config: "Mapping[str, Any] | None") -> "list[tuple[str, Any]]":
    """Return name and configuration of each setting in a driver's configuration."""
    config = _mapping(config, "it")
    if "settings" not in config and "components" not in config:
        return list(config.items())
    components = _mapping(config.get("components"), "components")
    sections = [config, *(_mapping(section, name) for name, section in components.items())]
    return [pair for section in sections for pair in _mapping(section.get("settings"), "settings").items()]


def _mapping(value: "Any", name: str) -> "dict[str, Any]":
    if value is not None and not isinstance(value, dict):
        raise AdjustError(
            f"the driver's configuration is wrong: {name} must be a mapping, and is {value!r}",
            reason="bad-configuration",
        )
    return value or {}


def _repeat(interval: float, function: "Callable[[], bool]") -> "Any":
    """Call `function` every `interval` seconds in a thread, until it returns False or `cancel` is called."""
    import threading

    # A lock, as it can be released from a signal handler at any time; an Event cannot be set so.
    canceled = threading.Lock()
    canceled.acquire()

    def keep_calling() -> None:
        while not canceled.acquire(timeout=interval) and function():
            pass

    def cancel() -> None:
        try:
            canceled.release()
        except RuntimeError:
            return  # canceled already

    thread: Any = threading.Thread(target=keep_calling, name="progress", daemon=True)
    thread.cancel = cancel
    thread.start()
    return thread


def _dumps(value: "Any") -> str:
    return json.dumps(value, allow_nan=False)


def _is_finite(value: "Any") -> bool:
    return not isinstance(value, float) or value - value == 0


def _message(error: BaseException) -> str:
    if len(error.args) > 1 and type(error).__str__ is Exception.__str__:
        return " ".join(map(str, error.args))
    return str(error) or type(error).__name__


def _print_line(stream: "TextIO | None", line: str) -> None:
    """Write `line` and its newline in one piece, after all that was printed there before.

    `print` may make several writes of it, and what other threads and processes print gets in between.
    """
    if stream is None:
        return
    text = line + "\n"
    with _output:
        stream.flush()
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):
            # A stream that somebody has put in its place, such as a StringIO, has none.
            stream.write(text)
            stream.flush()
        else:
            _write(descriptor, text.encode(stream.encoding or "utf-8", "backslashreplace"))


def _write(descriptor: int, data: bytes) -> None:
    # A signal handler that raises amid a long line would leave half of it behind, so these wait until the
    # line is out. A short line goes out whole or not at all, and its wait for a reader may be broken off.
    mask = None
    if len(data) > _ONE_PIECE:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _read_input() -> "dict[str, Any]":
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    raw = stream.read() if stream is not None else b""
    try:
        data = json.loads(raw.decode("utf-8") if isinstance(raw, bytes) else raw)
    except (ValueError, RecursionError) as error:
        told = "is empty" if not raw.strip() else f"is no JSON: {error}"
        raise AdjustError(f"the input on stdin {told}", reason="bad-input") from error
    if not isinstance(data, dict):
        raise AdjustError("the input on stdin is no JSON object", reason="bad-input")
    return data


def _takes_an_argument(method: "Any") -> bool:
    """Tell whether `method`, as it is bound, can be called with one argument."""
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        import inspect

        kinds = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        return any(each.kind in kinds for each in inspect.signature(method).parameters.values())
    bound = 1 if function is not method else 0
    takes_any_number = bool(code.co_flags & 0x04)
    return takes_any_number or code.co_argcount > bound


def _encoders(setting: str) -> "ModuleType":
    import importlib

    try:
        return importlib.import_module("encoders.base")
    except ImportError as error:
        raise AdjustError(
            f"setting {setting} asks for an encoder, and encoders.base cannot be imported ({error}): "
            "put the directory `encoders` into the servo directory",
            reason="no-encoder",
        ) from error


def _print_traceback() -> None:
    import traceback

    _print_line(sys.stderr, traceback.format_exc().rstrip())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _killed_by(number: int) -> str:
    return f"was killed by {_signal_name(number)}"


def _handle_unless_handled(number: int, handler: "Callable[[int, FrameType | None], None]") -> None:
    """Install `handler` where nothing but the default is: what a driver has set before stays."""
    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
        try:
            signal.signal(number, handler)
        except ValueError:
            # Only the main thread may; a driver that runs in another has to look after itself.
            return


def _die_of(number: int) -> None:
    """End a forked child, which got the handler with everything else, as if there were no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
