"""The base class of adjust drivers: command line, JSON lines, progress, cancel, errors (SPEC 12).

A driver is an executable that describes and changes the settings of an application. With this module, it is a
subclass of `Adjust`:

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

This driver has the following command line:

    lamp --version       the version, as text
    lamp --info [APP]    {"version": "1.0", "has_cancel": false}
    lamp --query APP     {"application": {"components": {...}}}; --describe is the same
    lamp APP             reads {"application": {...}, "control": {...}} from stdin, prints progress lines,
                         then {"status": "ok"} or {"status": ..., "reason": ..., "message": ...}

The exit status is 0 on success, 1 on failure or cancel, 2 on wrong usage, 128 + n after signal n.

The driver's interpreter loads this file, so it must work with Python 3.6. Annotations are quoted where
Python 3.6 would evaluate them. Each import delays the start of every driver, so modules that only some
drivers need are imported where they are used.
"""
# ruff: noqa: INP001 - drivers find it through PYTHONPATH as `adjust`: its directory is not a package
# ruff: noqa: PLC0415 - modules that only some drivers need are imported late, for a faster start

import argparse
import json
import os
import signal
import sys
from _thread import RLock  # `threading` has the same lock, but takes time to import

TYPE_CHECKING = False  # `typing` has it too, but takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType, ModuleType
    from typing import Any, TextIO

__all__ = ["Adjust", "AdjustError", "print_json_error"]

_ATOMIC_WRITE = 4096
"""Bytes up to which Linux writes to a pipe atomically (PIPE_BUF)."""

_SIGNALS = range(1, 32)
"""All signals except the real-time ones, two of which the C library uses."""

_DESCRIPTION_KEYS = ("type", "min", "max", "step", "values", "unit", "default", "pinned")
"""The keys of a setting's configuration that are copied to its description."""

_output_lock = RLock()
"""Held while a line is printed; reentrant, since a signal handler may interrupt a print and print itself."""


class AdjustError(Exception):
    """An error that a driver raises to report a failure to the agent (SPEC 12.4).

    The arguments form the message, which is for people: what failed, why, and what to do. The agent acts on
    `status`: "failed", "rejected" (the values are not possible and nothing was changed), "aborted" or
    "transient-failure". `reason` is one word for programs, for example "start-failed" or "app-unavailable".
    """

    # Defaults for a subclass whose constructor does not call this one.
    status = "failed"
    reason = "unknown"

    def __init__(self, *args: "Any", status: str = "failed", reason: str = "unknown") -> None:
        self.status = status
        self.reason = reason
        super().__init__(*args)


_NOT_ENCODER_ERRORS = (AdjustError, SystemExit, KeyboardInterrupt, GeneratorExit)
"""Exceptions that are not errors of an encoder. An encoder may raise any other BaseException."""


class _Stopped(SystemExit):
    """Raised to stop the driver: `finally` clauses run, and `except Exception` does not catch it."""

    def __init__(self, status: str, number: int, code: int) -> None:
        super().__init__(code)
        self.exit_status = code
        self.reply = {
            "status": status,
            "reason": _signal_name(number),
            "message": f"{status} by {_signal_name(number)} before it finished",
        }


