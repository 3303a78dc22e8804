"""SPEC 4, 6, 7.9, 13: drivers that answer or end as they should not, or cannot be started."""

from __future__ import annotations

from tests.cases.case import OK, Case, driver, says

QUERY = ("--query", "app")

WARNING = '{"status":"failed","message":"using the non-selected value of cpu"}'


def adjust(*lines: str) -> str:
    """Give a driver that answers an adjust so."""
    return driver(adjust=says(*lines))


def query(*lines: str) -> str:
    """Give a driver that answers a query so."""
    return driver(query=says(*lines))


def info(*lines: str) -> str:
    """Give a driver that answers an info so."""
    return driver(info=says(*lines))


MALFORMED = (
    Case(
        "SPEC 4",
        "no JSON",
        adjust("Warning: the context was not set", OK),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON: 'Warning: the context was not set'"
        ),
    ),
    Case(
        "SPEC 4",
        "no JSON after the reply",
        adjust(OK, "Done."),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no JSON: 'Done.'",
    ),
    Case(
        "SPEC 4",
        "no JSON and no newline",
        driver(adjust=says(OK) + "; printf Done."),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no JSON: 'Done.'",
    ),
    Case(
        "SPEC 4",
        "half an object",
        adjust('{"status":"ok"'),
        reason="malformed",
        message=(
            'driver: failed: its output is malformed: it is no JSON from character 15 on: \'{"status":"ok"\''
        ),
    ),
    Case(
        "SPEC 4",
        "two objects on a line",
        adjust(OK + OK),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON from character 16 on: "
            '\'{"status":"ok"}{"status":"ok"}\''
        ),
    ),
    Case(
        "SPEC 4",
        "text after an object",
        adjust(OK + " done"),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON from character 17 on: "
            '\'{"status":"ok"} done\''
        ),
    ),
    Case(
        "SPEC 4",
        "single quotes",
        adjust("{'status': 'ok'}"),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON from character 2 on: \"{'status': 'ok'}\""
        ),
    ),
    Case(
        "SPEC 4",
        "an object over several lines",
        adjust("{", '  "status": "ok"', "}"),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no JSON from character 2 on: '{'",
    ),
    Case(
        "SPEC 4",
        "a list",
        adjust("[" + OK + "]"),
        reason="malformed",
        message=(
            'driver: failed: its output is malformed: it is no object but a list: \'[{"status":"ok"}]\''
        ),
    ),
    Case(
        "SPEC 4",
        "a text",
        adjust('"ok"'),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no object but a text: '\"ok\"'",
    ),
    Case(
        "SPEC 4",
        "a number",
        adjust("100"),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no object but a number: '100'",
    ),
    Case(
        "SPEC 4",
        "true",
        adjust("true"),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no object but a boolean: 'true'",
    ),
    Case(
        "SPEC 4",
        "null",
        adjust("null"),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no object but null: 'null'",
    ),
    Case(
        "SPEC 4",
        "no UTF-8",
        adjust('{"status":"ok","message":"caf\udce9"}'),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is not UTF-8: "
            '\'{"status":"ok","message":"caf\\xe9"}\''
        ),
    ),
    Case(
        "SPEC 4",
        "bytes that are no text",
        adjust("\udc80\udcff\x01\udcfe\x7f"),
        reason="malformed",
        message=("driver: failed: its output is malformed: it is not UTF-8: '\\x80\\xff\\x01\\xfe\\x7f'"),
    ),
    Case(
        "SPEC 4",
        "UTF-16",
        driver(adjust=r"""printf '\377\376{\0}\0\n\0'"""),
        reason="malformed",
        message="driver: failed: its output is malformed: it is not UTF-8: '\\xff\\xfe{\\x00}\\x00'",
    ),
    Case(
        "SPEC 4",
        "a NUL after the object",
        driver(adjust=r"""printf '{"status":"ok"}\0\n'"""),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON from character 16 on: "
            '\'{"status":"ok"}\\x00\''
        ),
    ),
    Case(
        "SPEC 4",
        "a byte order mark",
        adjust("\ufeff" + OK),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it begins with a byte order mark: "
            '\'\\ufeff{"status":"ok"}\''
        ),
    ),
    Case(
        "SPEC 4",
        "a control character in a text",
        adjust('{"status":"ok","message":"\x1b[31mred"}'),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is no JSON from character 27 on: "
            '\'{"status":"ok","message":"\\x1b[31mred"}\''
        ),
    ),
    Case(
        "SPEC 4",
        "colours around the line",
        adjust("\x1b[32m" + OK + "\x1b[0m"),
        reason="malformed",
        message=(
            'driver: failed: its output is malformed: it is no JSON: \'\\x1b[32m{"status":"ok"}\\x1b[0m\''
        ),
    ),
    Case(
        "SPEC 4",
        "NaN",
        adjust('{"progress":NaN}'),
        reason="malformed",
        message="driver: failed: its output is malformed: NaN is no JSON number: '{\"progress\":NaN}'",
    ),
    Case(
        "SPEC 4",
        "Infinity",
        adjust('{"status":"ok","n":Infinity}'),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: Infinity is no JSON number: "
            '\'{"status":"ok","n":Infinity}\''
        ),
    ),
    Case(
        "SPEC 4",
        "-Infinity",
        adjust('{"status":"ok","n":-Infinity}'),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: -Infinity is no JSON number: "
            '\'{"status":"ok","n":-Infinity}\''
        ),
    ),
    Case(
        "SPEC 4",
        "a number out of range",
        adjust('{"progress":1e999}'),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: a number in it is out of range: '{\"progress\":1e999}'"
        ),
    ),
    Case(
        "SPEC 4",
        "a number of 5000 digits",
        adjust('{"progress":' + "9" * 5000 + "}"),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: a whole number in it has too many digits: "
            "'{\"progress\":99999999999999999999999999999999999999999999999999999999999999999999'.."
            "."
        ),
    ),
    Case(
        "SPEC 4",
        "nested 401 deep",
        adjust('{"status":"ok","n":' + "[" * 400 + "]" * 400 + "}"),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is nested more than 400 levels deep: "
            '\'{"status":"ok","n":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\'..'
            "."
        ),
    ),
    Case(
        "SPEC 4",
        "a line over 4 MiB",
        driver(adjust="""printf '{"message":"'; head -c 4200000 /dev/zero | tr '\\0' x"""),
        reason="malformed",
        message=(
            "driver: failed: its output is malformed: it is longer than 4 MiB: "
            '\'{"message":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\'..'
            "."
        ),
    ),
    Case(
        "SPEC 4",
        "a blank line over 4 MiB",
        driver(adjust="""head -c 4200000 /dev/zero | tr '\\0' ' '"""),
        reason="malformed",
        message="driver: failed: its output is malformed: it is longer than 4 MiB: ''",
    ),
    Case(
        "SPEC 4",
        "no JSON in a query",
        query("Warning: no context", '{"application":{}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its output is malformed: it is no JSON: 'Warning: no "
            'context\\n{"application":{}}\''
        ),
    ),
    Case(
        "SPEC 4",
        "no JSON after a query's answer",
        query('{"application":{}}', "Done."),
        words=QUERY,
        reason="malformed",
        message="driver: failed: on --query: its output is malformed: it is no JSON: 'Done.'",
    ),
    Case(
        "SPEC 4",
        "a document that breaks off",
        query("{", '  "application": {'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its output is malformed: it is no JSON from character 21 on:"
            " '{\\n  \"application\": {'"
        ),
    ),
    Case(
        "SPEC 4",
        "a document over 4 MiB",
        driver(query="echo '['; head -c 4200000 /dev/zero | tr '\\0' ' '"),
        words=QUERY,
        reason="malformed",
        message="driver: failed: on --query: its output is malformed: it is longer than 4 MiB: '['",
    ),
    Case(
        "SPEC 4",
        "a usage text in an info",
        info("usage: driver [-h] app"),
        words=("--info", "app"),
        code=0,
        message="driver: on --info: its output is malformed: it is no JSON: 'usage: driver [-h] app'",
    ),
    Case(
        "SPEC 4",
        "a list in an info",
        info("[1]"),
        words=("--info", "app"),
        code=0,
        message="driver: on --info: its output is malformed: it is no object but a list: '[1]'",
    ),
)

