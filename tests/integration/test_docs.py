"""README.md and docs/: every command there is run, and must print what the page shows.

A page is Markdown with these conventions; a block that follows none of them is a failure.

    <!-- servo: NAME -->        from here on in a new directory, made by SETUPS[NAME], and a new shell
    <!-- servo: NAME, long -->  likewise, and only with --full
    <!-- driver: NAME KIND KEY=VALUE ... -->  puts that kind of driver into adjust.d: see ServoDirectory.add
    ```sh                       commands, which can be pasted into a shell
    ```text                     right below them: what they print together, on stdout and stderr. `...` is any
                                text within a line, a line `...` any number of lines. Commands without such a
                                block print nothing and succeed
    <!-- file: PATH -->         the block below, in any language, is what the reader writes to PATH; with a
                                config.yaml a --query must succeed
    <!-- not run: WHY -->       the block below is not a command that can be run here
    <!-- the query command -->  the block below is run by .ci/run; here only its last command is run
    <!-- the test command -->   the block below is run by .ci/run only
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servo_agg.config_schema import KEYS
from servo_agg.errors import StartError, UsageError, UserError
from tests.integration.cases.table import CASES
from tests.support.processes import DeadlineError, environment, kill_session
from tests.support.servo import DRIVERS, REPOSITORY, ServoDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

OTHER_PAGES = [
    REPOSITORY / name
    for name in (
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "benchmarks/README.md",
        "tests/fuzz/README.md",
    )
]
"""Pages of which only the links are tested: their commands are for a development environment."""

DEADLINE = 120.0
"""Seconds that all the commands of one directory may take."""

QUERY_COMMAND = "the query command"
TEST_COMMAND = "the test command"


# Servo directories: each function creates one below a directory of the test, and returns its path.


def _clone(parent: Path) -> Path:
    """Create the part of a fresh clone that readers need."""
    path = parent / "servo-agg"
    shutil.copytree(REPOSITORY / "adjust.d", path / "adjust.d", ignore=shutil.ignore_patterns("demo"))
    shutil.copytree(
        REPOSITORY / "docs", path / "docs", symlinks=True, ignore=shutil.ignore_patterns("*.json")
    )
    for name in ("adjust", "config.yaml"):
        shutil.copy(REPOSITORY / name, path)
    (path / "servo_agg").symlink_to(REPOSITORY / "servo_agg")
    return path


def _empty(parent: Path) -> Path:
    return ServoDirectory(parent).path


def _nested(parent: Path) -> Path:
    for name, drivers in {"inner": ("01cache", "02queue"), "outer": ("01web",)}.items():
        servo = ServoDirectory(parent, name)
        for driver in drivers:
            servo.add(driver, "plain", component=driver[2:])
    return servo.path


SETUPS: dict[str, Callable[[Path], Path]] = {"clone": _clone, "empty": _empty, "nested": _nested}


# Pages.


@dataclass(frozen=True)
class Step:
    """A command of a page, or one that writes a file of it."""

    line: int
    command: str
    expected: list[str]


@dataclass
class Session:
    """All steps in one servo directory of a page."""

    page: Path
    line: int
    setup: str
    long: bool = False
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


class PageError(AssertionError):
    """A page breaks the conventions."""


class Reader:
    """Reads a page; `sessions` are the commands to run."""

    def __init__(self, page: Path, text: str) -> None:
        self.sessions: list[Session] = []
        self._page = page
        self._lines = text.splitlines()
        self._at = 0
        self._comment: str | None = None
        # The line at which the output of the last commands may begin.
        self._output_at = -1
        self._read()

    def _read(self) -> None:
        while self._at < len(self._lines):
            self._read_line(self._lines[self._at])
            self._at += 1
        if self._comment is not None:
            self._refuse("this comment belongs to no block")

    def _refuse(self, why: str) -> None:
        raise PageError(f"{self._page.name}:{self._at + 1}: {why}")

    def _read_line(self, line: str) -> None:
        comment = re.fullmatch(r"<!-- (.*) -->", line)
        if comment:
            self._read_comment(comment[1])
        elif line.startswith("```"):
            self._read_block(line[3:].strip())
            self._comment = None
        elif re.match(r"\s*(```|~~~)", line):
            self._refuse("a block is fenced by ``` at the beginning of a line")
        elif line.startswith("    ") and not self._lines[self._at - 1].strip():
            self._refuse("an indented block says nothing of itself: fence it")
        elif line.strip() and self._comment is not None:
            self._refuse(f"the comment {self._comment!r} must stand right before a block")

    def _read_comment(self, comment: str) -> None:
        kind, _, rest = comment.partition(": ")
        if kind == "servo":
            setup, _, more = rest.partition(", ")
            if setup not in SETUPS or more not in ("", "long"):
                self._refuse(f"no such servo directory: {rest}")
            self.sessions.append(Session(self._page, self._at + 1, setup, more == "long"))
        elif kind == "driver":
            name, driver, *settings = shlex.split(rest)
            pairs = (setting.partition("=") for setting in settings)
            words = "".join(f"DRIVER_{key.upper()}={shlex.quote(value)}\n" for key, _, value in pairs)
            self._add(f"cp {shlex.quote(str(DRIVERS / driver))} adjust.d/{name}", [])
            self._add(f"cat >settings.d/{name} <<'SETTINGS'\n{words}SETTINGS", [])
        elif kind in ("file", "not run") or comment in (QUERY_COMMAND, TEST_COMMAND):
            self._comment = comment
        else:
            self._refuse(f"unknown comment: {comment}")

    def _add(self, command: str, expected: list[str]) -> None:
        if not self.sessions:
            self._refuse("no comment before says in which servo directory this is")
        self.sessions[-1].steps.append(Step(self._at + 1, command, expected))

    def _read_block(self, language: str) -> None:
        first = self._at + 1
        while self._at + 1 < len(self._lines) and self._lines[self._at + 1] != "```":
            self._at += 1
        block = self._lines[first : self._at + 1]
        self._at += 1
        kind, _, rest = (self._comment or "").partition(": ")
        if kind == "file":
            self._read_file_block(rest, block)
        elif self._comment is None and language == "sh":
            if any(line.startswith("$ ") for line in block):
                self._refuse("a prompt would be copied along")
            self._add_commands("\n".join(block))
        elif self._comment == QUERY_COMMAND and language == "sh":
            # What comes before it installs the package.
            self._add_commands(block[-1].rpartition("&& ")[2])
        elif self._comment is None and language == "text" and first - 1 == self._output_at:
            self.sessions[-1].steps[-1].expected.extend(block)
        elif self._comment is None:
            self._refuse(f"this block ({language or 'no language'}) is neither run nor marked `not run`")

    def _add_commands(self, commands: str) -> None:
        self._add(commands, [])
        # A blank line is between the two blocks.
        self._output_at = self._at + 2

    def _read_file_block(self, path: str, block: list[str]) -> None:
        shown = [line for line in self._lines[: self._at] if not line.startswith("<!--")]
        if f"`{path}`" not in "\n".join(shown):
            self._refuse(f"nothing tells the reader that this is to be the file {path}")
        end = "END-OF-FILE"
        self._add(f"cat >{path} <<'{end}'\n" + "".join(f"{line}\n" for line in block) + end, [])
        if path == "config.yaml":
            self._add("./adjust --query app >/dev/null", [])


def read(page: Path) -> Reader:
    return Reader(page, page.read_text(encoding="utf-8"))


def sessions() -> Iterator[object]:
    for page in PAGES:
        for session in read(page).sessions:
            marks = [pytest.mark.full] if session.long else []
            yield pytest.param(session, id=session.name, marks=marks)


# Running.


def fits(expected: list[str], output: str) -> bool:
    """Return whether the output is what a page shows."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected
    )
    lines = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
    return re.fullmatch(pattern, lines) is not None


