"""The nodes of a YAML text of which a section can be made, composed from the events of the parser.

Rules (SPEC 11):
- The whole text is parsed, but nodes are made only of what may belong to the section: at top level the
  values of its key and of `<<`, and all that bears an anchor. The rest is the drivers'.
- There is no recursion, and the depth is bounded by a limit of our own, not by that of the parser.
- An alias without an anchor is an error only where the section needs it.
"""

from __future__ import annotations

import yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_DEEPEST = 200
"""Levels of nesting; what `nesting` leaves in a text is less."""

_MERGE = "tag:yaml.org,2002:merge"
_MAPPING = "tag:yaml.org,2002:map"

UNDEFINED = "undefined alias"
"""The tag of a node that stands for an alias without an anchor; its value is the alias."""


class TooDeep(Exception):
    """The text is nested too deep; `problem_mark` is where."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__("it is nested too deep")
        self.problem_mark = mark


class NoMapping(Exception):
    """What `<<` is to merge is no mapping; `key` is the node of `<<`, `merged` of what is to be merged."""

    def __init__(self, key: yaml.Node, merged: yaml.Node) -> None:
        super().__init__()
        self.key = key
        self.merged = merged


def documents(loader: Any, wanted: str) -> Iterator[yaml.MappingNode]:
    """Yield the mapping at the top of each document, with its keys `wanted` and `<<` alone.

    Other documents, without a mapping at the top, yield an empty one. Raises YAMLError or TooDeep.
    """
    while (event := loader.get_event()) is not None:
        if isinstance(event, yaml.DocumentStartEvent):
            yield _Composer(loader, wanted).compose()


class _Composer:
    """Composes one document.

    _anchors  the nodes that aliases may refer to, the latest of each name
    _open     what has begun and not ended yet, the innermost last; None stands for what is left out
    """

    def __init__(self, loader: Any, wanted: str) -> None:
        self._loader = loader
        self._names = (wanted, "<<")
        self._anchors: dict[str, yaml.Node] = {}
        self._open: list[yaml.CollectionNode | None] = []

    def compose(self) -> yaml.MappingNode:
        top = yaml.MappingNode(_MAPPING, [])
        while True:
            event = self._loader.get_event()
            # Not by isinstance, since most of a large file passes here.
            kind = event.__class__
            if kind is yaml.ScalarEvent:
                if event.anchor is not None or self._is_kept(event.value):
                    self._add(self._scalar(event))
                elif len(self._open) == 1:
                    self._add(None)
            elif kind is yaml.AliasEvent:
                self._add(self._meant(event))
            elif kind in _STARTS:
                node = self._begin(event)
                if len(self._open) == 1 and isinstance(node, yaml.MappingNode):
                    top = node
            elif kind in _ENDS:
                self._end(event.end_mark)
            elif kind is yaml.DocumentEndEvent:
                return top

    def _is_kept(self, key: str | None = None) -> bool:
        """Tell whether a node is made of what comes next; `key` is its text where it may be one at top."""
        if len(self._open) != 1:
            return bool(self._open) and self._open[-1] is not None
        top = self._open[0]
        if not isinstance(top, yaml.MappingNode):
            return False
        if len(top.value) % 2 == 0:
            return key in self._names
        return top.value[-1] is not None and top.value[-1].value in self._names

    def _add(self, node: yaml.Node | None) -> None:
        """Add to what is open, if a node is made of it; None is a part that is left out."""
        if self._open and self._open[-1] is not None:
            self._open[-1].value.append(node)

    def _scalar(self, event: Any) -> yaml.ScalarNode:
        tag = self._tag(event, yaml.ScalarNode, event.value)
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _meant(self, alias: Any) -> yaml.Node:
        node = self._anchors.get(alias.anchor)
        if node is None:
            node = yaml.ScalarNode(UNDEFINED, f"*{alias.anchor}", alias.start_mark, alias.end_mark)
        return node

    def _tag(self, event: Any, kind: type[yaml.Node], value: str | None) -> str:
        if event.tag is None or event.tag == "!":
            return str(self._loader.resolve(kind, value, event.implicit))
        return str(event.tag)

    def _begin(self, event: Any) -> yaml.CollectionNode | None:
        """Open a mapping or list; return its node, None if it is left out. Raises TooDeep."""
        if len(self._open) == _DEEPEST:
            raise TooDeep(event.start_mark)
        mapping = event.__class__ is yaml.MappingStartEvent
        node = None
        if event.anchor is not None or self._is_kept() or (mapping and not self._open):
            kind = yaml.MappingNode if mapping else yaml.SequenceNode
            node = kind(self._tag(event, kind, None), [], event.start_mark, event.end_mark)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
        self._add(node)
        self._open.append(node)
        return node

    def _end(self, mark: yaml.Mark) -> None:
        node = self._open.pop()
        if node is None:
            return
        node.end_mark = mark
        if isinstance(node, yaml.MappingNode):
            pairs = zip(node.value[::2], node.value[1::2])
            node.value = [(key, value) for key, value in pairs if key is not None and value is not None]


_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def with_merged(mapping: yaml.MappingNode) -> Iterator[list[tuple[yaml.Node, yaml.Node]]]:
    """Yield the pairs of a mapping, then those of each that it merges (`<<`); what comes first counts.

    Each mapping is looked at once, however often it is merged: that may be more often than there is time
    for. Raises NoMapping.
    """
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node | None, yaml.Node]] = [(None, mapping)]
    while waiting:
        by, node = waiting.pop()
        if not isinstance(node, yaml.MappingNode):
            raise NoMapping(by or node, node)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield [pair for pair in node.value if pair[0].tag != _MERGE]
        for key, value in node.value:
            if key.tag == _MERGE:
                several = value.value if isinstance(value, yaml.SequenceNode) else [value]
                waiting += [(key, merged) for merged in reversed(several)]
