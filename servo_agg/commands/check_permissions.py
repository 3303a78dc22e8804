"""Find files and directories that any user may write to, among those that run or configure drivers.

Rules (SPEC 14.12, 14.13; SECURITY.md lists what is examined):
- The mode of the target of a link counts, not that of the link.
- A user who may write to a directory can replace the files in it. With the sticky bit he can only add files.
- Nothing on a file system that is mounted read-only can be written to.
"""

from __future__ import annotations

import os
import stat
import sys
from shlex import quote

from servo_agg.commands.check_report import Problem
from servo_agg.protocol.settings import join_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from servo_agg.config import Config

_RUNS = ("is world-writable and runs as the agent's user", "are world-writable and run as the agent's user")
"""What is said of one file, and of several, that are run."""

_CONFIGURES = "is world-writable and configures the drivers"

_MODULES = (".py", ".pyc", ".so")

_MAX_NAMED = 5
"""Files that one problem names, and that one command of its remedy names."""


def writable_by_all(config: Config) -> list[Problem]:
    """Return a problem for each group of files, and each directory, that any user may write to."""
    search = _Search(config.directory)
    search.examine(["."])
    search.examine(["adjust.d"])
    for name in config.drivers:
        search.examine_program(f"adjust.d/{name}", [name])
    search.examine(_tree("adjust.d"), root="adjust.d")
    search.examine_program("adjust")
    search.examine_program(sys.argv[0])
    search.examine(_programs_in("."))
    for path in ("config.yaml", config.environment.get("OPTUNE_CONFIG")):
        if path:
            search.examine([path], predicate=_CONFIGURES)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for path in (*_packages_in("."), package):
        search.examine(_tree(path), root=path)
    search.forbid_additions(os.path.dirname(package), package)
    return search.problems()


class _Directory:
    """A directory on the path to a file that was examined.

    holds     path of such a file
    drivers   the drivers that are reached by it; empty if other files are, too
    imports   whether modules are imported from it, so that no file must be added either
    """

    __slots__ = ("drivers", "holds", "imports")

    def __init__(self, holds: str, drivers: Sequence[str] = ()) -> None:
        self.holds = holds
        self.drivers = list(drivers)
        self.imports = False