def script(steps: list[Step], mark: str) -> str:
    """Return a script that prints the exit status of each step, in a line that nothing else prints."""
    return "".join(f"{{ {step.command}\n}} </dev/null\nprintf '\\n%s %s\\n' {mark} $?\n" for step in steps)


def run(session: Session, parent: Path) -> list[tuple[int, str]]:
    """Run the commands of a page; return exit status and output of each step."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        ["sh"],
        cwd=SETUPS[session.setup](parent),
        env=environment({"HOME": str(parent)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as shell:
        try:
            output, _ = shell.communicate(script(session.steps, mark), DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise DeadlineError(f"{session.name} takes more than {DEADLINE:g} s: {error.output!r}") from error
        finally:
            if shell.returncode is None:
                kill_session(shell.pid)
    *parts, _ = re.split(rf"\n?{mark} (\d+)\n", output)
    return [(int(status), text) for text, status in zip(parts[::2], parts[1::2])]


@pytest.mark.parametrize("session", list(sessions()))
def test_the_commands_of_a_page_print_what_it_shows(session: Session, tmp_path: Path) -> None:
    done = run(session, tmp_path)
    assert len(done) == len(session.steps), done[-1:]
    for step, (status, output) in zip(session.steps, done):
        where = f"{session.page.name}:{step.line}: $ {step.command}\nexit status {status}, printed:\n{output}"
        right = fits(step.expected, output) and (step.expected != [] or status == 0)
        assert right, "\n".join([where, "instead of:", *step.expected])


# The conventions themselves.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_follows_the_conventions(page: Path) -> None:
    read(page)


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_links_of_a_page_exist(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if "://" not in path:
            target = page.parent / path if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    heads = re.findall("^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub("[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in heads}


NOT_ALLOWED = {
    "no kind": "```sh\nrm -rf /\n```",
    "no language": "```\nls\n```",
    "indented": "text\n\n    ls\n",
    "indented fence": "- item\n  ```sh\n  ls\n  ```",
    "tildes": "~~~\nls\n~~~",
    "a comment that belongs to nothing": "<!-- not run: a picture -->\ntext\n```sh\nls\n```",
    "a comment at the end": "<!-- not run: a picture -->",
    "an unknown comment": "<!-- servant: empty -->",
    "an unknown directory": "<!-- servo: there -->",
    "a prompt": "<!-- servo: empty -->\n```sh\n$ ls\n```",
    "output of nothing": "<!-- servo: empty -->\n```text\nls\n```",
    "output further down": "<!-- servo: empty -->\n```sh\nls\n```\n\ntext\n\n```text\na\n```",
    "a file that nobody is told of": "<!-- servo: empty -->\n<!-- file: a -->\n```sh\nls\n```",
}


@pytest.mark.parametrize("text", NOT_ALLOWED.values(), ids=NOT_ALLOWED.keys())
def test_a_page_that_breaks_the_conventions_is_refused(text: str) -> None:
    with pytest.raises(PageError):
        Reader(Path("page.md"), text)


@pytest.mark.parametrize(
    ("expected", "output", "verdict"),
    [
        ([], "", True),
        ([], "a\n", False),
        (["a"], "a\n", True),
        (["a"], "a \n", True),
        (["a"], "a\nb\n", False),
        (["a...c"], "abc\n", True),
        (["a...c"], "ab\nc\n", False),
        (["...", "c"], "a\nb\nc\n", True),
        (["a", "..."], "a\n", True),
        (["a", "..."], "b\n", False),
        (["a.c"], "abc\n", False),
    ],
)
def test_output_fits_what_a_page_shows(expected: list[str], output: str, verdict: bool) -> None:
    assert fits(expected, output) is verdict


# docs/operations.md explains every reason and message.

OPERATIONS = REPOSITORY / "docs" / "operations.md"
DRIVERS_PAGE = REPOSITORY / "docs" / "writing-drivers.md"

ERRORS: list[type[Exception]] = [UserError, *UserError.__subclasses__(), StartError, UsageError]

MESSAGE_ARGUMENT = {
    **{error.__name__: 0 for error in ERRORS},
    **dict.fromkeys(("Malformed", "_InvalidNumber", "ValueError"), 0),
    **dict.fromkeys(("_fail", "fail", "format_line"), 1),
    **dict.fromkeys(("warn", "debug", "_debug", "refuse", "_write_text"), 0),
    **dict.fromkeys(("wrap", "Remark"), 0),
    "Problem": 2,
    "_add": 3,
}
"""The functions and classes that get a message, and the place of it among their arguments."""

SENTENCE_MODULES = ("outcome.py", "process.py", "query.py", "run.py", "run_log.py", "status_line.py")
"""The modules in which messages are returned, assigned or appended to a list before a function gets them."""

NOT_MESSAGES = (
    # The causes that follow this one are explained instead.
    "cannot be started: ...",
    # Parts of messages, and an answer.
    "1 file",
    "... and ... more",
    "...; stderr: ...",
    "aggregator ... (...)",
    # The reply follows it as JSON, in another argument.
    "...: replies ",
    # What is wrong with the log follows it, and is explained instead.
    "the log ... ...",
)
"""Strings that the search for messages finds, but that need no explanation."""


def column(page: Path, head: str) -> list[str]:
    """Return the code in the column with this head, of all tables of a page."""
    found: list[str] = []
    place: int | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = line.strip("| ").split(" | ")
        if not line.startswith("|"):
            place = None
        elif place is not None:
            found += re.findall(r"`([^`]+)`", cells[min(place, len(cells) - 1)])
        elif head in cells:
            place = cells.index(head)
    return found


def literal(node: ast.expr | None) -> str:
    """Return a string of the source, with three dots for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return node.value.decode("ascii", "replace")
    if isinstance(node, ast.JoinedStr):
        return "".join(map(literal, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return re.sub("%[sd]", "...", literal(node.left))
    if isinstance(node, ast.BinOp):
        return literal(node.left) + (literal(node.right) if isinstance(node.op, ast.Add) else "")
    return "..."


Assignments = dict[str, list[ast.expr]]
"""What is assigned to each name of a module or function."""


def assignments_in(scope: ast.AST) -> Assignments:
    found: Assignments = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts))
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(value)
    return found


