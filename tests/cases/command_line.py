"""SPEC 5: what is wrong with the command line, and with the streams."""

from __future__ import annotations

from servo_agg.arguments import USAGE
from tests.cases.case import Case, driver, says

QUERY = ("--query", "app")

CASES = (
    # Usage.
    Case("SPEC 5", "help", words=("--help",), code=0, final=USAGE),
    Case(
        "SPEC 5",
        "nothing",
        words=(),
        code=2,
        final="",
        stderr=("adjust: APP is missing: the name of the application, which is passed on to the drivers\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "an unknown option",
        words=("--no-such-option", "app"),
        code=2,
        final="",
        stderr=("adjust: unknown option '--no-such-option' (an APP must not begin with a dash)\n\n") + USAGE,
    ),
    Case(
        "SPEC 5",
        "an unknown short option",
        words=("-x", "app"),
        code=2,
        final="",
        stderr="adjust: unknown option '-x' (an APP must not begin with a dash)\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "short options in one word",
        words=("-vv", "app"),
        code=2,
        final="",
        stderr="adjust: unknown option '-vv': did you mean -v?\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an option in capitals",
        words=("--QUERY", "app"),
        code=2,
        final="",
        stderr="adjust: unknown option '--QUERY': did you mean --query?\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an option with an equals sign",
        words=("--query=app",),
        code=2,
        final="",
        stderr=("adjust: unknown option '--query=app': did you mean --query?\n\n") + USAGE,
    ),
    Case(
        "SPEC 5",
        "an option that would colour the terminal",
        words=("--\x1b[31mred\nend",),
        code=2,
        final="",
        stderr=("adjust: unknown option '--\\x1b[31mred\\nend' (an APP must not begin with a dash)\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "an option that is no UTF-8",
        words=("--caf\udce9",),
        code=2,
        final="",
        stderr=("adjust: unknown option '--caf\\udce9' (an APP must not begin with a dash)\n\n") + USAGE,
    ),
    Case(
        "SPEC 5",
        "an option of 100 KB",
        words=("--" + "x" * 100_000,),
        code=2,
        final="",
        stderr=(
            "adjust: unknown option "
            "'--xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' "
            "(an APP must not begin with a dash)\n\n"
        )
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "a query without APP",
        words=("--query",),
        code=2,
        final="",
        stderr=("adjust: APP is missing: the name of the application, which is passed on to the drivers\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "a describe without APP",
        words=("--describe",),
        code=2,
        final="",
        stderr=("adjust: APP is missing: the name of the application, which is passed on to the drivers\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "only -v",
        words=("-v",),
        code=2,
        final="",
        stderr=("adjust: APP is missing: the name of the application, which is passed on to the drivers\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "two APPs",
        words=("app", "other"),
        code=2,
        final="",
        stderr=("adjust: one APP only, but 2 are given: 'app other'; a name with blanks needs quotes\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "two APPs for a query",
        words=("--query", "app", "other"),
        code=2,
        final="",
        stderr=("adjust: one APP only, but 2 are given: 'app other'; a name with blanks needs quotes\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "an APP of two words without quotes",
        words=("--query", "my", "great", "app\n"),
        code=2,
        final="",
        stderr=(
            "adjust: one APP only, but 3 are given: 'my great app\\n'; a name with blanks needs quotes\n\n"
        )
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "many long APPs",
        words=tuple("x" * 1000 for _ in range(50)),
        code=2,
        final="",
        stderr=(
            "adjust: one APP only, but 50 are given: "
            "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...';"
            " a name with blanks needs quotes\n\n"
        )
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "two operations",
        words=("--info", "--query", "app"),
        code=2,
        final="",
        stderr="adjust: one at a time of --info, --query\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an empty APP",
        words=("--query", ""),
        code=2,
        final="",
        stderr="adjust: APP is empty: is the variable set that it comes from?\n\n" + USAGE,
    ),
    Case(
        "SPEC 14",
        "--set without a value",
        words=("app", "--set", "web.cpu"),
        code=2,
        final="",
        stderr="adjust: --set needs COMPONENT.SETTING=VALUE, such as --set web.cpu=4\n\n" + USAGE,
    ),
    Case(
        "SPEC 14",
        "--set in a query",
        words=("--query", "app", "--set", "web.cpu=4"),
        code=2,
        final="",
        stderr="adjust: --set goes with --plan or an adjust only\n\n" + USAGE,
    ),
    Case(
        "SPEC 14",
        "--json in a query",
        words=("--query", "app", "--json"),
        code=2,
        final="",
        stderr="adjust: --json goes with --check or --plan only: all else answers in JSON anyway\n\n" + USAGE,
    ),
    # APP is passed on as it is.
    Case(
        "SPEC 5",
        "an APP that begins with a dash",
        words=("-app",),
        code=2,
        final="",
        stderr="adjust: unknown option '-app' (an APP must not begin with a dash)\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an APP that begins with a dash, after --",
        words=("--", "-app"),
        code=2,
        final="",
        stderr="adjust: an APP must not begin with a dash, but '-app' does\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an APP that reads like a word of the protocol, after --",
        words=("--", "--info"),
        code=2,
        final="",
        stderr=("adjust: an APP must not begin with a dash, but '--info' does: did you mean --info?\n\n")
        + USAGE,
    ),
    Case(
        "SPEC 5",
        "a mistyped option after --query",
        words=("--query", "--tmings"),
        code=2,
        final="",
        stderr="adjust: unknown option '--tmings': did you mean --timings?\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "a dash alone",
        words=("--query", "-"),
        code=2,
        final="",
        stderr="adjust: unknown option '-' (an APP must not begin with a dash)\n\n" + USAGE,
    ),
    Case(
        "SPEC 5",
        "an APP with spaces, a newline, quotes and bytes that are no text, in a failure of a driver",
        driver(query="""printf '{"status":"failed","message":"got %d bytes"}\\n' ${#2}"""),
        words=("--query", "a 'b'\n\"$c\" \udcff"),
        reason="unknown",
        message="driver: failed: got 12 bytes (on --query)",
    ),
    Case(
        "SPEC 3",
        "an environment that has no room for what is added to it",
        env={"PYTHONPATH": "x" * 131_040},
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its arguments and environment together "
            "are too long"
        ),
    ),
    # Streams.
    Case(
        "SPEC 5",
        "no stdout",
        words=QUERY,
        onto=">&-",
        final="",
        stderr="adjust: there is no stdout to answer on; nothing was run\n",
    ),
    Case(
        "SPEC 5",
        "a full stdout",
        words=QUERY,
        onto=">/dev/full",
        final="",
        stderr="adjust: stdout cannot take the answer: No space left on device\n",
    ),
    Case(
        "SPEC 5",
        "a full stdout in an adjust",
        onto=">/dev/full",
        final="",
        stderr="adjust: stdout cannot take the answer: No space left on device\n",
    ),
    Case(
        "SPEC 5",
        "a stdout that is open for reading",
        words=QUERY,
        onto="1</dev/null",
        final="",
        stderr="adjust: stdout cannot take the answer: Bad file descriptor\n",
    ),
    Case(
        "SPEC 7.1",
        "a stdin that is open for writing",
        onto="0>sink",
        reason="bad-input",
        message="stdin cannot be read: Bad file descriptor",
    ),
    Case(
        "SPEC 7.1",
        "a closed stdin",
        onto="<&-",
        reason="bad-input",
        message='the input is empty: an adjust reads {"application": {...}} from stdin',
    ),
    # What drivers do not tell when they are asked for their version.
    Case(
        "SPEC 5",
        "a version of a driver that fails",
        driver(info=says('{"error":"no config.yaml"}') + "; exit 3"),
        words=("--version",),
        final="aggregator 2.0.0 (unknown)",
        stderr="driver: failed: no config.yaml (on --info: exited with status 3)\n",
    ),
    Case(
        "SPEC 5",
        "versions of two drivers that fail",
        driver(info="kill -s KILL $$"),
        others={"other": driver(info=says("usage: other APP"))},
        words=("--version",),
        final="aggregator 2.0.0 (unknown, unknown)",
        stderr=(
            "driver: failed: on --info: killed by SIGKILL, gave no reply\nother: failed: on "
            "--info: its output is malformed: it is no JSON: 'usage: other APP'\n"
        ),
    ),
    Case(
        "SPEC 5",
        "a version that would colour the terminal, over two lines",
        driver(info=says(r'{"version":"1.0\u001b[31m\nbeta\u0007 caf\u00e9"}')),
        words=("--version",),
        code=0,
        final="aggregator 2.0.0 (1.0\\x1b[31m beta\\x07 caf\\xe9)",
    ),
    Case(
        "SPEC 5",
        "a cause that would colour the terminal",
        driver(info=says(r'{"status":"failed","message":"\u001b[31mred\rover\u007f\u009b\nnext\tline"}')),
        words=("--version",),
        final="aggregator 2.0.0 (unknown)",
        stderr="driver: failed: \\x1b[31mred\\rover\\x7f\\x9b\nnext\tline (on --info)\n",
    ),
    Case(
        "SPEC 5",
        "no adjust.d for --version",
        before="rm -r adjust.d",
        words=("--version",),
        reason="no-adjust-d",
        message="there is no <servo>/adjust.d: run this in the servo directory, which holds adjust.d",
    ),
    Case(
        "SPEC 5",
        "a bad variable for --version",
        env={"OPTUNE_IO_TIMEOUT": "30s"},
        words=("--version",),
        reason="bad-environment",
        message=(
            "the environment variable OPTUNE_IO_TIMEOUT is '30s': it must be a plain decimal "
            "number of seconds, such as 30 or 2.5 (0 or empty: unlimited)"
        ),
    ),
)
