"""SPEC 2, 5, 9, 11: what is wrong with the servo directory, the environment and config.yaml."""

from __future__ import annotations

from tests.cases.case import Case, driver

QUERY = ("--query", "app")

HIDING = """\
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
"""Makes the module that the variable HIDDEN names one that is not installed."""

OLDER = """\
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

STRANGE_PLACE = r"""import sys
sys.executable = "/\xe4 \"\U0001f40d\\/python3"
"""


def timeout(value: str, shown: str, title: str = "") -> Case:
    """Give the case of an `OPTUNE_IO_TIMEOUT` that is shown so."""
    return Case(
        "SPEC 9",
        f"OPTUNE_IO_TIMEOUT: {title or value}",
        words=QUERY,
        env={"OPTUNE_IO_TIMEOUT": value},
        reason="bad-environment",
        message=f"the environment variable OPTUNE_IO_TIMEOUT is {shown}: it must be a plain decimal number of"
        " seconds, such as 30 or 2.5 (0 or empty: unlimited)",
    )


def section(lines: str, message: str) -> Case:
    """Give the case of a line in the section `agg`."""
    return Case(
        "SPEC 11",
        lines,
        words=QUERY,
        config=f"agg:\n  {lines}\n",
        reason="bad-configuration",
        message=f"config.yaml, line 2: {message}",
    )


