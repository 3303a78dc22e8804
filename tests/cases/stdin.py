"""SPEC 7: what is wrong with the input of an adjust."""

from __future__ import annotations

from tests.cases.case import REQUEST, Case, driver, says

SIZE = driver(query=says('{"settings":{"size":{"value":1}},"components":{"web":{"settings":{"cpu":{}}}}}'))


def components(text: str) -> str:
    """Give the input whose components are `text`."""
    return '{"application":{"components":' + text + "}}"


_UNKNOWN = "no driver describes " + "; ".join(f"setting web.unknown{n:05}" for n in range(20_000))
CLIPPED = _UNKNOWN[: (256 << 10) - 26] + " ... (520059 bytes in all)"

QUERYING = '{"progress":0,"message":"querying 1 driver"}\n'

CASES = (
    # No JSON object.
    Case(
        "SPEC 7.1",
        "no input",
        stdin="",
        reason="bad-input",
        message='the input is empty: an adjust reads {"application": {...}} from stdin',
    ),
    Case(
        "SPEC 7.1",
        "blank input",
        stdin=" \r\n\t ",
        reason="bad-input",
        message='the input is empty: an adjust reads {"application": {...}} from stdin',
    ),
    Case(
        "SPEC 7.1",
        "no JSON",
        stdin="cpu=4",
        reason="bad-input",
        message="the input is malformed: it is no JSON: 'cpu=4'",
    ),
    Case(
        "SPEC 7.1",
        "YAML",
        stdin="application:\n  components:\n    web: {}\n",
        reason="bad-input",
        message="the input is malformed: it is no JSON: 'application:\\n  components:\\n    web: {}'",
    ),
    Case(
        "SPEC 7.1",
        "single quotes",
        stdin="{'application': {}}",
        reason="bad-input",
        message="the input is malformed: it is no JSON from character 2 on: \"{'application': {}}\"",
    ),
    Case(
        "SPEC 7.1",
        "half an object",
        stdin=REQUEST[:-1],
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 71 on: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a name without quotes, far behind",
        stdin=REQUEST[:-2] + ',"note":"' + "x" * 200 + '",level:1}}',
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 281 on: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}},"note":"xx\'..'
            "."
        ),
    ),
    Case(
        "SPEC 7.1",
        "a newline in a text",
        stdin='{"application":{"note":"a\nb"}}',
        reason="bad-input",
        message=(
            'the input is malformed: it is no JSON from character 26 on: \'{"application":{"note":"a\\nb"}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a control character in a text",
        stdin='{"application":{"note":"\x1b[31m"}}',
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 25 on: "
            '\'{"application":{"note":"\\x1b[31m"}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "two objects",
        stdin=REQUEST + REQUEST,
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 72 on: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}{"applica\'..'
            "."
        ),
    ),
    Case(
        "SPEC 7.1",
        "text after the object",
        stdin=REQUEST + " done",
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 73 on: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}} done\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a NUL after the object",
        stdin=REQUEST + "\0",
        reason="bad-input",
        message=(
            "the input is malformed: it is no JSON from character 72 on: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}\\x00\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a list",
        stdin="[" + REQUEST + "]",
        reason="bad-input",
        message=(
            "the input is malformed: it is no object but a list: "
            '\'[{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}]\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a text",
        stdin='"settings"',
        reason="bad-input",
        message="the input is malformed: it is no object but a text: '\"settings\"'",
    ),
    Case(
        "SPEC 7.1",
        "a number",
        stdin="4",
        reason="bad-input",
        message="the input is malformed: it is no object but a number: '4'",
    ),
    Case(
        "SPEC 7.1",
        "true",
        stdin="true",
        reason="bad-input",
        message="the input is malformed: it is no object but a boolean: 'true'",
    ),
    Case(
        "SPEC 7.1",
        "null",
        stdin="null",
        reason="bad-input",
        message="the input is malformed: it is no object but null: 'null'",
    ),
    Case(
        "SPEC 7.1",
        "no UTF-8",
        stdin=REQUEST.replace("web", "w\udcffb"),
        reason="bad-input",
        message=(
            "the input is malformed: it is not UTF-8: "
            '\'{"application":{"components":{"w\\xffb":{"settings":{"cpu":{"value":4}}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "UTF-16",
        stdin="\udcff\udcfe" + "\0".join(REQUEST) + "\0",
        reason="bad-input",
        message=(
            "the input is malformed: it is not UTF-8: "
            "'\\xff\\xfe{\\x00\"\\x00a\\x00p\\x00p\\x00l\\x00i\\x00c\\x00a\\x00t\\x00i\\x00o\\x"
            '00n\\x00"\\x00:\\x00{\\x00"\\x00c\\x00o\\x00m\\x00p\\x00o\\x00n\\x00e\\x00n\\x00t\\x00'
            's\\x00"\\x00:\\x00{\\x00"\\x00w\\x00e\\x00b\\x00"\\x00:\\x00{\\x00"\\x00s\\x00\'...'
        ),
    ),
    Case(
        "SPEC 7.1",
        "a byte order mark",
        stdin="\ufeff" + REQUEST,
        reason="bad-input",
        message=(
            "the input is malformed: it begins with a byte order mark: "
            '\'\\ufeff{"application":{"components":{"web":{"settings":{"cpu":{"value":4}}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "NaN",
        stdin=REQUEST.replace("4", "NaN"),
        reason="bad-input",
        message=(
            "the input is malformed: NaN is no JSON number: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":NaN}}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "-Infinity",
        stdin=REQUEST.replace("4", "-Infinity"),
        reason="bad-input",
        message=(
            "the input is malformed: -Infinity is no JSON number: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":-Infinity}}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a number out of range",
        stdin=REQUEST.replace("4", "1e400"),
        reason="bad-input",
        message=(
            "the input is malformed: a number in it is out of range: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":1e400}}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.1",
        "a number of 5000 digits",
        stdin=REQUEST.replace("4", "9" * 5000),
        reason="bad-input",
        message=(
            "the input is malformed: a whole number in it has too many digits: "
            '\'{"application":{"components":{"web":{"settings":{"cpu":{"value":9999999999999999\'..'
            "."
        ),
    ),
    Case(
        "SPEC 7.1",
        "nested 401 deep",
        stdin='{"application":' + "[" * 400 + "]" * 400 + "}",
        reason="bad-input",
        message=(
            "the input is malformed: it is nested more than 400 levels deep: "
            "'{\"application\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[['.."
            "."
        ),
    ),
    Case(
        "SPEC 7.1",
        "more than 16 MiB",
        stdin=REQUEST + " " * (16 << 20),
        reason="bad-input",
        message="the input is longer than 16 MiB",
    ),
    # The wrong shape.
    Case(
        "SPEC 7.1",
        "no application",
        stdin='{"control":{}}',
        reason="bad-input",
        message='the input has no "application": an adjust reads {"application": {...}} from stdin',
    ),
    Case(
        "SPEC 7.1",
        "components without application",
        stdin='{"components":{"web":{"settings":{}}}}',
        reason="bad-input",
        message='the input has no "application": an adjust reads {"application": {...}} from stdin',
    ),
    Case(
        "SPEC 7.1",
        "a query's answer in a list",
        stdin='{"application":[{"components":{}}]}',
        reason="bad-input",
        message="the input is malformed: application is a list, not an object",
    ),
    Case(
        "SPEC 7.1",
        "an application that is null",
        stdin='{"application":null}',
        reason="bad-input",
        message="the input is malformed: application is null, not an object",
    ),
    Case(
        "SPEC 7.1",
        "an application that is a text",
        stdin='{"application":"shop"}',
        reason="bad-input",
        message="the input is malformed: application is a text, not an object",
    ),
    Case(
        "SPEC 7.1",
        "components in a list",
        stdin=components('[{"name":"web"}]'),
        reason="bad-input",
        message="the input is malformed: application.components is a list, not an object",
    ),
    Case(
        "SPEC 7.1",
        "components that are null",
        stdin=components("null"),
        reason="bad-input",
        message="the input is malformed: application.components is null, not an object",
    ),
    Case(
        "SPEC 7.1",
        "a component that is a text",
        stdin=components('{"web":"cpu=4"}'),
        reason="bad-input",
        message="the input is malformed: application.components.web is a text, not an object",
    ),
    Case(
        "SPEC 7.1",
        "a component that is null",
        stdin=components('{"web":null}'),
        reason="bad-input",
        message="the input is malformed: application.components.web is null, not an object",
    ),
    Case(
        "SPEC 7.1",
        "settings in a list",
        stdin=components('{"web":{"settings":[{"cpu":4}]}}'),
        reason="bad-input",
        message="the input is malformed: application.components.web.settings is a list, not an object",
    ),
    Case(
        "SPEC 7.1",
        "settings that are null",
        stdin=components('{"web":{"settings":null}}'),
        reason="bad-input",
        message="the input is malformed: application.components.web.settings is null, not an object",
    ),
    Case(
        "SPEC 7.1",
        "settings that are true",
        stdin=components('{"web":{"settings":true}}'),
        reason="bad-input",
        message=("the input is malformed: application.components.web.settings is a boolean, not an object"),
    ),
    Case(
        "SPEC 7.1",
        "the application's settings a number",
        stdin='{"application":{"settings":7}}',
        reason="bad-input",
        message="the input is malformed: application.settings is a number, not an object",
    ),
    Case(
        "SPEC 7.1",
        "a wrong component with an empty name",
        stdin=components('{"":3}'),
        reason="bad-input",
        message="the input is malformed: application.components.'' is a number, not an object",
    ),
    Case(
        "SPEC 7.1",
        "a wrong component whose name has dots",
        stdin=components('{"a.settings":3}'),
        reason="bad-input",
        message="the input is malformed: application.components.a.settings is a number, not an object",
    ),
    Case(
        "SPEC 7.1",
        "a wrong component with odd characters in its name",
        stdin=components(r'{"a\nb\u001b[31m\u0000\ud800 \"c\"":3}'),
        reason="bad-input",
        message=(
            "the input is malformed: application.components.'a\\nb\\x1b[31m\\x00\\ud800 \"c\"' is "
            "a number, not an object"
        ),
    ),
    Case(
        "SPEC 7.1",
        "a wrong component with a name of 1000 characters",
        stdin=components('{"' + "x" * 1000 + '":3}'),
        reason="bad-input",
        message=(
            "the input is malformed: application.components." + "x" * 1000 + " is a number, not an object"
        ),
    ),
    # What nobody described.
    Case(
        "SPEC 7.3",
        "an unknown setting",
        stdin=components('{"web":{"settings":{"colour":{"value":1}}}}'),
        reason="unknown-settings",
        message="no driver describes setting web.colour (adjust --query shows what is described)",
    ),
    Case(
        "SPEC 7.3",
        "an unknown component",
        stdin=components('{"db":{"settings":{"size":{"value":1},"shape":{"value":2}}}}'),
        reason="unknown-settings",
        message=(
            "no driver describes component db (settings: size, shape) (adjust --query shows what "
            "is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "an unknown setting of the application",
        stdin='{"application":{"settings":{"zone":{}}}}',
        reason="unknown-settings",
        message=(
            "no driver describes setting zone of the application (adjust --query shows what is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "all that is unknown",
        SIZE,
        stdin='{"application":{"settings":{"size":{},"zone":{}},"components":{"web":{"settings":{"cpu":{},'
        '"mem":{},"disk":{}}},"db":{"settings":{"cpu":{}}}}}}',
        reason="unknown-settings",
        message=(
            "no driver describes setting zone of the application; setting web.mem; setting "
            "web.disk; component db (settings: cpu) (adjust --query shows what is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "upper case for lower case",
        stdin=components('{"Web":{"settings":{"CPU":{"value":1}}}}'),
        reason="unknown-settings",
        message=(
            "no driver describes component Web (settings: CPU) (adjust --query shows what is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "empty names",
        stdin=components('{"":{"settings":{"cpu":{}}},"web":{"settings":{"":{}}}}'),
        reason="unknown-settings",
        message=(
            "no driver describes setting web.''; component '' (settings: cpu) (adjust --query "
            "shows what is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "odd characters in the names",
        stdin=components(r'{"a\nb":{"settings":{"\u001b[31m":{}}},"web":{"settings":{"\ud800, x":{}}}}'),
        reason="unknown-settings",
        message=(
            "no driver describes setting web.'\\ud800, x'; component 'a\\nb' (settings: "
            "'\\x1b[31m') (adjust --query shows what is described)"
        ),
    ),
    Case(
        "SPEC 7.3",
        "20000 unknown settings",
        stdin=components(
            '{"web":{"settings":{' + ",".join(f'"unknown{n:05}":1' for n in range(20_000)) + "}}}"
        ),
        reason="unknown-settings",
        message=CLIPPED,
    ),
    Case(
        "SPEC 7.3",
        "an application that nobody knows, its settings null",
        stdin=components('{"db":{"settings":{"size":null}}}'),
        code=0,
        final=QUERYING + '{"status":"ok","reason":"no-settings-to-adjust"}',
    ),
    Case(
        "SPEC 7.1",
        "the same key twice",
        stdin=components('{"web":{"settings":[]},"web":{"settings":{}}}'),
        reason="bad-input",
        message=(
            "the input is malformed: application.components.web is given twice:"
            ' \'{"application":{"components":{"web":{"settings":[]},"web":{"settings":{}}}}}\''
        ),
    ),
    Case(
        "SPEC 7.3",
        "a setting that is no object goes to its driver",
        driver(adjust="cat"),
        stdin=components('{"web":{"settings":{"cpu":[4]}}}'),
        reason="unknown",
        message="driver: failed: its reply has no status",
    ),
    Case(
        "SPEC 2",
        "a setting, and no driver",
        None,
        reason="unknown-settings",
        message=("no driver describes component web (settings: cpu): there is no driver in <servo>/adjust.d"),
        stderr=(
            "warning: no driver in <servo>/adjust.d (0 files passed over for lack of the "
            "executable flag, or of our right to use it)\n"
        ),
    ),
    Case(
        "SPEC 2",
        "a setting, and only files without the executable flag",
        None,
        others={"01ec2asg": "", "02winec2": "", "a\nb": ""},
        before="chmod a-x adjust.d/*",
        reason="unknown-settings",
        message=(
            "no driver describes component web (settings: cpu): there is no driver in "
            "<servo>/adjust.d; chmod +x makes drivers of the files there: 01ec2asg, 02winec2, a\nb"
        ),
        stderr=(
            "warning: no driver in <servo>/adjust.d (3 files passed over for lack of the "
            "executable flag, or of our right to use it; chmod +x makes a file a driver)\n"
        ),
    ),
    Case(
        "SPEC 2",
        "no setting, and no driver",
        None,
        stdin='{"application":{}}',
        code=0,
        final='{"status":"ok","reason":"no-drivers"}',
        stderr=(
            "warning: no driver in <servo>/adjust.d (0 files passed over for lack of the "
            "executable flag, or of our right to use it)\n"
        ),
    ),
)