class Adjust:
    """The base class of an adjust driver (SPEC 12.3).

    Arguments: `version`, any text; `cli_desc`, the description in --help; `supports_cancel`, whether SIGUSR1
    makes the driver stop early; `progress_interval`, the seconds between progress messages that are printed
    automatically during `adjust`, or None for no such messages.

    A subclass overrides `query` and `adjust`, and optionally `info` and `handle_cancel`. Its attributes are:

    `parser`          the ArgumentParser; add arguments before `run`
    `args`            the parsed command line; a subclass may assign another namespace before `run`
    `app_id`          APP of the command line, or None (--info does not need it); may be assigned too
    `input_data`      the object read from stdin; None except in an adjust
    `progress`        percent done, 0 to 100; the subclass sets it
    `progress_message`  the default text of progress messages
    `timer`           the thread that prints progress every `progress_interval` seconds, or None
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

        # "resolve": a driver may replace one of these options by its own.
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

        # All private state is behind one mangled name: subclasses use names such as `_process` and `_fail`.
        self.__run = _Run(self)

    # These attributes can be used before `run`: the first use parses the command line.

    @property
    def args(self) -> "Any":
        """The parsed command line."""
        attributes = vars(self)
        if attributes.get("args") is None:
            attributes["args"] = self.__run.parse_early()
        return attributes["args"]

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

    # A subclass overrides these methods.

    def info(self) -> "dict[str, Any]":
        """Return the output of --info; `version` and `has_cancel` are added if they are missing."""
        return {"version": self.version, "has_cancel": bool(self.supports_cancel)}

    def query(self) -> "dict[str, Any]":
        """Return the current settings: `{"application": {"components": {C: {"settings": {S: {...}}}}}}`.

        The value of `application` may also be returned alone. Each setting has `value`, `type` ("range" with
        `min`, `max`, `step`; "enum" with `values`) and optionally `unit`. Raise AdjustError if the settings
        cannot be determined.
        """
        raise AdjustError(
            "this driver cannot be queried: it does not define query()", reason="not-implemented"
        )

    def adjust(self, data: "dict[str, Any]") -> "Any":  # noqa: ARG002 - the argument of an override
        """Change the settings as `data` says; `data` is the whole object read from stdin.

        A dict that is returned is merged into the reply, `{"status": "ok"}`; any other result is ignored.
        Raise AdjustError if the change fails. An override without a parameter, as in older drivers, is called
        without an argument, and can read the object from `input_data`.
        """
        raise AdjustError("this driver cannot adjust: it does not define adjust()", reason="not-implemented")

    def handle_cancel(self, signal: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - handler signature
        """Stop early. Called for each SIGUSR1 during an adjust if cancel is supported.

        This method stops the driver at once: `finally` clauses run, and the last line has the status
        `canceled`. An override may raise AdjustError, or store that there was a cancel and return; `adjust`
        then continues, and stops at a safe point. `signal` is the number, `frame` the interrupted frame.
        """
        self.__run.stop("canceled", signal, 1)

    # A subclass calls these methods.

    def run(self) -> None:
        """Run the command of the command line. Return after a successful adjust; exit in all other cases.

        If `query` or `adjust` raises, print a failure as the last line on stdout and exit with status 1. The
        keys are {"status", "reason", "message"} for an AdjustError, and {"status", "error", "class",
        "message"} for any other exception, whose traceback is printed on stderr. A SystemExit that the driver
        raises is not caught, and nothing is printed.
        """
        self.__run.run()

    def print_progress(
        self,
        message: "Any" = None,
        msg_index: "int | None" = None,
        stage: "str | None" = None,
        stageprogress: "float | None" = None,
    ) -> None:
        """Print a progress line with `progress` percent and `message`, by default `progress_message`.

        `msg_index` is the number of the message, `stage` the name of the current stage and `stageprogress`
        its percentage; each is left out if it is None. May be called from any thread. Does nothing after the
        final line.
        """
        line = {
            "progress": self.progress,
            "message": self.progress_message if message is None else message,
            "msg_index": msg_index,
            "stage": stage,
            "stageprogress": stageprogress,
        }
        # JSON has no NaN, and a driver that prints a line that is not JSON is stopped.
        content = {key: value for key, value in line.items() if value is not None and _is_finite(value)}
        content.setdefault("progress", 0)
        with _output_lock:
            if not self.__run.has_replied:
                _print_line(sys.stdout, _dumps(content))

    def debug(self, *message: "Any") -> None:
        """Print the arguments, separated by spaces, as one line on stderr."""
        _print_line(sys.stderr, " ".join(map(str, message)))

    def start_progress_timer(self) -> None:
        """Print a progress line every `progress_interval` seconds until `stop_progress_timer` is called.

        `run` calls this before `adjust`. A running timer is replaced. Without a `progress_interval`, no timer
        is started.
        """
        self.stop_progress_timer()
        if self.progress_interval:
            self.timer = _repeat(self.progress_interval, self.__run.print_timed_progress)

    def stop_progress_timer(self) -> None:
        """Stop the timer; `run` calls this before the final line."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def print_json_error(
        self, error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
    ) -> None:
        """Print a failure line, like the function `print_json_error`; the driver continues."""
        print_json_error(error, cl, message, status, reason)

    def _print_json_error(
        self, error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
    ) -> None:
        """Print a failure line; older drivers use this name."""
        self.print_json_error(error, cl, message, status, reason)

    def get_oco_settings(self, config: "Mapping[str, Any] | None") -> "list[str]":
        """Return the names of the settings in the driver's configuration `config`, without duplicates.

        They are the keys of `settings` of `config`, and of `settings` of each of its `components`; with
        neither key, `config` is itself the mapping of settings. A setting with an `encoder` is replaced by
        the settings that `encoders.base` describes for the setting's `default`. If the encoder cannot
        describe that, it is replaced by those in the encoder's own `settings`. Raise AdjustError if neither
        exists.
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
        """Return the requested settings: `{component: {setting: {"value": ...}}}`.

        `data` is the object passed to `adjust`, by default `input_data`. Settings that are null, and
        components without settings, are left out.
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
        """Return the value to write for the setting `name`, or None if `settings` has no value for it.

        `config` is the setting's section of the driver's configuration, and `settings` is
        `{setting: {"value": ...}}`. If `config` has a key `encoder`, `encoders.base` of the servo directory
        computes the value from several settings, with the type `expected_type` if that is given. Otherwise
        the value is that of `settings[name]`. Raise AdjustError if the encoder fails.
        """
        if config and config.get("encoder"):
            options = {} if expected_type is None else {"expected_type": expected_type}
            try:
                # The result is a pair: the value, and the names of the settings that it was computed from.
                return _encoders(name).encode(config["encoder"], settings, **options)[0]
            except _NOT_ENCODER_ERRORS:
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
        """Return the description of the setting `name` with the present value `value`: `{setting: {...}}`.

        If `config` has a key `encoder`, `encoders.base` of the servo directory returns the descriptions of
        the one or more settings that are encoded in the value. Otherwise the description has `value` and
        those keys of `config` that describe a setting (`type`, `min`, `max`, `step`, `values`, `unit`,
        `default`, `pinned`). Raise AdjustError if the encoder fails.
        """
        if config and config.get("encoder"):
            try:
                return dict(_encoders(name).describe(config["encoder"], value))
            except _NOT_ENCODER_ERRORS:
                raise
            except BaseException as error:
                raise AdjustError(
                    f"setting {name}: its encoder cannot describe {value!r}: {_message(error)}",
                    reason="encoder-failed",
                ) from error
        described = {key: config[key] for key in _DESCRIPTION_KEYS if key in config} if config else {}
        described["value"] = value
        return {name: described}

    def _run_command(self, cmd: "str | list[str]", pre: bool = True) -> str:
        """Run a command that the operator has configured, and return its stdout.

        A string is run by bash, or by sh if there is no bash; a list is an argv. Its stdin is empty. `pre`
        says whether the command runs before or after the change, for messages. Raise AdjustError with the
        reason "command-failed" if it does not start or its exit status is not 0. If a signal handler raises,
        for example on a cancel, all processes of the command are stopped first: SIGTERM, and SIGKILL after
        2 s. Processes that still run after the exit of the command are not stopped.
        """
        if TYPE_CHECKING:
            from servo_agg.driverlib.driver_processes import Command, describe_exit
        else:
            from driver_processes import Command, describe_exit

        what = "{}-command {!r}".format("pre" if pre else "post", cmd)
        self.debug("running", what)
        command = Command(cmd)
        command.run()
        if command.status is None:
            message = f"{what} cannot be started: {command.start_error}"
            raise AdjustError(message, reason="command-failed") from command.start_error
        out = command.out.decode("utf-8", "replace")
        if command.status != 0:
            message = f"{what} {describe_exit(command.status)}"
            output = command.err[-4096:].decode("utf-8", "replace").strip() or out[-4096:].strip()
            raise AdjustError(f"{message}: {output}" if output else message, reason="command-failed")
        return out