def expressions(node: ast.expr, names: Assignments) -> Iterator[ast.expr]:
    """Yield the strings of the source that an expression may be."""
    if isinstance(node, ast.IfExp):
        yield from expressions(node.body, names)
        yield from expressions(node.orelse, names)
    elif isinstance(node, ast.Tuple):
        for element in node.elts:
            yield from expressions(element, names)
    elif isinstance(node, ast.Name):
        for value in names.get(node.id, ()):
            # One level only: names that are assigned from one another would never end.
            yield from expressions(value, {})
    elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.Name):
        yield from expressions(node.left, names)
    else:
        yield node


@functools.cache
def modules() -> list[tuple[Path, ast.Module]]:
    """Return the syntax trees of the program, each with its file."""
    package = REPOSITORY / "servo_agg"
    paths = [path for path in sorted(package.rglob("*.py")) if path.parent.name != "driverlib"]
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in (REPOSITORY / "adjust", *paths)]


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path, module in modules():
        for node in ast.walk(module):
            yield path, node


def message_expressions(path: Path, node: ast.AST) -> Sequence[ast.expr | None]:
    """Return the expressions in a node of the source that are messages."""
    if isinstance(node, ast.Call) and node.args:
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called == "append" and path.name in SENTENCE_MODULES:
            return node.args
        place = MESSAGE_ARGUMENT.get(called, len(node.args))
        return node.args[place : place + 1]
    if isinstance(node, (ast.Return, ast.Assign)):
        return [node.value] if path.name in SENTENCE_MODULES or path.name == "adjust" else []
    if isinstance(node, ast.Dict) and path.name in ("process.py", "errors.py"):
        return node.values
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "message"]
    return []