CASES = (
    # The servo directory.
    Case(
        "SPEC 2",
        "no adjust.d",
        before="rm -r adjust.d",
        words=QUERY,
        reason="no-adjust-d",
        message="there is no <servo>/adjust.d: run this in the servo directory, which holds adjust.d",
    ),
    Case(
        "SPEC 2",
        "no adjust.d for an adjust",
        before="rm -r adjust.d",
        reason="no-adjust-d",
        message="there is no <servo>/adjust.d: run this in the servo directory, which holds adjust.d",
    ),
    Case(
        "SPEC 2",
        "no adjust.d for --info",
        before="rm -r adjust.d",
        words=("--info", "app"),
        reason="no-adjust-d",
        message="there is no <servo>/adjust.d: run this in the servo directory, which holds adjust.d",
    ),
    Case(
        "SPEC 2",
        "adjust.d is a file",
        before="rm -r adjust.d; : >adjust.d",
        words=QUERY,
        reason="no-adjust-d",
        message="<servo>/adjust.d is no directory: it must be one that holds the drivers",
    ),
    Case(
        "SPEC 2",
        "adjust.d is a broken link",
        before="rm -r adjust.d; ln -s nowhere adjust.d",
        words=QUERY,
        reason="no-adjust-d",
        message="<servo>/adjust.d is a link to nowhere, which does not exist",
    ),
    Case(
        "SPEC 2",
        "adjust.d is a link to itself",
        before="rm -r adjust.d; ln -s adjust.d adjust.d",
        words=QUERY,
        reason="no-adjust-d",
        message="<servo>/adjust.d cannot be read: Too many levels of symbolic links",
    ),
    Case(
        "SPEC 2",
        "the current directory is gone",
        before='adjust="$PWD/adjust"; mkdir gone; cd gone; rmdir "$PWD"; exec "$adjust" "$@"',
        words=QUERY,
        reason="no-adjust-d",
        message="the current directory, which must be the servo directory, does not exist any more",
    ),
    Case(
        "SPEC 2",
        "no driver",
        None,
        words=QUERY,
        code=0,
        final='{"application":{"components":{}}}',
        stderr=(
            "warning: no driver in <servo>/adjust.d (0 files passed over for lack of the "
            "executable flag, or of our right to use it)\n"
        ),
    ),
    Case(
        "SPEC 2",
        "no driver, one file without the executable flag",
        None,
        others={"01ec2asg": ""},
        before="chmod a-x adjust.d/*",
        words=QUERY,
        code=0,
        final='{"application":{"components":{}}}',
        stderr=(
            "warning: no driver in <servo>/adjust.d (1 file passed over for lack of the executable "
            "flag, or of our right to use it; chmod +x makes a file a driver)\n"
        ),
    ),
    Case(
        "SPEC 2",
        "no driver, two files without the executable flag, for --version",
        None,
        others={"01ec2asg": "", "02winec2": ""},
        before="chmod a-x adjust.d/*",
        words=("--version",),
        code=0,
        final="aggregator 2.0.0 ()",
        stderr=(
            "warning: no driver in <servo>/adjust.d (2 files passed over for lack of the "
            "executable flag, or of our right to use it; chmod +x makes a file a driver)\n"
        ),
    ),
    # The interpreter and the packages.
    Case(
        "SPEC 5",
        "Python 3.6",
        before=OLDER,
        words=QUERY,
        reason="bad-environment",
        message=(
            "servo-agg needs Python 3.9 or newer, but <python> is Python "
            "3.6. Put a newer python3 first on PATH (in an image: FROM python:3-slim)"
        ),
    ),
    Case(
        "SPEC 5",
        "Python 3.6 in a path of any letters",
        before=OLDER.replace("import sys\n", STRANGE_PLACE),
        words=QUERY,
        reason="bad-environment",
        message=(
            'servo-agg needs Python 3.9 or newer, but /ä "🐍\\/python3 is Python 3.6. Put a newer python3'
            " first on PATH (in an image: FROM python:3-slim)"
        ),
    ),
    Case(
        "SPEC 5",
        "Python 3.6 for an adjust",
        before=OLDER,
        reason="bad-environment",
        message=(
            "servo-agg needs Python 3.9 or newer, but <python> is Python "
            "3.6. Put a newer python3 first on PATH (in an image: FROM python:3-slim)"
        ),
    ),
    Case(
        "SPEC 5",
        "no package",
        before=HIDING,
        env={"HIDDEN": "servo_agg"},
        reason="bad-environment",
        message=(
            "the package servo_agg is neither beside <repository>/adjust nor installed, or not "
            "whole (No module named 'servo_agg'): copy the directory servo_agg there, or install "
            "it: <python> -m pip install PATH-OR-URL-OF-SERVO-AGG"
        ),
    ),
    Case(
        "SPEC 5",
        "no psutil in an adjust",
        before=HIDING,
        env={"HIDDEN": "psutil"},
        reason="bad-environment",
        message=(
            "an adjust needs the Python package psutil, to stop drivers with all their children. "
            "It is missing or broken (No module named 'psutil'); install it: "
            "<python> -m pip install --upgrade psutil"
        ),
    ),
    Case(
        "SPEC 5",
        "no PyYAML, and the bytes agg",
        before=HIDING,
        env={"HIDDEN": "yaml"},
        config="k8s: {flag: agg}",
        words=QUERY,
        reason="bad-environment",
        message=(
            "config.yaml may have a section agg, since the word occurs in it: it cannot be read "
            "without the Python package PyYAML. Install it: <python> -m pip "
            "install PyYAML"
        ),
    ),
    # OPTUNE_IO_TIMEOUT.
    timeout("30s", "'30s'"),
    timeout("thirty", "'thirty'"),
    timeout("nan", "'nan'"),
    timeout("inf", "'inf'"),
    timeout("-1", "'-1'"),
    timeout("+5", "'+5'"),
    timeout("1e400", "'1e400'"),
    timeout("1,5", "'1,5'"),
    timeout("1_000", "'1_000'"),
    timeout("30.", "'30.'"),
    timeout(".5", "'.5'"),
    timeout("0x1e", "'0x1e'"),
    timeout("3 0", "'3 0'"),
    timeout("'30'", "\"'30'\""),
    timeout("30\n40", "'30\\n40'", "two lines"),
    timeout("\x1b[31m30", "'\\x1b[31m30'", "a control character"),
    timeout("\udcff", "'\\udcff'", "no UTF-8"),
    timeout("\uff13\uff10", "'\uff13\uff10'", "digits of another script"),
    timeout("9" * 400, "'" + "9" * 80 + "'...", "400 digits"),
    timeout("0." + "0" * 400 + "1", "'0." + "0" * 78 + "'...", "nearly 0"),
    Case(
        "SPEC 9",
        "OPTUNE_IO_TIMEOUT: 5000 zeros before",
        words=QUERY,
        env={"OPTUNE_IO_TIMEOUT": "0" * 5000 + "5"},
        code=0,
        final='{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}',
    ),
    timeout("x" * 100_000, "'" + "x" * 80 + "'...", "100 KB"),
    Case(
        "SPEC 9",
        "OPTUNE_IO_TIMEOUT: 30s, in an adjust",
        env={"OPTUNE_IO_TIMEOUT": "30s"},
        reason="bad-environment",
        message="the environment variable OPTUNE_IO_TIMEOUT is '30s': it must be a plain decimal number of"
        " seconds, such as 30 or 2.5 (0 or empty: unlimited)",
    ),
    Case(
        "SPEC 9",
        "OPTUNE_IO_TIMEOUT: 30s, for --info",
        words=("--info", "app"),
        env={"OPTUNE_IO_TIMEOUT": "30s"},
        reason="bad-environment",
        message="the environment variable OPTUNE_IO_TIMEOUT is '30s': it must be a plain decimal number of"
        " seconds, such as 30 or 2.5 (0 or empty: unlimited)",
    ),
    # config.yaml.
    section("parallel: 0", "agg.parallel is 0, but it must be a whole number, 1 or more"),
    section("parallel: -7", "agg.parallel is -7, but it must be a whole number, 1 or more"),
    section("parallel: 1.5", "agg.parallel is 1.5, but it must be a whole number, 1 or more"),
    section("parallel: four", "agg.parallel is the text 'four', but it must be a whole number, 1 or more"),
    section("parallel: '4'", "agg.parallel is the text '4', but it must be a whole number, 1 or more"),
    section("parallel: true", "agg.parallel is true, but it must be a whole number, 1 or more"),
    section("parallel: [4]", "agg.parallel is [4], but it must be a whole number, 1 or more"),
    section("parallel:", "agg.parallel is empty, but it must be a whole number, 1 or more"),
    section(
        "serial: k8s-*",
        "agg.serial is the text 'k8s-*', but it must be a list of name patterns, such as ['k8s-*']",
    ),
    section(
        "serial: [a, 77]", "agg.serial is [a, 77], but it must be a list of name patterns, such as ['k8s-*']"
    ),
    section(
        "serial: {name: k8s}",
        "agg.serial is {name: k8s}, but it must be a list of name patterns, such as ['k8s-*']",
    ),
    section(
        "io_timeout: -1", "agg.io_timeout is -1, but it must be a number of seconds, from 0 to a billion"
    ),
    section(
        "io_timeout: 30s",
        "agg.io_timeout is the text '30s', but it must be a number of seconds, from 0 to a billion",
    ),
    section(
        "io_timeout: .nan", "agg.io_timeout is .nan, but it must be a number of seconds, from 0 to a billion"
    ),
    section(
        "io_timeout: .inf", "agg.io_timeout is .inf, but it must be a number of seconds, from 0 to a billion"
    ),
    section(
        "io_timeout: 1000000001",
        "agg.io_timeout is 1000000001, but it must be a number of seconds, from 0 to a billion",
    ),
    section(
        "io_timeout: 2024-13-45",
        "agg.io_timeout is 2024-13-45, but it must be a number of seconds, from 0 to a billion",
    ),
    section(
        "io_timeout: false",
        "agg.io_timeout is false, but it must be a number of seconds, from 0 to a billion",
    ),
    section("grace: -0.5", "agg.grace is -0.5, but it must be a number of seconds, from 0 to a billion"),
    section(
        "grace: short",
        "agg.grace is the text 'short', but it must be a number of seconds, from 0 to a billion",
    ),
    section(
        "cancel_grace: [77]",
        "agg.cancel_grace is [77], but it must be a number of seconds, from 0 to a billion",
    ),
    section("on_failure: halt", "agg.on_failure is the text 'halt', but it must be continue or stop"),
    section("on_failure: false", "agg.on_failure is false, but it must be continue or stop"),
    section("on_failure: {stop: 1}", "agg.on_failure is {stop: 1}, but it must be continue or stop"),
    section("paralel: 4", "the section agg has an unknown key 'paralel' (value 4): did you mean 'parallel'?"),
    section(
        "Parallel: 4", "the section agg has an unknown key 'Parallel' (value 4): did you mean 'parallel'?"
    ),
    section(
        "PARALLEL: 4", "the section agg has an unknown key 'PARALLEL' (value 4): did you mean 'parallel'?"
    ),
    section(
        "io-timeout: 4",
        "the section agg has an unknown key 'io-timeout' (value 4): did you mean 'io_timeout'?",
    ),
    section(
        "iotimeout: 4", "the section agg has an unknown key 'iotimeout' (value 4): did you mean 'io_timeout'?"
    ),
    section(
        "cancelgrace: 4",
        "the section agg has an unknown key 'cancelgrace' (value 4): did you mean 'cancel_grace'?",
    ),
    section(
        "onfailure: stop",
        "the section agg has an unknown key 'onfailure' (value the text 'stop'): did you mean 'on_failure'?",
    ),
    section(
        "colour: blue",
        "the section agg has an unknown key 'colour' (value the text 'blue'): the keys are parallel,"
        " serial, io_timeout, grace, cancel_grace, on_failure, log, complete",
    ),
    section(
        "4711: 1",
        "the section agg has an unknown key '4711' (value 1): the keys are parallel, serial,"
        " io_timeout, grace, cancel_grace, on_failure, log, complete",
    ),
    section(
        "'': 1",
        "the section agg has an unknown key '' (value 1): the keys are parallel, serial,"
        " io_timeout, grace, cancel_grace, on_failure, log, complete",
    ),
    section(
        "[a, b]: 1",
        "the section agg has an unknown key '[a, b]' (value 1): the keys are parallel, serial,"
        " io_timeout, grace, cancel_grace, on_failure, log, complete",
    ),
    section(
        "? {a: b}\n  : 1",
        "the section agg has an unknown key '{a: b}' (value 1): the keys are parallel, serial,"
        " io_timeout, grace, cancel_grace, on_failure, log, complete",
    ),
    Case(
        "SPEC 11",
        "a mistake below",
        config="k8s: {x: 1}\nagg:\n  # ours\n\n  parallel: 4\n  grace: soon\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 6: agg.grace is the text 'soon', but it must be a number of "
            "seconds, from 0 to a billion"
        ),
    ),
    Case(
        "SPEC 11",
        "the same key twice, the later wrong",
        config="agg:\n  grace: 1\n  grace: x\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 3: agg.grace is given a second time; leave one of them out",
    ),
    Case(
        "SPEC 11",
        "a text of 1000 characters",
        config="agg:\n  on_failure: " + "x" * 1000,
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: agg.on_failure is the text "
            "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...',"
            " but it must be continue or stop"
        ),
    ),
    Case(
        "SPEC 11",
        "an unknown key of 1000 characters",
        config="agg:\n  " + "x" * 1000 + ": 1",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: the section agg has an unknown key "
            "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' "
            "(value 1): the keys are parallel, serial, io_timeout, grace, cancel_grace, on_failure, log,"
            " complete"
        ),
    ),
    Case(
        "SPEC 11",
        "a control character in a text",
        config='agg:\n  on_failure: "\\e[31m\\n"\n',
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: agg.on_failure is the text '\\x1b[31m\\n', but it must be continue or stop"
        ),
    ),
    Case(
        "SPEC 11",
        "a section that is a number",
        config="agg: 4711",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is 4711"
        ),
    ),
    Case(
        "SPEC 11",
        "a section that is a list",
        config="agg:\n- parallel: 4\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is - parallel: 4"
        ),
    ),
    Case(
        "SPEC 11",
        "a section that is a text",
        config="agg: some text",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is the text 'some text'"
        ),
    ),
    Case(
        "SPEC 11",
        "a key given twice",
        config="agg:\n  on_failure: stop\n  parallel: 2\n  on_failure: continue\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 4: agg.on_failure is given a second time; leave one of them out",
    ),
    Case(
        "SPEC 11",
        "a second section",
        config="agg:\n  on_failure: stop\nk8s: {}\nagg:\n  parallel: 2\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 4: here is another section agg; put all its keys into one",
    ),
    Case(
        "SPEC 11",
        "a section in a second document",
        config="k8s: {}\n---\nagg:\n  parallel: 2\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 4: the section agg stands after a `---`, but only what comes before the second"
            " document is read"
        ),
    ),
    Case(
        "SPEC 3",
        "aggregators inside one another without end",
        env={"SERVO_AGG_START": ".".join(["0123456789abcdef"] * 8)},
        words=QUERY,
        reason="bad-environment",
        message=(
            "aggregators run inside one another, 8 deep: a driver of this servo directory seems to lead back"
            " to it; see where the scripts in adjust.d change to"
        ),
    ),
    Case(
        "SPEC 11",
        "wrong indentation",
        config="agg:\n  parallel: 1\n serial: []\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml cannot be read as YAML: <words> (line 3, column 2: ' serial: []', in what begins in"
            " line 1)"
        ),
    ),
    Case(
        "SPEC 11",
        "a brace that is not closed",
        config="agg: {parallel: 1",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read as YAML: <words> (line 2, column 1, in what begins in line 1)",
    ),
    Case(
        "SPEC 11",
        "a tab",
        config="agg:\n\tparallel: 1\n",
        words=QUERY,
        reason="bad-configuration",
        message=("config.yaml cannot be read as YAML: <words> (line 2, column 1: '\\tparallel: 1')"),
    ),
    Case(
        "SPEC 11",
        "no blank after the colon",
        config="agg:\n  parallel:4\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is the text 'parallel:4'"
        ),
    ),
    Case(
        "SPEC 11",
        "a tag of one's own",
        config="agg: !Custom {parallel: 1}",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is !Custom {parallel: 1}"
        ),
    ),
    Case(
        "SPEC 11",
        "a value with a tag of one's own",
        config="agg: {parallel: !Custom 1}",
        words=QUERY,
        reason="bad-configuration",
        message=("config.yaml, line 1: agg.parallel is !Custom 1, but it must be a whole number, 1 or more"),
    ),
    Case(
        "SPEC 11",
        "a value that would run something",
        config="agg: {parallel: !!python/object/apply:os.mkdir [pwned]}",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: agg.parallel is !!python/object/apply:os.mkdir [pwned], but it must be"
            " a whole number, 1 or more"
        ),
    ),
    Case(
        "SPEC 11",
        "a section that would run something",
        config="agg: !!python/object/apply:os.mkdir [pwned]",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is !!python/object/apply:os.mkdir [pwned]"
        ),
    ),
    Case(
        "SPEC 11",
        "an alias to nothing",
        config="agg: *nowhere",
        words=QUERY,
        reason="bad-configuration",
        message=("config.yaml, line 1, column 6: the alias has no anchor of its name before it"),
    ),
    Case(
        "SPEC 11",
        "a mistake after the section",
        config="agg: {parallel: 1}\nother: [\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read as YAML: see line 3, column 1",
    ),
    Case(
        "SPEC 11",
        "nested too deep",
        config="agg: " + "[" * 1500 + "]" * 1500,
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`, "
            "but it is [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
            "[[[[..."
        ),
    ),
    Case(
        "SPEC 11",
        "no UTF-8",
        config="agg: {on_failure: caf\udce9}\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read as YAML: it is not UTF-8 (line 1)",
    ),
    Case(
        "SPEC 11",
        "no UTF-8 elsewhere",
        config="k8s: caf\udce9\nagg: {parallel: 1}\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read as YAML: it is not UTF-8 (line 1)",
    ),
    Case(
        "SPEC 11",
        "a control character",
        config="k8s: \x07\nagg: {parallel: 1}\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read as YAML: a control character stands there (line 1)",
    ),
    Case(
        "SPEC 11",
        "a byte order mark",
        config="\ufeffagg: {parallel: 0}\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 1: agg.parallel is 0, but it must be a whole number, 1 or more",
    ),
    Case(
        "SPEC 11",
        "CR LF line ends",
        config="agg:\r\n  parallel: 0\r\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 2: agg.parallel is 0, but it must be a whole number, 1 or more",
    ),
    Case(
        "SPEC 11",
        "config.yaml is a directory",
        before="mkdir config.yaml",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read: Is a directory",
    ),
    Case(
        "SPEC 11",
        "config.yaml is a link to itself",
        before="ln -s config.yaml config.yaml",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml cannot be read: Too many levels of symbolic links",
    ),
    Case(
        "SPEC 11",
        "a value after a byte order mark and letters of four bytes",
        config="\ufeffk8s: \U0001f600\r\nagg: {grace: [1, 2]}\r\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 2: agg.grace is [1, 2], but it must be a number of seconds, from 0 to a"
            " billion"
        ),
    ),
    Case(
        "SPEC 11",
        "a pattern with a range that is the wrong way round",
        config="agg: {serial: ['k8s-*', 'x[z-a]*']}\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: agg.serial has the pattern 'x[z-a]*', in which the range 'z-a' is the wrong"
            " way round"
        ),
    ),
    Case(
        "SPEC 11",
        "a number in base 60 that is too long to be one",
        config=f"agg: {{io_timeout: {'1:' * 300_000}1}}\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            f"config.yaml, line 1: agg.io_timeout is {'1:' * 40}..., but it must be a number of seconds, from"
            " 0 to a billion"
        ),
    ),
    Case(
        "SPEC 11",
        "a merge at the top of what is no mapping",
        config="k8s: agg\n<<: 3\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 2: << merges mappings, and nothing else",
    ),
    Case(
        "SPEC 11",
        "an unknown key that is merged from a part of the drivers'",
        config="k8s: &k8s {password: SECRET}\nagg: {<<: *k8s}\n",
        words=QUERY,
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: the section agg has an unknown key 'password': the keys are parallel,"
            " serial, io_timeout, grace, cancel_grace, on_failure, log, complete"
        ),
    ),
    Case(
        "SPEC 11",
        "a section that is a text of the drivers'",
        config="k8s: &k8s SECRET\nagg: *k8s\n",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml, line 1: the section agg must hold keys and values, such as `grace: 5`",
    ),
    *(
        Case(
            "SPEC 11",
            f"a mistake in the line of a password: {value!a}",
            config=f"k8s:\n  password: {value}\nagg: {{grace: 1}}\n",
            words=QUERY,
            reason="bad-configuration",
            message="config.yaml cannot be read as YAML: see line 2, column 13",
        )
        for value in ("@SECRET", "`SECRET", "%SECRET", "!SECRET!x y")
    ),
    Case(
        "SPEC 11",
        "config.yaml is a link to nowhere",
        before="ln -s /nowhere/config.yaml config.yaml",
        words=QUERY,
        reason="bad-configuration",
        message="config.yaml is a link to /nowhere/config.yaml, which does not exist",
    ),
    Case(
        "SPEC 2",
        "links that cannot be followed",
        before="ln -s nowhere adjust.d/01; ln -s 02 adjust.d/02; ln -s driver/x adjust.d/03;"
        " ln -s nobody@host adjust.d/.#driver; ln -s ../adjust.d adjust.d/04",
        words=QUERY,
        code=0,
        final='{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}',
        stderr=(
            "warning: adjust.d/01 is a link to nowhere, which does not exist\n"
            "warning: adjust.d/02 is a link to 02, which cannot be followed: Too many levels of symbolic"
            " links\n"
            "warning: adjust.d/03 is a link to driver/x, which cannot be followed: Not a directory\n"
        ),
    ),
    Case(
        "SPEC 2",
        "no driver but one without the flag, a copy and a document",
        None,
        others={"01ec2asg": "", "02winec2~": "", "README.md": ""},
        before="chmod a-x adjust.d/01ec2asg",
        words=QUERY,
        code=0,
        final='{"application":{"components":{}}}',
        stderr=(
            "warning: no driver in <servo>/adjust.d (1 file passed over for lack of the executable flag, or"
            " of our right to use it, 2 files because of the name; chmod +x makes a file a driver)\n"
        ),
    ),
    Case(
        "SPEC 3",
        "a colon in the path of a servo directory with a library of its own",
        before="mkdir a:b; mv adjust adjust.d a:b; cd a:b; : >util.py; : >adjust.py",
        words=QUERY,
        reason="bad-environment",
        message=(
            "the servo directory is <servo>/a:b, and PYTHONPATH cannot name a directory with a colon in it:"
            " drivers could not import adjust.py of it. Rename the directory, or mount it where there is no"
            " colon in the path"
        ),
    ),
    Case(
        "SPEC 3",
        "a colon in the path of a servo directory without a library",
        driver().replace("case", "case :$PYTHONPATH in *:b*) exit 9 ;; esac\ncase"),
        before="mkdir a:b; mv adjust adjust.d a:b; cd a:b",
        words=QUERY,
        code=0,
        final='{"application":{"components":{"web":{"settings":{"cpu":{"value":2}}}}}}',
    ),
    Case(
        "SPEC 11",
        "a mistake, for an adjust",
        config="agg: {grace: short}",
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: agg.grace is the text 'short', but it must be a number of "
            "seconds, from 0 to a billion"
        ),
    ),
    Case(
        "SPEC 11",
        "a mistake, for --info",
        config="agg: {grace: short}",
        words=("--info", "app"),
        reason="bad-configuration",
        message=(
            "config.yaml, line 1: agg.grace is the text 'short', but it must be a number of "
            "seconds, from 0 to a billion"
        ),
    ),
)
