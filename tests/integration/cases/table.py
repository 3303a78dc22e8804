"""All cases of bad input: the input, and the message that the user gets.

Cases that one pure function decides (a line that is not JSON, a wrong value in config.yaml, a wrong command line) are
in the tables of `tests/unit`; here is one of each kind, to show that its message reaches the user.
"""

from __future__ import annotations

from servo_agg.argument_parser import HELP
from tests.integration.cases.case import (
    OK,
    REQUEST,
    Case,
    cannot_start,
    chapter,
    driver,
    failure,
    on_adjust,
    on_info,
    on_query,
    says,
    usage,
)

QUERY = ("--query", "app")
VERBOSE_QUERY = ("-v", "--query", "app")
INFO = ("--info", "app")
VERSION = ("--version",)

DESCRIPTION = '{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}'
SETTING = says('{"components":{"web":{"settings":{"cpu":{}}}}}')
SUCCESS = '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success","seconds":<seconds>}}}'
WARNING = '{"status":"failed","message":"using the non-selected value of cpu"}'
LONG_FAILURE = """printf '{"status":"failed","message":"%0300000d"}\\n' 0"""
NO_DRIVER = "warning: no driver in <servo>/adjust.d ({})\n"
UNKNOWN = "no driver describes " + "; ".join(f"setting web.unknown{n:05}" for n in range(20_000))

HIDE_MODULE = """\
mkdir hiding
cat >hiding/sitecustomize.py <<'END'
import os, sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == os.environ["HIDDEN"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
END
export PYTHONPATH="$PWD/hiding"
"""
"""Hides the module that the variable HIDDEN names, as if it were not installed."""

OLDER_PYTHON = """\
cp "$(readlink adjust)" real
rm adjust
cat >adjust <<'END'
#!/usr/bin/env python3
import sys
sys.version_info = (3, 6, 15, "final", 0)
exec(compile(open("real", encoding="utf-8").read(), "real", "exec"))
END
chmod +x adjust
"""
"""Makes ./adjust find an old interpreter."""

STRANGE_PATH = r"""import sys
sys.executable = "/\xe4 \"\U0001f40d\\/python3"
"""