QUERIES = (
    Case(
        "SPEC 4",
        "no reply to a query",
        driver(query=""),
        words=QUERY,
        reason="no-reply",
        message="driver: failed: on --query: gave no reply",
    ),
    Case(
        "SPEC 4",
        "only progress in a query",
        query('{"progress":50}'),
        words=QUERY,
        reason="no-reply",
        message="driver: failed: on --query: gave no reply",
    ),
    Case(
        "SPEC 4",
        "neither application nor components nor settings",
        query('{"web":{"cpu":2}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: it has neither "
            '"application" nor "components" nor "settings"'
        ),
    ),
    Case(
        "SPEC 4",
        "an empty object in a query",
        query("{}"),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: it has neither "
            '"application" nor "components" nor "settings"'
        ),
    ),
    Case(
        "SPEC 4",
        "a query that only says ok",
        query(OK),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: it has neither "
            '"application" nor "components" nor "settings"'
        ),
    ),
    Case(
        "SPEC 4",
        "an application that is null",
        query('{"application":null}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application is null, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "components in a list",
        query('{"application":{"components":[{"name":"web"}]}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application.components is a "
            "list, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "components that are null, without the wrapper",
        query('{"components":null}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application.components is "
            "null, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "a component that is null",
        query('{"components":{"web":null}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application.components.web "
            "is null, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "settings in a list",
        query('{"components":{"web":{"settings":[{"name":"cpu"}]}}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: "
            "application.components.web.settings is a list, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "settings of the application that are a text",
        query('{"settings":"cpu"}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application.settings is a "
            "text, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "wrong settings of a component with an empty name",
        query('{"components":{"":{"settings":null}}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: "
            "application.components.''.settings is null, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "wrong settings of a component with odd characters in its name",
        query(r'{"components":{"a\nb.\u001b[31m\u0000\ud800":{"settings":null}}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: "
            "application.components.'a\\nb.\\x1b[31m\\x00\\ud800'.settings is null, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "a wrong shape in an adjust",
        query('{"components":[]}'),
        reason="malformed",
        message=(
            "driver: failed: on --query: its answer is no description: application.components is a "
            "list, not an object"
        ),
    ),
    Case(
        "SPEC 4",
        "a component twice in a query",
        query('{"application":{"components":{"web":{"settings":{}},"web":{}}}}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: on --query: its output is malformed: application.components.web is given twice:"
            ' \'{"application":{"components":{"web":{"settings":{}},"web":{}}}}\''
        ),
    ),
    Case(
        "SPEC 4",
        "an old error in a query, exit 3",
        driver(
            query=says('{"error":"no such instance","class":"failure","message":"i-0abc does not exist"}')
            + "; exit 3"
        ),
        words=QUERY,
        reason="exit-status",
        message="driver: failed: i-0abc does not exist (on --query: exited with status 3)",
    ),
    Case(
        "SPEC 4",
        "an old error in a query, exit 0",
        query('{"error":"no such instance","class":"failure"}'),
        words=QUERY,
        reason="malformed",
        message=(
            "driver: failed: no such instance (on --query: its answer is no description: it has "
            'neither "application" nor "components" nor "settings")'
        ),
    ),
    Case(
        "SPEC 4",
        "an answer, but exit 1",
        driver(query=says('{"application":{}}') + "; exit 1"),
        words=QUERY,
        reason="exit-status",
        message="driver: failed: on --query: exited with status 1",
    ),
    Case(
        "SPEC 4",
        "failed",
        query('{"status":"failed","reason":"app-unavailable","message":"no route"}'),
        words=QUERY,
        reason="app-unavailable",
        message="driver: failed: no route (on --query)",
    ),
    Case(
        "SPEC 4",
        "a status that is null in a query",
        query('{"application":{},"status":null}'),
        words=QUERY,
        reason="unknown",
        message="driver: failed: on --query: the status in its reply is null, not a text",
    ),
    Case(
        "SPEC 4",
        "a status that is a number in a query",
        query('{"application":{},"status":0}'),
        words=QUERY,
        reason="unknown",
        message="driver: failed: on --query: the status in its reply is a number, not a text",
    ),
    Case(
        "SPEC 4",
        "a warning alone",
        query(WARNING),
        words=QUERY,
        reason="unknown",
        message="driver: failed: using the non-selected value of cpu (on --query)",
    ),
    Case(
        "SPEC 6",
        "one setting described twice",
        others={"other": driver()},
        words=QUERY,
        reason="conflict",
        message=(
            "each setting must be described by one driver only, but setting web.cpu is described "
            "by driver and other"
        ),
    ),
    Case(
        "SPEC 6",
        "several settings described twice and thrice, one of the application",
        query('{"settings":{"zone":{}},"components":{"web":{"settings":{"cpu":{},"mem":{}}}}}'),
        others={
            "other": query('{"settings":{"zone":{}},"components":{"web":{"settings":{"cpu":{}}}}}'),
            "third": query('{"components":{"web":{"settings":{"mem":{},"cpu":{}}}}}'),
        },
        words=QUERY,
        reason="conflict",
        message=(
            "each setting must be described by one driver only, but setting zone of the "
            "application is described by driver and other; setting web.cpu is described by driver, "
            "other and third; setting web.mem is described by driver and third"
        ),
    ),
    Case(
        "SPEC 6",
        "empty and odd names described twice",
        query(
            r'{"settings":{"":{}},"components":{"":{"settings":{"":{}}},'
            r'"a b":{"settings":{"\n, \u001b[31m":{}}}}}'
        ),
        others={
            "other": query(
                r'{"settings":{"":{}},"components":{"":{"settings":{"":{}}},'
                r'"a b":{"settings":{"\n, \u001b[31m":{}}}}}'
            )
        },
        words=QUERY,
        reason="conflict",
        message=(
            "each setting must be described by one driver only, but setting '' of the application "
            "is described by driver and other; setting ''.'' is described by driver and other; "
            "setting 'a b'.'\\n, \\x1b[31m' is described by driver and other"
        ),
    ),
    Case(
        "SPEC 6",
        "a conflict in an adjust",
        others={"other": driver()},
        reason="conflict",
        message=(
            "each setting must be described by one driver only, but setting web.cpu is described "
            "by driver and other"
        ),
    ),
    Case(
        "SPEC 6",
        "three fail, in driver order",
        driver(query="exit 3"),
        others={
            "01": driver(query="sleep 0.2; " + says('{"status":"aborted","reason":"app-restart"}')),
            "zz": query('{"status":"failed"}'),
        },
        words=QUERY,
        status="aborted",
        reason="app-restart",
        message=(
            "01: aborted: on --query: gave no message\ndriver: failed: on --query: exited with "
            "status 3, gave no reply\nzz: failed: on --query: gave no message"
        ),
    ),
)

INFOS = (
    Case(
        "SPEC 4",
        "an info without a version",
        info('{"has_cancel":true}'),
        words=("--info", "app"),
        code=0,
        message="driver: on --info: its answer has no version",
    ),
    Case(
        "SPEC 4",
        "a version that is null",
        info('{"version":null}'),
        words=("--info", "app"),
        code=0,
        message="driver: on --info: its answer has no version",
    ),
    Case(
        "SPEC 4",
        "a version that is blank",
        info(r'{"version":" \n "}'),
        words=("--info", "app"),
        code=0,
        message="driver: on --info: its answer has no version",
    ),
    Case(
        "SPEC 4",
        "a version that is a list, has_cancel a text",
        info('{"version":[1,2],"has_cancel":"yes"}'),
        words=("--info", "app"),
        code=0,
        final=(
            '{"version":"aggregator 2.0.0 (1; '
            '2)","has_cancel":true,"drivers":{"driver":{"version":"1; 2","has_cancel":false}}}'
        ),
    ),
    Case(
        "SPEC 4",
        "an info that fails",
        info('{"status":"failed","message":"no section k8s in config.yaml"}'),
        words=("--info", "app"),
        code=0,
        message="driver: no section k8s in config.yaml (on --info)",
    ),
    Case(
        "SPEC 4",
        "no reply to an info",
        driver(info="exit 2"),
        words=("--info",),
        code=0,
        message="driver: on --info: exited with status 2, gave no reply",
    ),
    Case(
        "SPEC 5",
        "two drivers that do not tell",
        driver(info="exit 3"),
        others={"other": "#!/no/such/python\n"},
        words=("--info", "app"),
        code=0,
        message=(
            "driver: on --info: exited with status 3, gave no reply\nother: on --info: cannot be "
            "started: its interpreter /no/such/python does not exist"
        ),
    ),
)

ADJUSTS = (
    Case("SPEC 4", "no reply", driver(adjust=""), reason="no-reply", message="driver: failed: gave no reply"),
    Case(
        "SPEC 4",
        "only progress",
        adjust('{"progress":100,"message":"all done"}'),
        reason="no-reply",
        message="driver: failed: gave no reply",
    ),
    Case(
        "SPEC 4",
        "no reply, exit 3",
        driver(adjust="exit 3"),
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply",
    ),
    Case(
        "SPEC 4",
        "no reply, killed",
        driver(adjust="kill -s KILL $$"),
        reason="signal",
        message="driver: failed: killed by SIGKILL, gave no reply",
    ),
    Case(
        "SPEC 4",
        "a reply, and a segmentation fault",
        driver(adjust="ulimit -c 0; " + says('{"status":"failed","message":"m"}') + "; kill -s SEGV $$"),
        reason="signal",
        message="driver: failed: m (killed by SIGSEGV)",
    ),
    Case(
        "SPEC 7.9",
        "a status of its own",
        adjust('{"status":"transient-failure"}'),
        status="transient-failure",
        reason="unknown",
        message="driver: transient-failure: gave no message",
    ),
    Case(
        "SPEC 4",
        "no reply, a real-time signal",
        driver(adjust="kill -s 40 $$"),
        reason="signal",
        message="driver: failed: killed by signal 40, gave no reply",
    ),
    Case(
        "SPEC 4",
        "no reply, a command that does not exist",
        driver(adjust="no-such-command"),
        reason="exit-status",
        env={"OPTUNE_VERBOSE_STDERR": "none"},
        message=("driver: failed: exited with status 127, gave no reply"),
    ),
    Case(
        "SPEC 4",
        "ok, but exit 3",
        driver(adjust=says(OK) + "; exit 3"),
        reason="exit-status",
        message="driver: failed: exited with status 3",
    ),
    Case(
        "SPEC 4",
        "ok, but exit 255",
        driver(adjust=says('{"status":"ok","message":"all done"}') + "; exit 255"),
        reason="exit-status",
        message="driver: failed: all done (exited with status 255)",
    ),
    Case(
        "SPEC 4",
        "ok, but killed",
        driver(adjust=says(OK) + "; kill -s TERM $$"),
        reason="signal",
        message="driver: failed: killed by SIGTERM",
    ),
    Case(
        "SPEC 4",
        "ok with a reason, but exit 1",
        driver(adjust=says('{"status":"ok","reason":"success"}') + "; exit 1"),
        reason="exit-status",
        message="driver: failed: exited with status 1",
    ),
    Case(
        "SPEC 4",
        "no status",
        adjust('{"state":1}'),
        reason="unknown",
        message="driver: failed: its reply has no status",
    ),
    Case(
        "SPEC 4",
        "no status, but a reason and a message",
        adjust('{"reason":"unstable","message":"it swings"}'),
        reason="unstable",
        message="driver: failed: it swings (its reply has no status)",
    ),
    Case(
        "SPEC 4",
        "an empty object",
        adjust("{}"),
        reason="unknown",
        message="driver: failed: its reply has no status",
    ),
    Case(
        "SPEC 4",
        "a status that is null",
        adjust('{"status":null}'),
        reason="unknown",
        message="driver: failed: the status in its reply is null, not a text",
    ),
    Case(
        "SPEC 4",
        "a status that is true",
        adjust('{"status":true,"message":"all done"}'),
        reason="unknown",
        message="driver: failed: all done (the status in its reply is a boolean, not a text)",
    ),
    Case(
        "SPEC 4",
        "a status that is a number",
        adjust('{"status":0,"message":["all","done"]}'),
        reason="unknown",
        message="driver: failed: all; done (the status in its reply is a number, not a text)",
    ),
    Case(
        "SPEC 4",
        "a status that is a list",
        adjust('{"status":["ok"]}'),
        reason="unknown",
        message="driver: failed: the status in its reply is a list, not a text",
    ),
    Case(
        "SPEC 4",
        "a status that is an object",
        adjust('{"status":{"ok":true},"reason":"unstable"}'),
        reason="unknown",
        message="driver: failed: the status in its reply is an object, not a text",
    ),
    Case(
        "SPEC 4",
        "a status that is empty",
        adjust('{"status":""}'),
        reason="unknown",
        message="driver: failed: the status in its reply is '', not \"ok\"",
    ),
    Case(
        "SPEC 4",
        "a status in upper case",
        adjust('{"status":"OK"}'),
        reason="unknown",
        message="driver: failed: the status in its reply is 'OK', not \"ok\"",
    ),
    Case(
        "SPEC 4",
        "a status with odd characters",
        adjust(r'{"status":"a\nb: \u001b[31m\ud800","message":"m"}'),
        status="a\nb: \x1b[31m\ud800",
        reason="unknown",
        message="driver: a\nb: \x1b[31m\ud800: m",
    ),
    Case(
        "SPEC 4",
        "the same key twice",
        adjust('{"status":"ok","status":"failed","message":"a","message":"b"}'),
        reason="unknown",
        message="driver: failed: b",
    ),
    Case(
        "SPEC 4",
        "ok, then failed",
        adjust(OK, '{"status":"failed","reason":"unstable"}'),
        reason="unstable",
        message="driver: failed: gave no message",
    ),
    Case(
        "SPEC 4",
        "a warning, then only progress",
        adjust(WARNING, '{"progress":100}'),
        reason="unknown",
        message="driver: failed: using the non-selected value of cpu",
    ),
    Case(
        "SPEC 4",
        "progress with a status",
        adjust('{"progress":50,"status":"failed","message":"half"}'),
        reason="unknown",
        message="driver: failed: half",
    ),
    Case(
        "SPEC 4",
        "an old error, exit 3",
        driver(
            adjust=says('{"error":"no such instance","class":"failure","message":"i-0abc does not exist"}')
            + "; exit 3"
        ),
        reason="exit-status",
        message="driver: failed: i-0abc does not exist (exited with status 3, its reply has no status)",
    ),
    Case(
        "SPEC 4",
        "an old error, then ok, exit 3",
        driver(adjust=says('{"error":"no such instance","class":"failure"}', OK) + "; exit 3"),
        reason="exit-status",
        message="driver: failed: exited with status 3",
    ),
    Case(
        "SPEC 4",
        "an error without a message",
        driver(adjust=says('{"error":"no such instance"}') + "; exit 1"),
        reason="exit-status",
        message="driver: failed: no such instance (exited with status 1, its reply has no status)",
    ),
    Case(
        "SPEC 4",
        "an error that is an object",
        adjust('{"error":{"code":404,"text":"caf\u00e9"}}'),
        reason="unknown",
        message='driver: failed: {"code":404,"text":"caf\\u00e9"} (its reply has no status)',
    ),
    Case(
        "SPEC 7.9",
        "failed, told",
        adjust('{"status":"failed","reason":"start-failed","message":"i-0abc is dead"}'),
        reason="start-failed",
        message="driver: failed: i-0abc is dead",
    ),
    Case(
        "SPEC 7.9",
        "failed, nothing told",
        adjust('{"status":"failed"}'),
        reason="unknown",
        message="driver: failed: gave no message",
    ),
    Case(
        "SPEC 7.9",
        "failed, nothing told, exit 1",
        driver(adjust=says('{"status":"failed"}') + "; exit 1"),
        reason="exit-status",
        message="driver: failed: exited with status 1",
    ),
    Case(
        "SPEC 7.9",
        "a reason that is null",
        adjust('{"status":"failed","reason":null,"message":"m"}'),
        reason="unknown",
        message="driver: failed: m",
    ),
    Case(
        "SPEC 7.9",
        "a reason that is a list",
        adjust('{"status":"failed","reason":["a","b"],"message":"m"}'),
        reason="unknown",
        message="driver: failed: m",
    ),
    Case(
        "SPEC 7.9",
        "a reason that is a number",
        adjust('{"status":"failed","reason":7,"message":"m"}'),
        reason="unknown",
        message="driver: failed: m",
    ),
    Case(
        "SPEC 7.9",
        "a reason that is empty",
        adjust('{"status":"failed","reason":"","message":"m"}'),
        reason="unknown",
        message="driver: failed: m",
    ),
    Case(
        "SPEC 7.9",
        "a message that is null",
        adjust('{"status":"failed","message":null}'),
        reason="unknown",
        message="driver: failed: gave no message",
    ),
    Case(
        "SPEC 7.9",
        "a message that is a list",
        adjust('{"status":"failed","message":["one",2,["three"],null]}'),
        reason="unknown",
        message="driver: failed: one; 2; three",
    ),
    Case(
        "SPEC 7.9",
        "a message that is an object",
        adjust('{"status":"failed","message":{"text":"no"}}'),
        reason="unknown",
        message='driver: failed: {"text":"no"}',
    ),
    Case(
        "SPEC 7.9",
        "a message that is a number",
        adjust('{"status":"failed","message":404}'),
        reason="unknown",
        message="driver: failed: 404",
    ),
    Case(
        "SPEC 7.9",
        "a message that is blank",
        adjust(r'{"status":"failed","message":" \n"}'),
        reason="unknown",
        message="driver: failed: gave no message",
    ),
    Case(
        "SPEC 7.9",
        "a message of two lines",
        adjust(r'{"status":"failed","message":"one\ntwo\n"}'),
        reason="unknown",
        message="driver: failed: one\ntwo",
    ),
    Case(
        "SPEC 7.9",
        "a message with odd characters",
        adjust(r'{"status":"failed","message":"\u0000\u001b[31mred\u007f \ud800 caf\u00e9"}'),
        reason="unknown",
        message="driver: failed: \x00\x1b[31mred\x7f \ud800 caf\xe9",
    ),
    Case(
        "SPEC 7.9",
        "rejected outranks aborted outranks the first",
        adjust('{"status":"failed","message":"one"}'),
        others={
            "e2": driver(
                query=says('{"components":{"a":{"settings":{"x":{}}}}}'),
                adjust=says('{"status":"aborted","reason":"app-restart","message":"two"}'),
            ),
            "e3": driver(
                query=says('{"components":{"b":{"settings":{"x":{}}}}}'),
                adjust=says('{"status":"rejected","reason":"unstable","message":"three"}'),
            ),
        },
        stdin='{"application":{"components":{"web":{"settings":{"cpu":1}},"a":{"settings":{"x":1}},'
        '"b":{"settings":{"x":1}}}}}',
        status="rejected",
        reason="unstable",
        message="driver: failed: one\ne2: aborted: two\ne3: rejected: three",
    ),
    Case(
        "SPEC 7.7",
        "on_failure: stop",
        adjust('{"status":"failed","message":"one"}'),
        others={"next": driver(query=says('{"components":{"a":{"settings":{"x":{}}}}}'))},
        stdin='{"application":{"components":{"web":{"settings":{"cpu":1}},"a":{"settings":{"x":1}}}}}',
        config="agg: {on_failure: stop}",
        reason="unknown",
        message="driver: failed: one",
    ),
    Case(
        "SPEC 10",
        "a driver that sends us SIGTERM",
        driver(adjust="kill -s TERM $PPID; sleep 600"),
        code=143,
        status="terminated",
        reason="SIGTERM",
        message="ended by SIGTERM; all drivers were stopped\ndriver: failed: was stopped, gave no reply",
    ),
    Case(
        "SPEC 10",
        "a driver that cancels us, and cannot be cancelled",
        driver(
            adjust="kill -s USR1 $PPID; until [ -e ran.info ]; do sleep 0.02; done; " + says(OK),
        ),
        status="canceled",
        reason="SIGUSR1",
        message="canceled by SIGUSR1; no further driver was started",
    ),
    Case(
        "SPEC 9",
        "a silent query",
        driver(query="sleep 600"),
        words=QUERY,
        env={"OPTUNE_IO_TIMEOUT": "0.4"},
        reason="timeout",
        message="driver: failed: on --query: gave no answer within 0.2 s and was stopped",
    ),
    Case(
        "SPEC 9",
        "a silent info",
        driver(info="sleep 600"),
        words=("--info", "app"),
        env={"OPTUNE_IO_TIMEOUT": "0.4"},
        code=0,
        message="driver: on --info: gave no answer within 0.2 s and was stopped",
    ),
    Case(
        "SPEC 9",
        "a silent adjust",
        driver(adjust=says('{"progress":50}') + "; echo waiting >&2; sleep 600"),
        env={"OPTUNE_IO_TIMEOUT": "2"},
        reason="timeout",
        message="driver: failed: was silent for <seconds> s and was stopped; stderr: waiting",
    ),
)

STARTS = (
    Case(
        "SPEC 13",
        "no interpreter",
        "#!/opt/py/bin/python\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its interpreter /opt/py/bin/python does not exist"
        ),
    ),
    Case(
        "SPEC 13",
        "no interpreter, blanks and an argument",
        "#! /opt/py/bin/python -u\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its interpreter /opt/py/bin/python does not exist"
        ),
    ),
    Case(
        "SPEC 13",
        "no interpreter in an info",
        "#!/opt/py/bin/python\n",
        words=("--info", "app"),
        code=0,
        message=("driver: on --info: cannot be started: its interpreter /opt/py/bin/python does not exist"),
    ),
    Case(
        "SPEC 13",
        "no interpreter after #!",
        "#!\n",
        words=QUERY,
        reason="cannot-start",
        message="driver: failed: on --query: cannot be started: its #! line names no interpreter",
    ),
    Case(
        "SPEC 13",
        "no interpreter that env can find",
        "#!/usr/bin/env no-such-python\n",
        words=QUERY,
        reason="exit-status",
        env={"OPTUNE_VERBOSE_STDERR": "none"},
        message=("driver: failed: on --query: exited with status 127, gave no reply"),
    ),
    Case(
        "SPEC 13",
        "no #! line",
        "echo hello\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: it is no program: it has no #! line "
            "that names its interpreter"
        ),
    ),
    Case(
        "SPEC 13",
        "an empty file",
        "",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: it is no program: it has no #! line "
            "that names its interpreter"
        ),
    ),
    Case(
        "SPEC 13",
        "a program of another machine",
        "\x7fELF is not all that it takes\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: it is a program for another kind of "
            "machine, or what it is linked with is missing"
        ),
    ),
    Case(
        "SPEC 13",
        "a blank before #!",
        " #!/bin/sh\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: it is no program: it has no #! line "
            "that names its interpreter"
        ),
    ),
    Case(
        "SPEC 13",
        "a byte order mark before #!",
        "\ufeff#!/bin/sh\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: a byte order mark stands before its #! "
            "line; save it without one"
        ),
    ),
    Case(
        "SPEC 13",
        "CR LF",
        "#!/bin/sh\r\necho hello\r\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its first line ends in CR LF, as "
            "Windows writes it; save it with LF line ends"
        ),
    ),
    Case(
        "SPEC 13",
        "CR LF after env",
        "#!/usr/bin/env python3\r\nprint()\r\n",
        words=QUERY,
        reason="exit-status",
        env={"OPTUNE_VERBOSE_STDERR": "none"},
        message=(
            "driver: failed: on --query: exited with status 127, gave no reply, its first lin"
            "e ends in CR LF, as Windows writes it; save it with LF line ends"
        ),
    ),
    Case(
        "SPEC 13",
        "CR LF after env, in an adjust",
        driver(
            query="sed -i 's/$/\\r/; 1s/.*/#!\\/usr\\/bin\\/env sh\\r/' $0\n"
            + says('{"components":{"web":{"settings":{"cpu":{}}}}}')
        ),
        reason="exit-status",
        env={"OPTUNE_VERBOSE_STDERR": "none"},
        message=(
            "driver: failed: exited with status 127, gave no reply, its first line ends in CR"
            " LF, as Windows writes it; save it with LF line ends"
        ),
    ),
    Case(
        "SPEC 13",
        "a directory for an interpreter",
        "#!/usr/bin\n",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its interpreter /usr/bin may not be executed"
        ),
    ),
    Case(
        "SPEC 13",
        "an interpreter without the executable flag",
        "#!./interpreter\n",
        before=": >interpreter",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its interpreter ./interpreter may not be executed"
        ),
    ),
    Case(
        "SPEC 13",
        "the flag is gone in mid-adjust",
        driver(query="chmod a-x $0\n" + says('{"components":{"web":{"settings":{"cpu":{}}}}}')),
        reason="cannot-start",
        message=(
            "driver: failed: cannot be started: it cannot be executed; check its permissions, and "
            "that its file system allows programs"
        ),
    ),
    Case(
        "SPEC 13",
        "line ends of an old Mac",
        "#!/bin/sh\recho hi\r",
        words=("--query", "app"),
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: its lines end in CR alone, as old Macs wrote"
            " them; save it with LF line ends"
        ),
    ),
    Case(
        "SPEC 7.9",
        "a reason of blanks",
        driver(adjust=says('{"status":"failed","reason":"  ","message":"no"}') + "\nexit 1"),
        reason="exit-status",
        message="driver: failed: no (exited with status 1)",
    ),
    Case(
        "SPEC 13",
        "the file is gone in mid-adjust",
        driver(query="rm $0\n" + says('{"components":{"web":{"settings":{"cpu":{}}}}}')),
        reason="cannot-start",
        message="driver: failed: cannot be started: the file has vanished since adjust.d was listed",
    ),
    Case(
        "SPEC 13",
        "a directory in its place in mid-adjust",
        driver(query="rm $0; mkdir $0\n" + says('{"components":{"web":{"settings":{"cpu":{}}}}}')),
        reason="cannot-start",
        message=(
            "driver: failed: cannot be started: it is no regular file any more, as it was when adjust.d was"
            " listed"
        ),
    ),
    Case(
        "SPEC 13",
        "a link in a loop in its place in mid-adjust",
        driver(query="rm $0; ln -s driver $0\n" + says('{"components":{"web":{"settings":{"cpu":{}}}}}')),
        reason="cannot-start",
        message="driver: failed: cannot be started: it is a link that leads in a circle",
    ),
    Case(
        "SPEC 13",
        "a file that is being written to",
        driver(
            query=says('{"components":{"web":{"settings":{"cpu":{}}}}}')
            + "\ncp /bin/true $0.new; mv $0.new $0"
        ),
        onto="3<>adjust.d/other",
        others={"other": driver(query=says('{"application":{}}'))},
        words=QUERY,
        reason="cannot-start",
        message=(
            "other: failed: on --query: cannot be started: the file is being written to; try again "
            "when that is done"
        ),
    ),
    Case(
        "SPEC 13",
        "too many open files",
        before="ulimit -n 11",
        words=QUERY,
        reason="cannot-start",
        message=(
            "driver: failed: on --query: cannot be started: this process has too many open files "
            "(see ulimit -n, or lower `parallel`)"
        ),
    ),
    Case(
        "SPEC 13",
        "a driver with an odd name",
        None,
        others={"a\n\x1b[31m: \udcff": "#!/no/such\n"},
        words=QUERY,
        reason="cannot-start",
        message=(
            "a\n\x1b[31m: \udcff: failed: on --query: cannot be started: its interpreter /no/such "
            "does not exist"
        ),
    ),
)


