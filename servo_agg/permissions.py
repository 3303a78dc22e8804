"""Find what everybody may write to, of all that is run or obeyed as the agent's user.

Rules (SPEC 14, and SECURITY.md, which lists what is looked at):
- The mode of what a link leads to counts, not that of the link.
- Who may write to a directory can replace what is in it, save where the sticky bit is set; a file can be
  added there all the same.
- What lies on a file system that is mounted read-only cannot be written to, whatever its mode.
"""

from __future__ import annotations

import os
import stat
import sys
from shlex import quote

from servo_agg.description import listed
from servo_agg.findings import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from servo_agg.config import Config

_OPEN = "may be written by everybody on this machine"

_MODULES = (".py", ".pyc", ".so")

_MOST = 10_000
"""Entries of one directory tree that are looked at."""

_NAMED = 5
"""Files that one problem names, and that one command of its remedy holds."""

_LINKS = 40
"""Links on the way to a file after which the system gives up, too."""


def writable_by_all(config: Config) -> list[Problem]:
    """Return a problem for each group of files, and each directory, that everybody may write to."""
    search = _Search(config.directory)
    search.look(["."])
    search.look(["adjust.d"])
    for name in config.drivers:
        search.look_at_program(f"adjust.d/{name}", [name])
    search.look(_tree("adjust.d"), root="adjust.d")
    search.look_at_program("adjust")
    search.look_at_program(sys.argv[0])
    search.look(_programs_in("."))
    for path in ("config.yaml", config.environment.get("OPTUNE_CONFIG")):
        if path:
            search.look([path], why="it tells drivers what to do")
    package = os.path.dirname(os.path.abspath(__file__))
    for path in (*_packages_in("."), package):
        search.look(_tree(path), root=path)
    search.forbid_additions(os.path.dirname(package), package)
    return search.problems()


class _Directory:
    """A directory on the way to what was looked at.

    holds     path of such a thing
    drivers   which of these lie there; none if it holds something else, too
    imports   whether modules are imported from it, so that a file must not be added either
    """

    __slots__ = ("drivers", "holds", "imports")

    def __init__(self, holds: str, drivers: Sequence[str] = ()) -> None:
        self.holds = holds
        self.drivers = list(drivers)
        self.imports = False