@functools.cache
def messages() -> list[tuple[str, str]]:
    """Return each place where a message is made, with the message."""
    found: dict[tuple[str, str], None] = {}
    for path, module in modules():
        everywhere = assignments_in(module)
        names = {name: values for name, values in everywhere.items() if name.isupper() or name[0] == "_"}
        for scope in ast.walk(module):
            if not isinstance(scope, (ast.Module, ast.FunctionDef)):
                continue
            local = names if isinstance(scope, ast.Module) else {**names, **assignments_in(scope)}
            for node in ast.walk(scope):
                for part in message_expressions(path, node):
                    for expression in () if part is None else expressions(part, local):
                        message = literal(expression)
                        if " " in message.strip(". "):
                            found[f"{path.name}:{expression.lineno}", message] = None
    return list(found)


def explains(quote: str, message: str) -> bool:
    """Return whether a quote stands for a message, or for a part of it, or for a message that contains it."""
    return (
        (is_long(quote) and matches(quote, message))
        or (is_long(message) and matches(message, quote))
        or collapsed(quote) == collapsed(message)
    )


def is_long(quote: str) -> bool:
    """Return whether a quote has enough text of its own to match no other message by chance."""
    return sum(map(len, parts_of(quote))) > 10


@functools.cache
def collapsed(quote: str) -> str:
    return re.sub(r"\.\.\.(\s*\.\.\.)+", "...", quote)