def complains(*commands: str) -> str:
    """Give a driver that writes this to its stderr and fails an adjust."""
    return driver(adjust="{ " + "; ".join(commands) + "; } >&2; exit 3")


COMPLAINTS = (
    Case(
        "SPEC 13",
        "stderr",
        complains("echo error: cannot reach the cluster", "echo giving up"),
        reason="exit-status",
        message=(
            "driver: failed: exited with status 3, gave no reply; stderr: error: cannot reach the "
            "cluster\ngiving up"
        ),
    ),
    Case(
        "SPEC 13",
        "stderr and a message",
        driver(query="echo error >&2\n" + says('{"status":"failed","message":"no"}')),
        words=QUERY,
        reason="unknown",
        message="driver: failed: no (on --query); stderr: error",
    ),
    Case(
        "SPEC 13",
        "stderr, minimal",
        complains("echo one", "echo two", "echo three"),
        env={"OPTUNE_VERBOSE_STDERR": "minimal"},
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply; stderr: one\ntwo",
    ),
    Case(
        "SPEC 13",
        "stderr, none",
        complains("echo one", "echo two"),
        env={"OPTUNE_VERBOSE_STDERR": "none"},
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply",
    ),
    Case(
        "SPEC 13",
        "stderr, a word that is none",
        complains("echo one", "echo two", "echo three"),
        env={"OPTUNE_VERBOSE_STDERR": "loud"},
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply",
    ),
    Case(
        "SPEC 13",
        "stderr that is blank",
        complains("echo", "echo '  '"),
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply",
    ),
    Case(
        "SPEC 13",
        "stderr that is no UTF-8, with control characters",
        complains(r"printf '\033[31mcaf\351\0\r\n'"),
        reason="exit-status",
        message="driver: failed: exited with status 3, gave no reply; stderr: \x1b[31mcaf\ufffd\x00",
    ),
    Case(
        "SPEC 13",
        "stderr of 100 KB",
        complains("head -c 100000 /dev/zero | tr '\\0' x"),
        reason="exit-status",
        message=(
            "driver: failed: exited with status 3, gave no reply; stderr: "
            + "x" * 16384
            + "\n... 34464 bytes left out ...\n"
            + "x" * 49152
        ),
    ),
    Case(
        "SPEC 13",
        "a Python driver that dies",
        complains("""echo 'Traceback (most recent call last):'; echo 'KeyError: "app"'"""),
        reason="exit-status",
        message=(
            "driver: failed: exited with status 3, gave no reply; stderr: Traceback (most recent "
            'call last):\nKeyError: "app"'
        ),
    ),
)