class _Search:
    """What was looked at so far, and what was found."""

    def __init__(self, directory: str) -> None:
        """Take the servo directory, in which relative paths begin."""
        self._servo = directory
        self._judged: set[str] = set()
        self._found: list[Problem] = []
        self._directories: dict[str, _Directory] = {}

    def look(
        self, paths: Iterable[str], drivers: Sequence[str] = (), *, root: str = "", why: str = ""
    ) -> None:
        """Look at files and directories; those that everybody may write to are one problem.

        `root` is the directory that holds them all, if there is one; `why` says why it is a problem, where
        it is not that they are run.
        """
        ends: dict[str, str] = {}
        for path in paths:
            holders, end = _way(os.path.join(self._servo, path))
            for holder in holders:
                directory = self._directories.setdefault(holder, _Directory(path, drivers))
                if directory.drivers:
                    directory.drivers += drivers
            if end not in self._judged:
                self._judged.add(end)
                if _open_to_all(end):
                    ends[end] = path
        if ends:
            why = why or f"what {'it holds' if len(ends) == 1 else 'they hold'} is run as us"
            names = [self._named(path, end) for end, path in ends.items()]
            if len(names) > _NAMED + 1:
                names[_NAMED:] = [f"{len(names) - _NAMED} more"]
            what = f"{listed(names)} {_OPEN}, and {why}"
            self._found.append(Problem(drivers, "writable", what, self._remedy(list(ends), root)))

    def look_at_program(self, path: str, drivers: Sequence[str] = ()) -> None:
        """Look at a file that is run; in Python it imports from the directory that it lies in."""
        self.look([path], drivers)
        if os.path.exists(path):
            self.forbid_additions(os.path.dirname(os.path.realpath(path)), path)

    def forbid_additions(self, directory: str, holds: str) -> None:
        """Note that modules are imported from a directory, because of what it holds."""
        noted = self._directories.setdefault(directory, _Directory(holds))
        noted.holds = holds
        noted.imports = True

    def problems(self) -> list[Problem]:
        """Return what was found, and the directories in which something can be replaced or added."""
        for path, directory in self._directories.items():
            if path in self._judged or not _open_to_all(path):
                continue
            sticky = os.stat(path).st_mode & stat.S_ISVTX
            if sticky and not directory.imports:
                continue
            shown, holds = self._shown(path), self._shown(directory.holds)
            if sticky:
                deed = f"put modules beside {holds}, which it imports"
                remedy = f"move {holds} to a directory that only its owner may write to"
            else:
                deed = f"put something else in the place of {holds}"
                remedy = f"chmod o-w {quote(shown)}"
                if not directory.imports:
                    remedy += f"; or chmod +t {quote(shown)}, if others must be able to write there"
            what = f"{shown} {_OPEN}: anybody can {deed}"
            self._found.append(Problem(list(dict.fromkeys(directory.drivers)), "writable", what, remedy))
        return self._found

    def _remedy(self, ends: Sequence[str], root: str) -> str:
        if ends == [self._servo] and os.stat(self._servo).st_mode & stat.S_ISVTX:
            # Most likely it is /tmp, whose mode has to stay.
            return "move what is in it to a directory that only its owner may write to"
        if root and len(ends) > _NAMED:
            return f"chmod -R o-w {quote(self._shown(root))}"
        return f"chmod o-w {' '.join(quote(self._shown(end)) for end in ends)}"

    def _shown(self, path: str) -> str:
        """Return a path as it is seen from the servo directory; that directory itself by its whole path."""
        path = os.path.normpath(os.path.join(self._servo, path))
        start = os.path.join(self._servo, "")
        return path.removeprefix(start)

    def _named(self, path: str, end: str) -> str:
        given, found = self._shown(path), self._shown(end)
        return found if given == found else f"{given} (which leads to {found})"


def _way(path: str) -> tuple[list[str], str]:
    """Return where the names of an absolute path, links followed, are looked up, and what it leads to."""
    holders: list[str] = []
    place = "/"
    names = path.split("/")[::-1]
    links = 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        holders.append(place)
        found = os.path.join(place, name)
        try:
            target = os.readlink(found)
        except OSError:
            place = found
            continue
        links += 1
        if links > _LINKS:
            break
        names += target.split("/")[::-1]
        if target.startswith("/"):
            place = "/"
    return holders, place


def _open_to_all(path: str) -> bool:
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


def _tree(root: str) -> Iterator[str]:
    """Give a directory and all that it holds; links to directories are not followed within it."""
    yield root
    directories = [root]
    count = 0
    for directory in directories:
        for entry in _entries(directory):
            count += 1
            if count > _MOST:
                return
            if not os.path.isdir(entry.path):
                yield entry.path
            elif not entry.is_symlink():
                directories.append(entry.path)
                yield entry.path
            elif not os.stat(entry.path).st_mode & stat.S_ISVTX:
                # With the sticky bit it is /tmp or the like, which is as it should be.
                yield entry.path


def _programs_in(directory: str) -> Iterator[str]:
    """Give the Python modules and the executable files of a directory, and the agent."""
    for entry in _entries(directory):
        try:
            mode = entry.stat().st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and (mode & 0o111 or entry.name.endswith(_MODULES) or entry.name == "servo"):
            yield entry.path


def _packages_in(directory: str) -> Iterator[str]:
    """Give the directories from which a driver may import: those that hold modules, and `encoders`."""
    for entry in _entries(directory):
        if entry.name.isidentifier() and os.path.isdir(entry.path):
            holds_modules = any(one.name.endswith(_MODULES) for one in _entries(entry.path))
            if holds_modules or entry.name == "encoders":
                yield entry.path