def matches(quote: str, sentence: str) -> bool:
    # The blanks around what is filled in may be made in another place of the source.
    parts = parts_of(quote)
    # The search alone would take seconds for all pairs.
    return (
        all(part in sentence for part in parts)
        and re.search(".*".join(map(re.escape, parts)), sentence, re.DOTALL) is not None
    )


@functools.cache
def parts_of(quote: str) -> list[str]:
    return [part.strip() for part in quote.split("...")]


def test_every_message_is_explained() -> None:
    quotes = column(OPERATIONS, "message")
    found = [pair for pair in messages() if pair[1] not in NOT_MESSAGES]
    assert [pair for pair in found if not any(explains(quote, pair[1]) for quote in quotes)] == []
    # Fewer may mean that a name above has changed.
    assert len(found) > 150


def test_every_name_in_the_list_of_functions_with_messages_exists() -> None:
    # The attribute `_debug` is a function.
    names = {getattr(node, "name", getattr(node, "attr", "")) for _, node in nodes()} | {"ValueError"}
    assert names >= set(MESSAGE_ARGUMENT)


@pytest.mark.parametrize("page", [OPERATIONS, DRIVERS_PAGE], ids=lambda page: page.name)
def test_every_message_that_a_page_quotes_exists(page: Path) -> None:
    strings = {
        literal(node) for _, node in nodes() if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))
    }
    # What is put together from several strings of the source.
    strings |= {text for case in CASES for text in (case.message, case.stderr)}
    quotes = column(page, "message")
    assert quotes
    assert [quote for quote in quotes if not any(matches(quote, text) for text in strings)] == []


def test_every_reason_of_the_contract_is_explained() -> None:
    contract = (REPOSITORY / "docs" / "SPEC.md").read_text(encoding="utf-8")
    (rules,) = re.findall("^### Reasons\n(.*?)^### ", contract, re.MULTILINE | re.DOTALL)
    reasons = set(re.findall("`([a-z-]+)`", rules)) - {"reason"}
    assert {"timeout", "internal"} <= reasons <= set(column(OPERATIONS, "reason"))


def test_every_key_of_section_agg_is_explained() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [key for key in KEYS if f"## `{key}`" not in text] == []


@pytest.mark.parametrize("module", ["adjust", "util"])
def test_every_public_name_of_the_driver_library_is_explained(module: str) -> None:
    text = DRIVERS_PAGE.read_text(encoding="utf-8")
    text = re.sub("^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    source = (REPOSITORY / "servo_agg" / "driverlib" / f"{module}.py").read_text(encoding="utf-8")
    body = ast.parse(source).body
    found = next(
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == "Adjust":
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("__"):
                    found.append(part.name)
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    found.append(part.attr)
    missing = [name for name in found if not name.startswith("__") and not re.search(rf"\b{name}\b", text)]
    assert missing == []