LENGTHS = (
    Case(
        "SPEC 13",
        "a message of 60 KB",
        driver(adjust="""printf '{"status":"failed","message":"%060000d"}\\n' 0"""),
        reason="unknown",
        message=("driver: failed: " + "0" * 60000),
    ),
    Case(
        "SPEC 13",
        "a message of 300 KB",
        driver(adjust="""printf '{"status":"failed","message":"%0300000d"}\\n' 0"""),
        reason="unknown",
        message=("driver: failed: " + "0" * 262102 + " ... (300016 bytes in all)"),
    ),
    Case(
        "SPEC 13",
        "a reason and a status of 60 KB",
        driver(adjust="""printf '{"status":"%060000d","reason":"%060000d"}\\n' 0 0"""),
        status="0" * 999 + " ... (60000 bytes in all)",
        reason="0" * 999 + " ... (60000 bytes in all)",
        message=("driver: " + "0" * 999 + " ... (60000 bytes in all): gave no message"),
    ),
    Case(
        "SPEC 13",
        "a message of 300 KB in an info",
        driver(info="""printf '{"status":"failed","message":"%0300000d"}\\n' 0"""),
        words=("--info", "app"),
        code=0,
        message=("driver: " + "0" * 262118 + " ... (300012 bytes in all)"),
    ),
    Case(
        "SPEC 13",
        "two messages of 300 KB in a query",
        driver(query="""printf '{"status":"failed","message":"%0300000d"}\\n' 0"""),
        others={"other": driver(query="""printf '{"status":"failed","message":"%0300000d"}\\n' 0""")},
        words=QUERY,
        reason="unknown",
        message=(
            "driver: failed: "
            + "0" * 87339
            + " ... (300029 bytes in all)\nother: failed: "
            + "0" * 87340
            + " ... (300028 bytes in all)"
        ),
    ),
)

