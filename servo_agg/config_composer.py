"""Compose the nodes of a YAML text that one section needs, from the events of PyYAML's parser.

The composer of PyYAML makes nodes of the whole text. This one differs (SPEC 11.2-11.5):
- Nodes are made only of what may belong to the section: at the top level the values of its key and of `<<`,
  and everything with an anchor.
- There is no recursion, and the depth has a limit of our own.
- An alias without an anchor is an error only where the section uses it.
"""

from __future__ import annotations

import yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_DEPTH = 200
"""Levels of nesting, more than `blank_deep_nesting` leaves in a text."""

_MAX_RESOLVED = 300
"""Characters of a scalar that decide on its type. PyYAML's regular expressions take time and memory for each
character, and no text that begins with so many digits is a path or the name of a driver."""

_MERGE = "tag:yaml.org,2002:merge"
_MAPPING = "tag:yaml.org,2002:map"

UNDEFINED = "undefined alias"
"""The tag of a node that stands for an alias without an anchor; its value is the alias."""


class TooDeepError(Exception):
    """The text is nested too deeply at `problem_mark`."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__("nested too deeply")
        self.problem_mark = mark


class NotMappingError(Exception):
    """`<<` refers to something that is not a mapping; `key` is the node of `<<`, `merged` the other one."""

    def __init__(self, key: yaml.Node, merged: yaml.Node) -> None:
        super().__init__()
        self.key = key
        self.merged = merged


def compose_documents(loader: Any, wanted: str) -> Iterator[yaml.MappingNode]:
    """Yield the mapping at the top of each document, with only its keys `wanted` and `<<`.

    A document that is not a mapping yields an empty one. Raises YAMLError or TooDeepError.
    """
    while (event := loader.get_event()) is not None:
        if isinstance(event, yaml.DocumentStartEvent):
            yield _Composer(loader, wanted).compose()


class _Composer:
    """Composes one document.

    _anchors  node of each anchor, the latest one if a name is used again
    _open     the collections that are open, the innermost last; None for one without a node
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
            # Not isinstance, which is slower: this runs for each event of a large file.
            event_type = event.__class__
            if event_type is yaml.ScalarEvent:
                if event.anchor is not None or self._is_needed(event.value):
                    self._add(self._scalar(event))
                elif len(self._open) == 1:
                    self._add(None)
            elif event_type is yaml.AliasEvent:
                self._add(self._resolve_alias(event))
            elif event_type in _STARTS:
                node = self._begin(event)
                if len(self._open) == 1 and isinstance(node, yaml.MappingNode):
                    top = node
            elif event_type in _ENDS:
                self._end(event.end_mark)
            elif event_type is yaml.DocumentEndEvent:
                return top

    def _is_needed(self, key: str | None = None) -> bool:
        """Return whether the next event needs a node; `key` is its text if it can be a top-level key."""
        if len(self._open) != 1:
            return bool(self._open) and self._open[-1] is not None
        top = self._open[0]
        if not isinstance(top, yaml.MappingNode):
            return False
        if len(top.value) % 2 == 0:
            return key in self._names
        return top.value[-1] is not None and top.value[-1].value in self._names

    def _add(self, node: yaml.Node | None) -> None:
        """Add a node to the innermost collection, if that has a node; None stands for an omitted node."""
        if self._open and self._open[-1] is not None:
            self._open[-1].value.append(node)

    def _scalar(self, event: Any) -> yaml.ScalarNode:
        tag = self._tag(event, yaml.ScalarNode, event.value[:_MAX_RESOLVED])
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _resolve_alias(self, alias: Any) -> yaml.Node:
        node = self._anchors.get(alias.anchor)
        if node is None:
            node = yaml.ScalarNode(UNDEFINED, f"*{alias.anchor}", alias.start_mark, alias.end_mark)
        return node

    def _tag(self, event: Any, node_type: type[yaml.Node], value: str | None) -> str:
        if event.tag is None or event.tag == "!":
            return str(self._loader.resolve(node_type, value, event.implicit))
        return str(event.tag)

    def _begin(self, event: Any) -> yaml.CollectionNode | None:
        """Open a mapping or list; return its node, None if it needs none. Raises TooDeepError."""
        if len(self._open) == MAX_DEPTH:
            raise TooDeepError(event.start_mark)
        mapping = event.__class__ is yaml.MappingStartEvent
        node = None
        if event.anchor is not None or self._is_needed() or (mapping and not self._open):
            node_type = yaml.MappingNode if mapping else yaml.SequenceNode
            node = node_type(self._tag(event, node_type, None), [], event.start_mark, event.end_mark)
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


def pairs_with_merged(mapping: yaml.MappingNode) -> Iterator[list[tuple[yaml.Node, yaml.Node]]]:
    """Yield the pairs of a mapping, then those of each mapping that it merges (`<<`); the first one counts.

    Each mapping is visited once, even if it is merged an exponential number of times. Raises NotMappingError.
    """
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node | None, yaml.Node]] = [(None, mapping)]
    while waiting:
        by, node = waiting.pop()
        if not isinstance(node, yaml.MappingNode):
            raise NotMappingError(by or node, node)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield [pair for pair in node.value if pair[0].tag != _MERGE]
        for key, value in node.value:
            if key.tag == _MERGE:
                several = value.value if isinstance(value, yaml.SequenceNode) else [value]
                waiting += [(key, merged) for merged in reversed(several)]