# fmt: off
CASES = (
    # Servo directory
    *chapter(
        "SPEC 2",
        failure("no adjust.d", "no-adjust-d", "<servo>/adjust.d does not exist; run adjust in the servo directory, which holds adjust.d", words=QUERY,
            before="rm -r adjust.d"),
        failure("no adjust.d for an adjust", "no-adjust-d", "<servo>/adjust.d does not exist; run adjust in the servo directory, which holds adjust.d",
            before="rm -r adjust.d"),
        failure("the current directory is gone", "no-adjust-d", "the current directory, which must be the servo directory, no longer exists",
            words=QUERY, before='adjust="$PWD/adjust"; mkdir gone; cd gone; rmdir "$PWD"; exec "$adjust" "$@"'),
        Case("no driver", driver=None, words=QUERY, code=0, final='{"application":{"components":{}}}', stderr=NO_DRIVER.format("adjust.d is empty")),
        Case("no driver, two files without the executable flag, for --version", driver=None, others={"01ec2asg": "", "02winec2": ""}, words=VERSION,
            before="chmod a-x adjust.d/*", code=0, final="aggregator 2.0.0 ()", stderr=NO_DRIVER.format("2 files ignored, not executable; to make a script a driver: chmod +x FILE")),
        Case("links that cannot be followed", words=QUERY,
            before="ln -s nowhere adjust.d/01; ln -s 02 adjust.d/02; ln -s driver/x adjust.d/03; ln -s nobody@host adjust.d/.#driver; ln -s ../adjust.d adjust.d/04",
            code=0, final=DESCRIPTION,
            stderr="warning: adjust.d/01 is a link to nowhere, which does not exist\nwarning: adjust.d/02 is a link to 02, which cannot be followed: Too many levels of symbolic links\nwarning: adjust.d/03 is a link to driver/x, which cannot be followed: Not a directory\n"),
        Case("no driver but one without the flag, a copy and a document", driver=None, others={"01ec2asg": "", "02winec2~": "", "README.md": ""},
            words=QUERY, before="chmod a-x adjust.d/01ec2asg", code=0, final='{"application":{"components":{}}}',
            stderr=NO_DRIVER.format("1 file ignored, not executable; to make a script a driver: chmod +x FILE; 2 files ignored because of their names")),
        Case("no adjust.d for --version", words=VERSION, before="rm -r adjust.d", code=0, final="aggregator 2.0.0 ()",
            stderr="warning: <servo>/adjust.d does not exist; run adjust in the servo directory, which holds adjust.d\n"),
        failure("no adjust.d for --info", "no-adjust-d", "<servo>/adjust.d does not exist; run adjust in the servo directory, which holds adjust.d",
            words=("--info",), before="rm -r adjust.d"),
        failure("a setting, and no driver", "unknown-settings",
            "no driver describes component web (settings: cpu): no driver in <servo>/adjust.d", driver=None,
            stderr=NO_DRIVER.format("adjust.d is empty")),
        failure("a setting, and only files without the executable flag", "unknown-settings",
            "no driver describes component web (settings: cpu): no driver in <servo>/adjust.d; to make the files there drivers, use chmod +x: 01ec2asg, 02winec2, a\nb",
            driver=None, others={"01ec2asg": "", "02winec2": "", "a\nb": ""}, before="chmod a-x adjust.d/*",
            stderr=NO_DRIVER.format("3 files ignored, not executable; to make a script a driver: chmod +x FILE")),
        Case("no setting, and no driver", driver=None, stdin='{"application":{}}', code=0, final='{"status":"ok","reason":"no-drivers"}',
            stderr=NO_DRIVER.format("adjust.d is empty")),
    ),
    # What drivers get
    *chapter(
        "SPEC 3",
        failure("aggregators inside one another without end", "bad-environment",
            "8 aggregators run inside one another; a driver of this servo directory seems to start this adjust again: check which directory the scripts in adjust.d change to",
            words=QUERY, env={"SERVO_AGG_START": ".".join(["0123456789abcdef"] * 8)}),
        failure("a colon in the path of a servo directory with a library of its own", "bad-environment",
            "drivers cannot import adjust.py of the servo directory: <servo>/a:b cannot be in PYTHONPATH, since its path contains a colon; rename the directory, or mount it elsewhere",
            words=QUERY, before="mkdir a:b; mv adjust adjust.d a:b; cd a:b; : >util.py; : >adjust.py"),
        Case("a colon in the path of a servo directory without a library",
            driver=driver().replace("case", "case :$PYTHONPATH in *:b*) exit 9 ;; esac\ncase"), words=QUERY,
            before="mkdir a:b; mv adjust adjust.d a:b; cd a:b", code=0, final=DESCRIPTION),
        failure("an environment that is too long with what is added to it", "cannot-start",
            "driver: failed: on --query: cannot be started: its arguments and environment are too long", words=QUERY,
            env={"PYTHONPATH": "x" * 131040}),
    ),
    # Command line
    *chapter(
        "SPEC 5",
        Case("help", words=("--help",), code=0, final=HELP),
        usage("nothing", "APP, the name of the application, is missing"),
        usage("an unknown option", "unknown option '--no-such-option' (APP must not begin with a dash)", "--no-such-option", "app"),
        Case("-V", words=("-V",), code=0, final="aggregator 2.0.0 (1.0)"),
        usage("an option that would color the terminal", r"unknown option '--\x1b[31mred\nend' (APP must not begin with a dash)",
            "--\x1b[31mred\nend"),
        failure("an APP with spaces, a newline, quotes and bytes that are not text, in a failure of a driver", "unknown",
            "driver: failed: got 12 bytes (on --query)", driver=driver(query='printf \'{"status":"failed","message":"got %d bytes"}\\n\' ${#2}'),
            words=("--query", "a 'b'\n\"$c\" \udcff")),
    ),
    # Interpreter and packages
    *chapter(
        "SPEC 5",
        failure("Python 3.6", "bad-environment",
            "servo-agg needs Python 3.9 or newer, but <python> is Python 3.6; put a newer python3 first on PATH (in an image: FROM python:3-slim)",
            words=QUERY, before=OLDER_PYTHON),
        failure("Python 3.6 in a path of any letters", "bad-environment",
            'servo-agg needs Python 3.9 or newer, but /\xe4 "\U0001f40d\\/python3 is Python 3.6; put a newer python3 first on PATH (in an image: FROM python:3-slim)',
            words=QUERY, before=OLDER_PYTHON.replace("import sys\n", STRANGE_PATH)),
        failure("no package", "bad-environment",
            "the package servo_agg is missing or incomplete (No module named 'servo_agg'); copy the directory servo_agg into <repository>, or install it: <python> -m pip install PATH-OR-URL-OF-SERVO-AGG",
            env={"HIDDEN": "servo_agg"}, before=HIDE_MODULE),
        failure("no psutil in an adjust", "bad-environment",
            "the Python package psutil, which an adjust needs to stop drivers with all their processes, is missing or broken (No module named 'psutil'); install psutil: <python> -m pip install --upgrade psutil",
            env={"HIDDEN": "psutil"}, before=HIDE_MODULE),
        failure("no PyYAML, and the bytes agg", "bad-environment",
            "config.yaml may have a section agg (it contains the word agg), but PyYAML, which is needed to read it, is missing; install PyYAML: <python> -m pip install PyYAML",
            words=QUERY, env={"HIDDEN": "yaml"}, config="k8s: {flag: agg}", before=HIDE_MODULE),
    ),
    # Streams
    *chapter(
        "SPEC 5",
        Case("no stdout", words=QUERY, onto=">&-", final="", stderr="adjust: stdout is closed, so nothing was run\n"),
        Case("a full stdout", words=QUERY, onto=">/dev/full", final="", stderr="adjust: cannot write the answer to stdout: No space left on device\n"),
        Case("a full stdout in an adjust", onto=">/dev/full", final="", stderr="adjust: cannot write the answer to stdout: No space left on device\n"),
        Case("a stdout that is open for reading", words=QUERY, onto="1</dev/null", final="",
            stderr="adjust: cannot write the answer to stdout: Bad file descriptor\n"),
        failure("a stdin that is open for writing", "bad-input", "cannot read stdin: Bad file descriptor", onto="0>sink"),
        failure("a closed stdin", "bad-input", 'the input is empty; expected {"application": {...}} on stdin', onto="<&-"),
    ),
    # --version
    *chapter(
        "SPEC 5",
        Case("a version of a driver that fails", driver=driver(info=says('{"error":"no config.yaml"}') + "; exit 3"), words=VERSION,
            final="aggregator 2.0.0 (unknown)", stderr="driver: failed: no config.yaml (on --info: exited with status 3)\n"),
        Case("versions of two drivers that fail", driver=driver(info="kill -s KILL $$"), others={"other": driver(info=says("usage: other APP"))},
            words=VERSION, final="aggregator 2.0.0 (unknown, unknown)",
            stderr="driver: failed: on --info: was killed by SIGKILL, gave no reply\nother: failed: on --info: printed a line that is not JSON: 'usage: other APP'\n"),
        Case("a version that would color the terminal, over two lines",
            driver=driver(info=says(r'{"version":"1.0\u001b[31m\nbeta\u0007 caf\u00e9"}')), words=VERSION, code=0,
            final=r"aggregator 2.0.0 (1.0\x1b[31m beta\x07 caf\xe9)"),
        Case("a cause that would color the terminal",
            driver=driver(info=says(r'{"status":"failed","message":"\u001b[31mred\rover\u007f\u009b\nnext\tline"}')), words=VERSION,
            final="aggregator 2.0.0 (unknown)", stderr="driver: failed: \\x1b[31mred\\rover\\x7f\\x9b\nnext\tline (on --info)\n"),
    ),
    # Environment variables and config.yaml
    *chapter(
        "SPEC 9, 11",
        failure("OPTUNE_IO_TIMEOUT: 30s", "bad-environment",
            "the environment variable OPTUNE_IO_TIMEOUT must be a decimal number of seconds, such as 30 or 2.5 (0 or empty: unlimited), got '30s'",
            words=QUERY, env={"OPTUNE_IO_TIMEOUT": "30s"}),
        failure("OPTUNE_IO_TIMEOUT: 30s, in an adjust", "bad-environment",
            "the environment variable OPTUNE_IO_TIMEOUT must be a decimal number of seconds, such as 30 or 2.5 (0 or empty: unlimited), got '30s'",
            env={"OPTUNE_IO_TIMEOUT": "30s"}),
        failure("grace: short", "bad-configuration",
            "config.yaml, line 2: agg.grace is the string 'short', expected a number of seconds from 0 to a billion", words=QUERY,
            config="agg:\n  grace: short\n"),
        failure("a tab", "bad-configuration", "config.yaml is not valid YAML: line 2 is indented with a tab; YAML needs spaces", words=QUERY,
            config="agg:\n\tgrace: 3\n"),
        failure("a mistake, for an adjust", "bad-configuration",
            "config.yaml, line 1: agg.grace is the string 'short', expected a number of seconds from 0 to a billion",
            config="agg: {grace: short}"),
        failure("a mistake, for --info", "bad-configuration",
            "config.yaml, line 1: agg.grace is the string 'short', expected a number of seconds from 0 to a billion", words=INFO,
            config="agg: {grace: short}"),
        failure("a bad variable for --version", "bad-environment",
            "the environment variable OPTUNE_IO_TIMEOUT must be a decimal number of seconds, such as 30 or 2.5 (0 or empty: unlimited), got '30s'",
            words=VERSION, env={"OPTUNE_IO_TIMEOUT": "30s"}),
    ),
    # Input of an adjust
    *chapter(
        "SPEC 7.1-7.4, 7.8",
        failure("no input", "bad-input", 'the input is empty; expected {"application": {...}} on stdin', stdin=""),
        failure("blank input", "bad-input", 'the input is empty; expected {"application": {...}} on stdin', stdin=" \r\n\t "),
        failure("a list", "bad-input", "expected a JSON object on stdin, got a list: '[1]'", stdin="[1]"),
        failure("a number that is not JSON", "bad-input", "the input contains NaN, which is not a JSON number: '{\"application\":NaN}'",
            stdin='{"application":NaN}'),
        failure("no JSON", "bad-input", "the input is not JSON: 'cpu=4'", stdin="cpu=4"),
        failure("more than 16 MiB", "bad-input", "the input is longer than 16 MiB; check what writes to stdin", stdin=REQUEST + " " * (16 << 20)),
        failure("no application", "bad-input", 'the input has no "application"; expected {"application": {...}}',
            stdin='{"control":{}}'),
        failure("settings in a list", "bad-input", "in the input, application.components.web.settings must be an object, got a list",
            stdin='{"application":{"components":{"web":{"settings":[{"cpu":4}]}}}}'),
        failure("the same key twice", "bad-input",
            'the input has the key application.components.web twice: \'{"application":{"components":{"web":{"settings":[]},"web":{"settings":{}}}}}\'',
            stdin='{"application":{"components":{"web":{"settings":[]},"web":{"settings":{}}}}}'),
        failure("a component without the level settings", "bad-input",
            'application.components.db has no "settings": expected {"settings": {"size": {"value": ...}}}, got {"size": {"value": ...}}',
            stdin='{"application":{"components":{"db":{"size":{"value":4},"note":"x"}}}}'),
        failure("an APP that is the word of an option, and no input", "bad-input", "the input is empty; did you mean adjust --help?", words=("help",), stdin=""),
        failure("--only without a match", "bad-input", "--only matches no driver (drivers: driver): '02*'", words=(*QUERY, "--only", "driv*", "--only", "02*")),
        failure("a misspelled setting", "unknown-settings",
            "no driver describes setting web.cpus; did you mean web.cpu? (./adjust --query shows what is described)",
            stdin='{"application":{"components":{"web":{"settings":{"cpus":1}}}}}'),
        failure("an unknown setting", "unknown-settings", "no driver describes setting web.color (./adjust --query shows what is described)",
            stdin='{"application":{"components":{"web":{"settings":{"color":{"value":1}}}}}}'),
        failure("all that is unknown", "unknown-settings",
            "no driver describes setting zone of the application; setting web.mem; setting web.disk; component db (settings: cpu) (./adjust --query shows what is described)",
            driver=driver(query=says('{"settings":{"size":{"value":1}},"components":{"web":{"settings":{"cpu":{}}}}}')),
            stdin='{"application":{"settings":{"size":{},"zone":{}},"components":{"web":{"settings":{"cpu":{},"mem":{},"disk":{}}},"db":{"settings":{"cpu":{}}}}}}'),
        failure("20000 unknown settings", "unknown-settings", UNKNOWN[: (256 << 10) - 26] + " ... (520061 bytes in all)",
            stdin='{"application":{"components":{"web":{"settings":{' + ",".join(f'"unknown{n:05}":1' for n in range(20_000)) + "}}}}}"),
        Case("an application that nobody knows, its settings null", stdin='{"application":{"components":{"db":{"settings":{"size":null}}}}}', code=0,
            final='{"progress":0,"message":"querying 1 driver"}\n{"status":"ok","reason":"no-settings-to-adjust"}'),
        on_adjust("a setting that is not an object goes to its driver", "cat", "unknown", "its reply has no status",
            stdin='{"application":{"components":{"web":{"settings":{"cpu":[4]}}}}}'),
    ),
    # Malformed output
    *chapter(
        "SPEC 4",
        on_adjust("a list", "echo '[1]'", "malformed", "expected a JSON object, got a list: '[1]'"),
        on_adjust("no JSON", says("Warning: the context was not set", OK), "malformed",
            "printed a line that is not JSON: 'Warning: the context was not set'"),
        on_adjust("no JSON after the reply", says(OK, "Done."), "malformed", "printed a line that is not JSON: 'Done.'"),
        on_adjust("no JSON and no newline", says(OK) + "; printf Done.", "malformed", "printed a line that is not JSON: 'Done.'"),
        on_adjust("an object over several lines", says("{", '  "status": "ok"', "}"), "malformed",
            "printed a line that is not JSON from character 2 on: '{'"),
        on_adjust("no UTF-8", says('{"status":"ok","message":"caf\udce9"}'), "malformed",
            'printed a line that is not UTF-8: \'{"status":"ok","message":"caf\\xe9"}\''),
        on_adjust("a line over 4 MiB", "printf '{\"message\":\"'; head -c 4200000 /dev/zero | tr '\\0' x", "malformed",
            'printed a line that is longer than 4 MiB: \'{"message":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\'...'),
        on_query("no JSON in a query", says("Warning: no context", '{"application":{}}'), "malformed",
            "on --query: printed a line that is not JSON: 'Warning: no context\\n{\"application\":{}}'"),
        on_info("a usage text in an info", says("usage: driver [-h] app"),
            "on --info: printed a line that is not JSON: 'usage: driver [-h] app'"),
    ),
    # Answers to a query
    *chapter(
        "SPEC 4, 6",
        on_query("no reply to a query", "", "no-reply", "on --query: gave no reply"),
        on_query("neither application nor components nor settings", says('{"web":{"cpu":2}}'), "malformed",
            'on --query: its reply is not a description: "application", "components" and "settings" are missing'),
        on_query("components in a list", says('{"application":{"components":[{"name":"web"}]}}'), "malformed",
            "on --query: its reply is not a description: application.components must be an object, got a list"),
        failure("a wrong shape in an adjust", "malformed",
            "driver: failed: on --query: its reply is not a description: application.components must be an object, got a list",
            driver=driver(query=says('{"components":[]}'))),
        on_query("a component twice in a query", says('{"application":{"components":{"web":{"settings":{}},"web":{}}}}'), "malformed",
            'on --query: printed a line that has the key application.components.web twice: \'{"application":{"components":{"web":{"settings":{}},"web":{}}}}\''),
        on_query("an old error in a query, exit 0", says('{"error":"no such instance","class":"failure"}'), "malformed",
            'no such instance (on --query: its reply is not a description: "application", "components" and "settings" are missing)'),
        on_query("an answer, but exit 1", says('{"application":{}}') + "; exit 1", "exit-status", "on --query: exited with status 1"),
        on_query("a warning alone", says(WARNING), "unknown", "using the non-selected value of cpu (on --query)"),
        failure("several settings described twice and thrice, one of the application", "conflict",
            "only one driver may describe a setting, but setting zone of the application is described by driver and other; setting web.cpu is described by driver, other and third; setting web.mem is described by driver and third",
            driver=driver(query=says('{"settings":{"zone":{}},"components":{"web":{"settings":{"cpu":{},"mem":{}}}}}')),
            others={"other": driver(query=says('{"settings":{"zone":{}},"components":{"web":{"settings":{"cpu":{}}}}}')), "third": driver(query=says('{"components":{"web":{"settings":{"mem":{},"cpu":{}}}}}'))},
            words=QUERY),
        failure("a conflict in an adjust", "conflict",
            "only one driver may describe a setting, but setting web.cpu is described by driver and other", others={"other": driver()}),
        failure("three fail, in driver order", "app-restart",
            "01: aborted: on --query: failed without a message\ndriver: failed: on --query: exited with status 3, gave no reply\nzz: failed: on --query: failed without a message",
            driver=driver(query="exit 3"),
            others={"01": driver(query="sleep 0.2; " + says('{"status":"aborted","reason":"app-restart"}')), "zz": driver(query=says('{"status":"failed"}'))},
            words=QUERY, status="aborted"),
    ),
    # Answers to an info
    *chapter(
        "SPEC 4",
        on_info("an info without a version", says('{"has_cancel":true}'), "on --info: its reply has no version"),
        on_info("a version that is null", says('{"version":null}'), "on --info: its reply has no version"),
        on_info("a version that is blank", says(r'{"version":" \n "}'), "on --info: its reply has no version"),
        Case("a version that is a list, has_cancel a text", driver=driver(info=says('{"version":[1,2],"has_cancel":"yes"}')), words=INFO, code=0,
            final='{"version":"aggregator 2.0.0 (1; 2)","has_cancel":true,"drivers":{"driver":{"version":"1; 2","has_cancel":false}}}'),
        on_info("an info that fails", says('{"status":"failed","message":"no section k8s in config.yaml"}'),
            "no section k8s in config.yaml (on --info)"),
        Case("no reply to an info", driver=driver(info="exit 2"), words=("--info",), code=0,
            message="driver: on --info: exited with status 2, gave no reply"),
        Case("two drivers that do not tell", driver=driver(info="exit 3"), others={"other": "#!/no/such/python\n"}, words=INFO, code=0,
            message="driver: on --info: exited with status 3, gave no reply\nother: on --info: cannot be started: its interpreter /no/such/python does not exist"),
    ),
    # Answers to an adjust
    *chapter(
        "SPEC 4, 7, 10",
        on_adjust("no reply", "", "no-reply", "gave no reply"),
        on_adjust("only progress", says('{"progress":100,"message":"all done"}'), "no-reply", "gave no reply"),
        on_adjust("no reply, exit 3", "exit 3", "exit-status", "exited with status 3, gave no reply"),
        on_adjust("no reply, killed", "kill -s KILL $$", "signal", "was killed by SIGKILL, gave no reply"),
        on_adjust("a reply, and a segmentation fault", "ulimit -c 0; " + says('{"status":"failed","message":"m"}') + "; kill -s SEGV $$", "signal",
            "m (was killed by SIGSEGV)"),
        on_adjust("no reply, a real-time signal", "kill -s 40 $$", "signal", "was killed by signal 40, gave no reply"),
        on_adjust("ok, but exit 3", says(OK) + "; exit 3", "exit-status", "replied ok but exited with status 3"),
        on_adjust("ok, but killed", says(OK) + "; kill -s TERM $$", "signal", "replied ok but was killed by SIGTERM"),
        on_adjust("no status", says('{"state":1}'), "unknown", "its reply has no status"),
        failure("a status with odd characters", "unknown", "driver: a\nb: \x1b[31m\ud800: m",
            driver=driver(adjust=says(r'{"status":"a\nb: \u001b[31m\ud800","message":"m"}')), status="a\nb: \x1b[31m\ud800"),
        on_adjust("the same key twice", says('{"status":"ok","status":"failed","message":"a","message":"b"}'), "unknown", "b"),
        on_adjust("ok, then failed", says(OK, '{"status":"failed","reason":"unstable"}'), "unstable", "failed without a message"),
        on_adjust("a warning, then only progress", says(WARNING, '{"progress":100}'), "unknown", "using the non-selected value of cpu"),
        on_adjust("progress with a status", says('{"progress":50,"status":"failed","message":"half"}'), "unknown", "half"),
        on_adjust("a message with odd characters", says(r'{"status":"failed","message":"\u0000\u001b[31mred\u007f \ud800 caf\u00e9"}'), "unknown",
            "\x00\x1b[31mred\x7f \ud800 caf\xe9"),
        failure("rejected outranks aborted outranks the first", "unstable", "driver: failed: one\ne2: aborted: two\ne3: rejected: three",
            driver=driver(adjust=says('{"status":"failed","message":"one"}')),
            others={"e2": driver(query=says('{"components":{"a":{"settings":{"x":{}}}}}'), adjust=says('{"status":"aborted","reason":"app-restart","message":"two"}')), "e3": driver(query=says('{"components":{"b":{"settings":{"x":{}}}}}'), adjust=says('{"status":"rejected","reason":"unstable","message":"three"}'))},
            stdin='{"application":{"components":{"web":{"settings":{"cpu":1}},"a":{"settings":{"x":1}},"b":{"settings":{"x":1}}}}}', status="rejected"),
        on_adjust("on_failure: stop", says('{"status":"failed","message":"one"}'), "unknown", "one",
            others={"next": driver(query=says('{"components":{"a":{"settings":{"x":{}}}}}'))},
            stdin='{"application":{"components":{"web":{"settings":{"cpu":1}},"a":{"settings":{"x":1}}}}}', config="agg: {on_failure: stop}"),
        failure("a driver that sends us SIGTERM", "SIGTERM", "terminated by SIGTERM; driver had not finished its adjust after <seconds> s; all drivers were stopped\ndriver: failed: was stopped, gave no reply",
            driver=driver(adjust="kill -s TERM $PPID; sleep 600"), code=143, status="terminated"),
        failure("a driver that cancels us, and cannot be canceled", "SIGUSR1", "canceled by SIGUSR1; no further driver was started",
            driver=driver(adjust="kill -s USR1 $PPID; until [ -e ran.info ]; do sleep 0.02; done; " + says(OK)), status="canceled"),
    ),
    # Silence
    *chapter(
        "SPEC 9",
        on_query("a silent query", "sleep 600", "timeout", "on --query: did not answer within 0.2 s and was stopped", env={"OPTUNE_IO_TIMEOUT": "0.4"}),
        on_info("a silent info", "sleep 600", "on --info: did not answer within 0.2 s and was stopped", env={"OPTUNE_IO_TIMEOUT": "0.4"}),
        on_adjust("a silent adjust", says('{"progress":50}') + "; echo waiting >&2; sleep 600", "timeout",
            "was silent for <seconds> s and was stopped; stderr: waiting", env={"OPTUNE_IO_TIMEOUT": "2"}),
    ),
    # Start
    *chapter(
        "SPEC 13",
        cannot_start("no interpreter", "#!/opt/py/bin/python\n", "its interpreter /opt/py/bin/python does not exist"),
        Case("no interpreter in an info", driver="#!/opt/py/bin/python\n", words=INFO, code=0,
            message="driver: on --info: cannot be started: its interpreter /opt/py/bin/python does not exist"),
        cannot_start("no interpreter after #!", "#!\n", "its #! line names no interpreter"),
        *(
            cannot_start(f"no interpreter for {words}", f"#!/usr/bin/env {words}\n", f"its interpreter {why}", env={"OPTUNE_VERBOSE_STDERR": "none"})
            for words, why in (
                ("no-such-python", "no-such-python is not on PATH"),
                ("-S A=1 no-such-python -u", "no-such-python is not on PATH"),
                ("python3 -u", "python3 -u is not on PATH; use env -S to pass arguments"),
                ("./no-such-python", "./no-such-python does not exist"),
            )
        ),
        cannot_start("blanks around env", "#! \t/usr/bin/env \t no-such-python \n", "its interpreter no-such-python is not on PATH",
            env={"OPTUNE_VERBOSE_STDERR": "none"}),
        cannot_start("a program without the executable flag for env", "#!/usr/bin/env not-executable\n",
            "its interpreter <servo>/bin/not-executable is not executable", before='mkdir bin; : >bin/not-executable; export PATH="$PWD/bin:$PATH"',
            env={"OPTUNE_VERBOSE_STDERR": "none"}),
        *(
            failure(f"env {words} looks elsewhere", "exit-status", "driver: failed: on --query: exited with status 127, gave no reply",
                driver=f"#!/usr/bin/env {words}\n", words=QUERY, env={"OPTUNE_VERBOSE_STDERR": "none"})
            for words in ("-S PATH=/nowhere sh", "-S -i no-such-python")
        ),
        failure("exit 127 after a reply, and no program on PATH any more", "exit-status",
            "driver: failed: replied (on --query: exited with status 127)", driver="#!/usr/bin/env program\n", words=QUERY,
            before='mkdir bin; export PATH="$PWD/bin:$PATH"; '
            + says("#!/bin/sh", "rm bin/program", says('{"status":"failed","message":"replied"}'), "exit 127")
            + " >bin/program; chmod +x bin/program"),
        failure("exit 127 of a program that env has found", "exit-status", "driver: failed: on --query: exited with status 127, gave no reply",
            driver="#!/usr/bin/env sh\nexit 127\n", words=QUERY),
        cannot_start("no #! line", "echo hello\n", "it has no #! line (the first line should be, for example, #!/bin/sh)"),
        cannot_start("a program of another machine", "\x7fELF is not all that it takes\n",
            "it is a program for another CPU architecture, or a library that it needs is missing"),
        cannot_start("a byte order mark before #!", "\ufeff#!/bin/sh\n", "it begins with a byte order mark; save it without one"),
        cannot_start("CR LF", "#!/bin/sh\r\necho hello\r\n", "its first line ends in CR LF (Windows line endings); save it with LF line endings"),
        failure("CR LF after env", "exit-status",
            "driver: failed: on --query: exited with status 127, gave no reply, its first line ends in CR LF (Windows line endings); save it with LF line endings",
            driver="#!/usr/bin/env python3\r\nprint()\r\n", words=QUERY, env={"OPTUNE_VERBOSE_STDERR": "none"}),
        cannot_start("a directory for an interpreter", "#!/usr/bin\n", "its interpreter /usr/bin is not executable"),
        cannot_start("an interpreter without the executable flag", "#!./interpreter\n", "its interpreter ./interpreter is not executable",
            before=": >interpreter"),
        on_adjust("the flag is gone in mid-adjust", "", "cannot-start",
            "cannot be started: it is not executable; check its permissions, and whether its file system is mounted noexec",
            driver=driver(query="chmod a-x $0; " + SETTING)),
        cannot_start("line ends of an old Mac", "#!/bin/sh\recho hi\r", "its lines end in CR (old Mac line endings); save it with LF line endings"),
        on_adjust("the file is gone in mid-adjust", "", "cannot-start", "cannot be started: the file was removed after adjust.d was listed",
            driver=driver(query="rm $0; " + SETTING)),
        on_adjust("a directory in its place in mid-adjust", "", "cannot-start",
            "cannot be started: it is not a regular file any more: it was replaced after adjust.d was listed",
            driver=driver(query="rm $0; mkdir $0; " + SETTING)),
        on_adjust("a link in a loop in its place in mid-adjust", "", "cannot-start", "cannot be started: it is a symbolic link that leads back to itself",
            driver=driver(query="rm $0; ln -s driver $0; " + SETTING)),
        failure("a file that is being written to", "cannot-start",
            "other: failed: on --query: cannot be started: the file is open for writing; try again later",
            driver=driver(query=says('{"components":{"web":{"settings":{"cpu":{}}}}}') + "\ncp /bin/true $0.new; mv $0.new $0"),
            others={"other": driver(query=says('{"application":{}}'))}, words=QUERY, onto="3<>adjust.d/other"),
        failure("too many open files", "cannot-start",
            "driver: failed: on --query: cannot be started: too many open files (raise ulimit -n, or lower `parallel`)", words=QUERY,
            before="ulimit -n 11"),
        failure("a driver with an odd name", "cannot-start",
            "a\n\x1b[31m: \udcff: failed: on --query: cannot be started: its interpreter /no/such does not exist", driver=None,
            others={"a\n\x1b[31m: \udcff": "#!/no/such\n"}, words=QUERY),
    ),
    # Stderr of a driver
    *chapter(
        "SPEC 13",
        on_adjust("stderr", "{ echo error: cannot reach the cluster; echo giving up; } >&2; exit 3", "exit-status",
            "exited with status 3, gave no reply; stderr: error: cannot reach the cluster\ngiving up"),
        on_adjust("stderr, minimal", "{ echo one; echo two; echo three; } >&2; exit 3", "exit-status",
            "exited with status 3, gave no reply; stderr: one\ntwo", env={"OPTUNE_VERBOSE_STDERR": "minimal"}),
        on_adjust("stderr, none", "{ echo one; echo two; } >&2; exit 3", "exit-status", "exited with status 3, gave no reply",
            env={"OPTUNE_VERBOSE_STDERR": "none"}),
        on_adjust("stderr, a word that is none", "{ echo one; echo two; echo three; } >&2; exit 3", "exit-status",
            "exited with status 3, gave no reply", env={"OPTUNE_VERBOSE_STDERR": "loud"}),
        on_adjust("stderr that is blank", "{ echo; echo '  '; } >&2; exit 3", "exit-status", "exited with status 3, gave no reply"),
        on_adjust("stderr that is not UTF-8, with control characters", r"{ printf '\033[31mcaf\351\0\r\n'; } >&2; exit 3", "exit-status",
            "exited with status 3, gave no reply; stderr: \x1b[31mcaf\ufffd\x00"),
        on_adjust("stderr of 100 KB", r"{ head -c 100000 /dev/zero | tr '\0' x; } >&2; exit 3", "exit-status",
            "exited with status 3, gave no reply; stderr: " + "x" * 16384 + "\n... 34464 bytes omitted ...\n" + "x" * 49152),
    ),
    # Long messages
    *chapter(
        "SPEC 13",
        on_adjust("a message of 300 KB", LONG_FAILURE, "unknown", "0" * 262102 + " ... (300016 bytes in all)"),
        failure("a reason and a status of 60 KB", "0" * 999 + " ... (60000 bytes in all)",
            "driver: " + "0" * 999 + " ... (60000 bytes in all): failed without a message",
            driver=driver(adjust='printf \'{"status":"%060000d","reason":"%060000d"}\\n\' 0 0'), status="0" * 999 + " ... (60000 bytes in all)"),
        on_info("a message of 300 KB in an info", LONG_FAILURE, "0" * 262118 + " ... (300012 bytes in all)"),
        failure("two messages of 300 KB in a query", "unknown",
            "driver: failed: " + "0" * 87339 + " ... (300029 bytes in all)\nother: failed: " + "0" * 87340 + " ... (300028 bytes in all)",
            driver=driver(query=LONG_FAILURE), others={"other": driver(query=LONG_FAILURE)}, words=QUERY),
    ),
    # -v
    *chapter(
        "SPEC 13",
        failure("-v: control characters of a driver", "unknown",
            "driver: failed: \x1b[2Jgone (on --query); stderr: \x1b[31mred\x07 \x7f \x9b\rover\tthere\r\nlast",
            driver=driver(query=r"printf '\033[31mred\007 \177 \302\233\rover\tthere\r\nlast' >&2; " + says(r'{"status":"failed","message":"\u001b[2Jgone"}')),
            words=VERBOSE_QUERY,
            stderr='[s] driver: started as process <pid>: --query app\ndriver: \\x1b[31mred\\x07 \\x7f \\x9b\\rover\tthere\n[s] driver: replies {"status":"failed","message":"\\u001b[2Jgone"}\n[s] driver: ended: failed: \\x1b[2Jgone (on --query); stderr: \\x1b[31mred\\x07 \\x7f \\x9b\\rover\tthere\\r\nlast\ndriver: last\n'),
        Case("-v: an APP with control characters", driver=driver(query=says('{"application":{}}')), words=("-v", "--query", "\x1b[31mred"), code=0,
            final='{"application":{"components":{}}}',
            stderr='[s] driver: started as process <pid>: --query \\x1b[31mred\n[s] driver: replies {"application":{}}\n[s] driver: ended: ok\n'),
        failure("-v: a driver that cannot be started", "cannot-start",
            "driver: failed: on --query: cannot be started: its interpreter /no/such does not exist", driver="#!/no/such\n", words=VERBOSE_QUERY,
            stderr="[s] driver: cannot be started: its interpreter /no/such does not exist\n"),
        failure("-v: a driver with an odd name", "cannot-start",
            "a\x1b[31m\udcff: failed: on --query: cannot be started: its interpreter /no/such does not exist", driver=None,
            others={"a\x1b[31m\udcff": "#!/no/such\n"}, words=VERBOSE_QUERY,
            stderr="[s] a\\x1b[31m\\udcff: cannot be started: its interpreter /no/such does not exist\n"),
        Case("-v: warnings before the answer", driver=driver(query=says(WARNING, '{"application":{"components":{}}}')), words=VERBOSE_QUERY, code=0,
            final='{"application":{"components":{}}}',
            stderr='[s] driver: started as process <pid>: --query app\n[s] driver: replies {"status":"failed","message":"using the non-selected value of cpu"}\n[s] driver: replies {"application":{"components":{}}}\n[s] driver: ended: ok\n'),
    ),
    # Progress
    *chapter(
        "SPEC 8",
        Case("odd characters in a message",
            driver=driver(adjust=says(r'{"progress":1,"message":"a\nb\r\u001b[31m\u0000\ud800\u007f caf\u00e9"}', OK)), code=0, final=SUCCESS,
            progress=(r'{"progress":1,"message":"driver: a\nb\r\u001b[31m\u0000\ud800\u007f caf\u00e9"}', '{"progress":100,"message":"driver: done"}')),
        Case("the same key twice", driver=driver(adjust=says('{"progress":1,"progress":50,"message":"a","message":"b"}', OK)), code=0, final=SUCCESS,
            progress=('{"progress":50,"message":"driver: b"}', '{"progress":100,"message":"driver: done"}')),
        Case("unknown keys, lists for texts",
            driver=driver(adjust=says('{"progress":1,"stage":["x"],"msg_index":"one","time_remain":null,"reason":[]}', OK)), code=0, final=SUCCESS,
            progress=('{"progress":1,"stage":["x"],"msg_index":"one","time_remain":null,"reason":[],"message":"driver"}', '{"progress":100,"message":"driver: done"}')),
        on_adjust("progress with a status that is null is a reply", says('{"progress":50,"status":null,"message":"m"}'), "unknown",
            'm (the "status" in its reply must be a string, got null)', progress=('{"progress":100,"message":"driver: failed (unknown)"}',)),
        Case("a message of 300 KB", driver=driver(adjust='printf \'{"progress":1,"message":"%0300000d"}\\n\' 0\n' + says(OK)), code=0, final=SUCCESS,
            progress=('{"progress":1,"message":"driver: ' + "0" * 262110 + ' ... (300008 bytes in all)"}', '{"progress":100,"message":"driver: done"}')),
        on_adjust("malformed output is told before the driver is stopped", says('{"progress":50}', "oops", OK), "malformed",
            "printed a line that is not JSON: 'oops'",
            progress=('{"progress":50,"message":"driver"}', '{"progress":50,"message":"driver: printed malformed output; stopping it"}', '{"progress":100,"message":"driver: failed (malformed)"}')),
        failure("a status and reason of two lines", "c\nd", "driver: a\nb: m",
            driver=driver(adjust=says(r'{"status":"a\nb","reason":"c\nd","message":"m"}')), status="a\nb",
            progress=(r'{"progress":100,"message":"driver: a\nb (c\nd)"}',)),
    ),
)
# fmt: on