class _Run:
    """One run of a driver, from the command line to the final line."""

    def __init__(self, driver: Adjust) -> None:
        self.driver = driver
        self.process = os.getpid()
        self.ending = False
        self.has_replied = False
        self.early_args: Any = None
        self.early_values: dict[str, Any] = {}

    def run(self) -> None:
        try:
            self.dispatch()
        except _Stopped as stopped:
            self.fail(stopped.reply, stopped.exit_status)
        except KeyboardInterrupt:
            interrupted = _Stopped("aborted", signal.SIGINT, 128 + signal.SIGINT)
            self.fail(interrupted.reply, interrupted.exit_status)
        except AdjustError as error:
            message = _message(error) if error.args else "failed without a message"
            self.fail(
                {"status": error.status or "failed", "reason": error.reason or "unknown", "message": message}
            )
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - any error must be reported to the agent
            self.ending = True
            _print_traceback()
            self.fail(_error_reply(type(error).__name__, "failure", _message(error)))
        else:
            # Signals must stop the driver also after `run`.
            self.ending = False
        finally:
            self.driver.stop_progress_timer()

    def parse_early(self) -> "Any":
        """Parse the command line before `run`. Accept unknown arguments: the driver may add them later."""
        self.early_args, _ = self.driver.parser.parse_known_args()
        self.early_values = dict(vars(self.early_args))
        return self.early_args

    def parse(self) -> "Any":
        """Return the arguments; keep those that the driver has assigned."""
        driver = self.driver
        known = vars(driver).get("args")
        if known is None or known is self.early_args:
            parsed = driver.parser.parse_args()
            if self.early_args is not None:
                # The driver may refer to this object, and may have changed it.
                for name, value in vars(parsed).items():
                    if getattr(self.early_args, name, None) is self.early_values.get(name):
                        setattr(self.early_args, name, value)
                parsed = self.early_args
            driver.args = parsed
        return driver.args

    def dispatch(self) -> None:
        driver = self.driver
        args = self.parse()
        wants_version, wants_info, wants_query = (
            getattr(args, name, None) for name in ("version", "info", "query")
        )
        if driver.app_id is None:
            driver.app_id = getattr(args, "app_id", None)
        if wants_version:
            _print_line(sys.stdout, str(driver.version))
            sys.exit(0)
        if not driver.app_id and not wants_info:
            driver.parser.error("APP, the name or id of the application, is missing")

        _set_handler_if_default(signal.SIGTERM, self.on_sigterm)
        _set_handler_if_default(signal.SIGINT, self.on_sigint)
        if wants_info:
            info = Adjust.info(driver)
            info.update(driver.info() or {})
            self.print_reply(info)
        elif wants_query:
            self.print_reply(_complete_description(driver.query()))
        else:
            self.adjust()
            return
        sys.exit(0)

    def adjust(self) -> None:
        driver = self.driver
        if driver.supports_cancel:
            _set_handler_if_default(signal.SIGUSR1, self.on_sigusr1)
        driver.input_data = _read_input()
        driver.start_progress_timer()

        method: Any = driver.adjust
        result = method(driver.input_data) if _accepts_argument(method) else method()
        # The change was made: from now on a signal must not turn success into failure.
        self.ending = True
        reply = {"status": "ok"}
        if isinstance(result, dict):
            reply.update(result)
        elif result is not None:
            driver.debug(f"adjust() must return a dict or None, got {result!r}; the result is ignored")
        self.print_reply(reply)
        if reply["status"] != "ok":
            sys.exit(1)

    def print_reply(self, reply: "dict[str, Any]") -> None:
        """Print the final line; no progress is printed after it."""
        line = _dumps(reply)
        self.driver.stop_progress_timer()
        with _output_lock:
            self.has_replied = True
            _print_line(sys.stdout, line)

    def fail(self, reply: "dict[str, Any]", code: int = 1) -> None:
        self.ending = True
        try:
            # str: this line must be printed, even if the driver has set a value that JSON does not allow.
            self.print_reply({key: str(value) for key, value in reply.items()})
        except (OSError, ValueError) as error:
            # stdout has no reader: only the exit status can report the failure.
            self.driver.debug(reply["message"])
            self.driver.debug("cannot write the reply to stdout:", error)
        sys.exit(code)

    def print_timed_progress(self) -> bool:
        """Print progress for the timer; return whether the timer must go on."""
        try:
            self.driver.print_progress()
        except OSError:
            return False
        except Exception:  # noqa: BLE001 - an error in an override must not end the progress lines
            _print_traceback()
        return True

    def stop(self, status: str, number: int, code: int) -> None:
        """Raise _Stopped, but only once: a second signal must not interrupt the cleanup after the first."""
        if not self.ending:
            self.ending = True
            raise _Stopped(status, number, code)

    def on_sigterm(self, number: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - handler signature
        if os.getpid() != self.process:
            _kill_self(number)
        else:
            self.stop("aborted", number, 128 + number)

    def on_sigint(self, number: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - handler signature
        if os.getpid() != self.process:
            raise KeyboardInterrupt
        if not self.ending:
            self.ending = True
            raise KeyboardInterrupt

    def on_sigusr1(self, number: int, frame: "FrameType | None") -> None:
        if os.getpid() != self.process:
            _kill_self(number)
        elif not self.ending:
            self.driver.handle_cancel(number, frame)


def print_json_error(
    error: "Any", cl: "Any", message: "Any", status: "Any" = "failed", reason: "Any" = None
) -> None:
    """Print a failure line: `error` is its name, `cl` its class, `message` a text for people (SPEC 12.4).

    The driver continues. A later reply replaces the failure, so a driver may print it as a warning. `reason`
    is left out if it is None.
    """
    reply = _error_reply(error, cl, message)
    reply["status"] = status
    if reason is not None:
        reply["reason"] = reason
    _print_line(sys.stdout, _dumps(reply))


def _error_reply(error: "Any", cl: "Any", message: "Any") -> "dict[str, Any]":
    return {"status": "failed", "error": error, "class": cl, "message": message}


def _complete_description(result: "Any") -> "dict[str, Any]":
    """Add the key `application` to the result of `query` if needed; raise AdjustError for a failure."""
    if not isinstance(result, dict):
        raise AdjustError(f"query() must return a dict, got {result!r}", reason="bad-query")
    if "application" in result:
        return result
    # A driver may return a failure instead of raising AdjustError.
    if result.get("status", "ok") != "ok" and not {"components", "settings"} & set(result):
        raise AdjustError(
            result.get("message", "query() returned a failure without a message"),
            status=result["status"],
            reason=result.get("reason", "unknown"),
        )
    return {"application": result}


def _configured_settings(config: "Mapping[str, Any] | None") -> "list[tuple[str, Any]]":
    """Return the name and the configuration of each setting in a driver's configuration."""
    config = _mapping(config, "the driver's configuration")
    if "settings" not in config and "components" not in config:
        return list(config.items())
    where = "in the driver's configuration, "
    components = _mapping(config.get("components"), where + "`components`")
    sections = [config]
    sections += [_mapping(section, f"{where}component {name}") for name, section in components.items()]
    settings = [_mapping(section.get("settings"), where + "`settings`") for section in sections]
    return [pair for section in settings for pair in section.items()]


def _mapping(value: "Any", name: str) -> "dict[str, Any]":
    if value is not None and not isinstance(value, dict):
        raise AdjustError(
            f"{name} must be a mapping, got {value!r}",
            reason="bad-configuration",
        )
    return value or {}


def _repeat(interval: float, function: "Callable[[], bool]") -> "Any":
    """Call `function` every `interval` seconds in a thread, until it returns False or `cancel` is called."""
    import threading

    # Not an Event: if a signal handler sets it, it may deadlock. A lock can be released at any time.
    canceled = threading.Lock()
    canceled.acquire()

    def keep_calling() -> None:
        while not canceled.acquire(timeout=interval) and function():
            pass

    def cancel() -> None:
        try:
            canceled.release()
        except RuntimeError:
            return  # it is canceled already

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
    """Write `line` and a newline with one system call, after all earlier output of the stream.

    `print` may use several calls, and the output of other threads and processes may come between them.
    """
    if stream is None:
        return
    text = line + "\n"
    with _output_lock:
        stream.flush()
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):
            # The driver has replaced the stream, for example by a StringIO.
            stream.write(text)
            stream.flush()
        else:
            _write(descriptor, text.encode(stream.encoding or "utf-8", "backslashreplace"))


def _write(descriptor: int, data: bytes) -> None:
    # A handler that raises in the middle of a long line would truncate it, so signals are blocked until the
    # line is written. A short line is written atomically, and a signal may interrupt the wait for a reader.
    mask = None
    if len(data) > _ATOMIC_WRITE:
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
        empty = "the input is empty; expected a JSON object on stdin"
        message = empty if not raw.strip() else f"the input on stdin is not JSON: {error}"
        raise AdjustError(message, reason="bad-input") from error
    if not isinstance(data, dict):
        raise AdjustError(f"expected a JSON object on stdin, got {_json_type(data)}", reason="bad-input")
    return data


def _json_type(value: "Any") -> str:
    """Return the JSON type of a value that is not an object, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    return "a string" if isinstance(value, str) else "a list"


def _accepts_argument(method: "Any") -> bool:
    """Return whether the bound method `method` can be called with one argument."""
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
            f"cannot import encoders.base, which setting {setting} needs ({error}); "
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


def _set_handler_if_default(number: int, handler: "Callable[[int, FrameType | None], None]") -> None:
    """Install `handler`, unless the driver has set a handler for the signal."""
    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
        try:
            signal.signal(number, handler)
        except ValueError:
            # Only the main thread can set handlers; a driver that runs in another thread must do so itself.
            return


def _kill_self(number: int) -> None:
    """Kill a forked child, which has inherited the handler, as the default action would."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