class _Search:
    """What has been examined, and the problems found."""

    def __init__(self, directory: str) -> None:
        """Begin a search; relative paths start at `directory`, the servo directory."""
        self._servo = directory
        self._examined: set[str] = set()
        self._found: list[Problem] = []
        self._directories: dict[str, _Directory] = {}

    def examine(
        self, paths: Iterable[str], drivers: Sequence[str] = (), *, root: str = "", predicate: str = ""
    ) -> None:
        """Add one problem for those of the files and directories that any user may write to.

        `root` is the directory that holds them all, if there is one. `predicate` says what is wrong, if they
        are not run.
        """
        targets: dict[str, str] = {}
        for path in paths:
            directories, target = _resolve(os.path.join(self._servo, path))
            for directory_path in directories:
                directory = self._directories.setdefault(directory_path, _Directory(path, drivers))
                if directory.drivers:
                    directory.drivers += drivers
            if target not in self._examined:
                self._examined.add(target)
                if _writable_by_all(target):
                    targets[target] = path
        if targets:
            names = [self._named(path, target) for target, path in targets.items()]
            if len(names) > _MAX_NAMED + 1:
                names[_MAX_NAMED:] = [f"{len(names) - _MAX_NAMED} more"]
            what = f"{join_names(names)} {predicate or _RUNS[len(targets) > 1]}"
            self._found.append(Problem(drivers, "writable", what, *self._remedy(list(targets), root)))

    def examine_program(self, path: str, drivers: Sequence[str] = ()) -> None:
        """Examine a file that is run, and its directory: a Python program imports modules from there."""
        self.examine([path], drivers)
        if os.path.exists(path):
            self.forbid_additions(os.path.dirname(os.path.realpath(path)), path)

    def forbid_additions(self, directory: str, holds: str) -> None:
        """Record that modules are imported from a directory, since it holds the program `holds`."""
        found = self._directories.setdefault(directory, _Directory(holds))
        found.holds = holds
        found.imports = True

    def problems(self) -> list[Problem]:
        """Return all problems, those of directories in which files can be replaced or added included."""
        for path, directory in self._directories.items():
            if path in self._examined or not _writable_by_all(path):
                continue
            sticky = os.stat(path).st_mode & stat.S_ISVTX
            if sticky and not directory.imports:
                continue
            shown, holds = self._shown(path), self._shown(directory.holds)
            if sticky:
                action = f"add Python modules next to {holds}, and {holds} would import them"
                remedy = f"move {holds} to a directory that only its owner may write to"
                commands = []
            else:
                action = f"replace {holds}"
                remedy = f"chmod o-w {quote(shown)}"
                commands = [remedy]
                if not directory.imports:
                    commands.append(f"chmod +t {quote(shown)}")
                    remedy += f"; or, if other users must be able to write there: {commands[1]}"
            what = f"{shown} is world-writable: any user can {action}"
            drivers = list(dict.fromkeys(directory.drivers))
            self._found.append(Problem(drivers, "writable", what, remedy, *commands))
        return self._found

    def _remedy(self, targets: Sequence[str], root: str) -> tuple[str, ...]:
        """Return the remedy, then the commands in it."""
        if targets == [self._servo] and os.stat(self._servo).st_mode & stat.S_ISVTX:
            # Most likely it is /tmp, whose mode must not change.
            return ("move its content to a directory that only its owner may write to",)
        if root and len(targets) > _MAX_NAMED:
            command = f"chmod -R o-w {quote(self._shown(root))}"
        else:
            command = f"chmod o-w {' '.join(quote(self._shown(target)) for target in targets)}"
        return command, command

    def _shown(self, path: str) -> str:
        """Return a path relative to the servo directory if it is inside; the directory itself is absolute."""
        path = os.path.normpath(os.path.join(self._servo, path))
        start = os.path.join(self._servo, "")
        path = path.removeprefix(start)
        # A program such as chmod must not take it for an option.
        return f"./{path}" if path.startswith("-") else path

    def _named(self, path: str, target: str) -> str:
        given, found = self._shown(path), self._shown(target)
        return found if given == found else f"{given} (a link to {found})"


_MAX_LINKS = 40
"""Links that the system follows in one path."""


def _resolve(path: str) -> tuple[list[str], str]:
    """Return the directories in which the parts of an absolute path are looked up, and its target.

    Links are followed, and the directories on the path to their targets are returned, too.
    """
    directories: list[str] = []
    current = "/"
    names = path.split("/")[::-1]
    links = 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)
            continue
        directories.append(current)
        found = os.path.join(current, name)
        try:
            target = os.readlink(found)
        except OSError:
            current = found
            continue
        links += 1
        if links > _MAX_LINKS:
            break
        names += target.split("/")[::-1]
        if target.startswith("/"):
            current = "/"
    return directories, current


def _writable_by_all(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
        if not mode & stat.S_IWOTH or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return False
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return []


_MAX_ENTRIES = 10_000
"""Entries of one directory tree that are examined."""


def _tree(root: str) -> Iterator[str]:
    """Yield a directory and all that it holds; do not follow links to directories in it."""
    yield root
    directories = [root]
    count = 0
    for directory in directories:
        for entry in _entries(directory):
            count += 1
            if count > _MAX_ENTRIES:
                return
            if not os.path.isdir(entry.path):
                yield entry.path
            elif not entry.is_symlink():
                directories.append(entry.path)
                yield entry.path
            elif not os.stat(entry.path).st_mode & stat.S_ISVTX:
                # With the sticky bit it is /tmp or the like, which is meant to be writable.
                yield entry.path


def _programs_in(directory: str) -> Iterator[str]:
    """Yield the Python modules and the executable files of a directory, and the agent."""
    for entry in _entries(directory):
        try:
            mode = entry.stat().st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and (mode & 0o111 or entry.name.endswith(_MODULES) or entry.name == "servo"):
            yield entry.path


def _packages_in(directory: str) -> Iterator[str]:
    """Yield the directories from which a driver may import: those that hold modules, and `encoders`."""
    for entry in _entries(directory):
        if entry.name.isidentifier() and os.path.isdir(entry.path):
            holds_modules = any(file.name.endswith(_MODULES) for file in _entries(entry.path))
            if holds_modules or entry.name == "encoders":
                yield entry.path