VERBOSE = (
    Case(
        "SPEC 13",
        "-v: control characters of a driver",
        driver(
            query=r"""printf '\033[31mred\007 \177 \302\233\rover\tthere\r\nlast' >&2; """
            + says('{"status":"failed","message":"\\u001b[2Jgone"}')
        ),
        words=("-v", "--query", "app"),
        reason="unknown",
        message=(
            "driver: failed: \x1b[2Jgone (on --query); stderr: \x1b[31mred\x07 \x7f \x9b\rover\tthere\r\nlast"
        ),
        stderr=(
            "driver: started as process <pid>: --query app\ndriver: \\x1b[31mred\\x07 \\x7f "
            "\\x9b\\rover\tthere\ndriver: replies "
            '{"status":"failed","message":"\\u001b[2Jgone"}\ndriver: ended: failed: \\x1b[2Jgone '
            "(on --query); stderr: \\x1b[31mred\\x07 \\x7f "
            "\\x9b\\rover\tthere\\r\nlast\ndriver: last\n"
        ),
    ),
    Case(
        "SPEC 13",
        "-v: an APP with control characters",
        driver(query=says('{"application":{}}')),
        words=("-v", "--query", "\x1b[31mred"),
        code=0,
        final='{"application":{"components":{}}}',
        stderr=(
            "driver: started as process <pid>: --query \\x1b[31mred\ndriver: replies "
            '{"application":{}}\ndriver: ended: ok\n'
        ),
    ),
    Case(
        "SPEC 4",
        "-v: warnings before the answer",
        query(WARNING, '{"application":{"components":{}}}'),
        words=("-v", "--query", "app"),
        code=0,
        final='{"application":{"components":{}}}',
        stderr=(
            "driver: started as process <pid>: --query app\ndriver: replies "
            '{"status":"failed","message":"using the non-selected value of cpu"}\ndriver: replies '
            '{"application":{"components":{}}}\ndriver: ended: ok\n'
        ),
    ),
    Case(
        "SPEC 13",
        "-v: a driver that cannot be started",
        "#!/no/such\n",
        words=("-v", "--query", "app"),
        reason="cannot-start",
        message="driver: failed: on --query: cannot be started: its interpreter /no/such does not exist",
        stderr="driver: cannot be started: its interpreter /no/such does not exist\n",
    ),
    Case(
        "SPEC 13",
        "-v: a driver with an odd name",
        None,
        others={"a\x1b[31m\udcff": "#!/no/such\n"},
        words=("-v", "--query", "app"),
        reason="cannot-start",
        message=(
            "a\x1b[31m\udcff: failed: on --query: cannot be started: its interpreter /no/such does not exist"
        ),
        stderr="a\\x1b[31m\\udcff: cannot be started: its interpreter /no/such does not exist\n",
    ),
)

CASES = (*MALFORMED, *QUERIES, *INFOS, *ADJUSTS, *STARTS, *COMPLAINTS, *LENGTHS, *VERBOSE)
