"""SPEC 8: progress of drivers that is not what it should be, line by line."""

from __future__ import annotations

from tests.cases.case import OK, Case, driver, says


def tells(*lines: str) -> str:
    """Give a driver that says these lines in an adjust, and then that all is well."""
    return driver(adjust=says(*lines, OK))


CASES = (
    Case(
        "SPEC 8",
        "400 %, -5 %, a fraction, a step back",
        tells(
            '{"progress":33.4}',
            '{"progress":20}',
            '{"progress":-5}',
            '{"progress":400}',
            '{"progress":1e300}',
        ),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":33,"message":"driver"}',
            '{"progress":33,"message":"driver"}',
            '{"progress":33,"message":"driver"}',
            '{"progress":99,"message":"driver"}',
            '{"progress":99,"message":"driver"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a progress that is no number",
        tells(
            '{"progress":"50","message":"text"}',
            '{"progress":true,"message":"true"}',
            '{"progress":null,"message":"null"}',
            '{"progress":[50],"message":"list"}',
            '{"progress":{"at":50},"message":"object"}',
        ),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":0,"message":"driver: text"}',
            '{"progress":0,"message":"driver: true"}',
            '{"progress":0,"message":"driver: null"}',
            '{"progress":0,"message":"driver: list"}',
            '{"progress":0,"message":"driver: object"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a progress of 4000 digits",
        tells('{"progress":' + "9" * 4000 + "}"),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":99,"message":"driver"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a message that is a list",
        tells('{"progress":1,"message":["one",2,["three",null]]}'),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":1,"message":"driver: one; 2; three"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a message that is no text",
        tells(
            '{"progress":1,"message":null}',
            '{"progress":1,"message":7}',
            '{"progress":1,"message":true}',
            '{"progress":1,"message":{"a":"caf\u00e9"}}',
            '{"progress":1,"message":""}',
            '{"progress":1,"message":[]}',
        ),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":1,"message":"driver"}',
            '{"progress":1,"message":"driver: 7"}',
            '{"progress":1,"message":"driver: true"}',
            '{"progress":1,"message":"driver: {\\"a\\":\\"caf\\\\u00e9\\"}"}',
            '{"progress":1,"message":"driver"}',
            '{"progress":1,"message":"driver"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "odd characters in a message",
        tells(r'{"progress":1,"message":"a\nb\r\u001b[31m\u0000\ud800\u007f caf\u00e9"}'),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":1,"message":"driver: a\\nb\\r\\u001b[31m\\u0000\\ud800\\u007f caf\\u00e9"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "the same key twice",
        tells('{"progress":1,"progress":50,"message":"a","message":"b"}'),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            '{"progress":50,"message":"driver: b"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "unknown keys, lists for texts",
        tells('{"progress":1,"stage":["x"],"msg_index":"one","time_remain":null,"reason":[]}'),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            (
                '{"progress":1,"stage":["x"],"msg_index":"one","time_remain":null,"reason":[],"message"'
                ':"driver"}'
            ),
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "progress with a status that is null is a reply",
        driver(adjust=says('{"progress":50,"status":null,"message":"m"}')),
        reason="unknown",
        message="driver: failed: m (the status in its reply is null, not a text)",
        progress=('{"progress":100,"message":"driver: failed (unknown)"}',),
    ),
    Case(
        "SPEC 8",
        "a message of 60 KB",
        driver(adjust="""printf '{"progress":1,"message":"%060000d"}\\n' 0\n""" + says(OK)),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            ('{"progress":1,"message":"driver: ' + "0" * 60000 + '"}'),
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a message of 300 KB",
        driver(adjust="""printf '{"progress":1,"message":"%0300000d"}\\n' 0\n""" + says(OK)),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            ('{"progress":1,"message":"driver: ' + "0" * 262110 + ' ... (300008 bytes in all)"}'),
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a message of 300 KB, two bytes to a letter",
        driver(
            adjust="""printf '{"progress":1,"message":"'; printf '\u00e9%.0s' $(seq 150000); echo '"}'; """
            + says(OK)
        ),
        code=0,
        final=(
            '{"status":"ok","reason":"success","drivers":{"driver":{"status":"ok","reason":"success'
            '","seconds":<seconds>}}}'
        ),
        progress=(
            r'{"progress":1,"message":"driver: ' + r"\u00e9" * 131_055 + ' ... (300008 bytes in all)"}',
            '{"progress":100,"message":"driver: done"}',
        ),
    ),
    Case(
        "SPEC 8",
        "malformed output is told before the driver is stopped",
        tells('{"progress":50}', "oops"),
        reason="malformed",
        message="driver: failed: its output is malformed: it is no JSON: 'oops'",
        progress=(
            '{"progress":50,"message":"driver"}',
            '{"progress":50,"message":"driver: its output is malformed; stopping it"}',
            '{"progress":100,"message":"driver: failed (malformed)"}',
        ),
    ),
    Case(
        "SPEC 8",
        "a status and reason of two lines",
        driver(adjust=says(r'{"status":"a\nb","reason":"c\nd","message":"m"}')),
        status="a\nb",
        reason="c\nd",
        message="driver: a\nb: m",
        progress=('{"progress":100,"message":"driver: a\\nb (c\\nd)"}',),
    ),
)
