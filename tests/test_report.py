"""SPEC 4, 7.8, 7.9, 13: what became of a driver, and what is said of all."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servo_agg.protocol import encode
from servo_agg.report import Ending, Outcome, drivers, failure, lines_of, what_they_said
from tests.outputs import values

Object = dict[str, Any]
Reply = Optional[Object]


def ending(
    code: int | None = 0,
    signal: str | None = None,
    trouble: str | None = None,
    words: str = "",
    stopped: str | None = None,
    stderr: str = "",
) -> Ending:
    made = Ending()
    made.code = None if signal is not None else code
    made.signal = signal
    made.trouble = trouble
    made.words = words
    made.stopped = stopped
    made.stderr = stderr
    return made


def outcome(reply: Reply, end: Ending | None = None, *, name: str = "web", adjusting: bool = True) -> Outcome:
    return Outcome(name, reply, end or ending(), adjusting=adjusting)


# One driver (SPEC 4, 13).


@pytest.mark.parametrize(
    ("reply", "end", "status", "reason", "words"),
    [
        # No reply.
        pytest.param(None, ending(0), "failed", "no-reply", ["gave no reply"], id="nothing"),
        pytest.param(None, ending(3), "failed", "exit-status", ["exited with status 3"], id="nothing-exit-3"),
        pytest.param(
            None, ending(signal="SIGSEGV"), "failed", "signal", ["killed by SIGSEGV"], id="nothing-signal"
        ),
        # It says ok, and is not.
        pytest.param(
            {"status": "ok"}, ending(3), "failed", "exit-status", ["exited with status 3"], id="ok-exit-3"
        ),
        pytest.param(
            {"status": "ok", "reason": "success", "message": "all well"},
            ending(1),
            "failed",
            "exit-status",
            ["exited with status 1", "all well"],
            id="ok-with-a-reason-exit-1",
        ),
        pytest.param(
            {"status": "ok"},
            ending(signal="SIGKILL"),
            "failed",
            "signal",
            ["killed by SIGKILL"],
            id="ok-signal",
        ),
        # It says that it failed.
        pytest.param({"status": "failed"}, ending(0), "failed", "unknown", [], id="failed-without-a-word"),
        pytest.param(
            {"status": "failed", "reason": "unstable", "message": "went down"},
            ending(0),
            "failed",
            "unstable",
            ["went down"],
            id="failed-exit-0",
        ),
        pytest.param(
            {"status": "rejected", "reason": "overwritten", "message": "no"},
            ending(1),
            "rejected",
            "overwritten",
            ["no", "exited with status 1"],
            id="rejected-exit-1",
        ),
        pytest.param(
            {"status": "aborted", "reason": "app-restart", "message": "gone"},
            ending(signal="SIGTERM"),
            "aborted",
            "app-restart",
            ["gone", "killed by SIGTERM"],
            id="aborted-signal",
        ),
        pytest.param(
            {"status": "transient-failure", "reason": None},
            ending(0),
            "transient-failure",
            "unknown",
            [],
            id="reason-null",
        ),
        pytest.param(
            {"status": "failed"},
            ending(3),
            "failed",
            "exit-status",
            ["exited with status 3"],
            id="no-reason-exit-3",
        ),
        pytest.param(
            {"status": "failed"},
            ending(signal="SIGHUP"),
            "failed",
            "signal",
            ["killed by SIGHUP"],
            id="no-reason-signal",
        ),
        # No status, or one that is no text.
        pytest.param({}, ending(0), "failed", "unknown", ["no status"], id="empty-reply"),
        pytest.param(
            {"error": "boom", "class": "E", "message": "it broke"},
            ending(3),
            "failed",
            "exit-status",
            ["exited with status 3", "it broke"],
            id="old-error-exit-3",
        ),
        pytest.param({"error": "boom"}, ending(1), "failed", "exit-status", ["boom"], id="old-error-alone"),
        pytest.param(
            {"state": "up"}, ending(0), "failed", "unknown", ["no status"], id="reply-without-status"
        ),
        pytest.param({"status": None}, ending(0), "failed", "unknown", ["status"], id="status-null"),
        pytest.param({"status": 0}, ending(0), "failed", "unknown", ["status"], id="status-number"),
        pytest.param({"status": True}, ending(0), "failed", "unknown", ["status"], id="status-boolean"),
        pytest.param({"status": ["ok"]}, ending(0), "failed", "unknown", ["status"], id="status-list"),
        pytest.param(
            {"status": {"ok": "ok"}}, ending(0), "failed", "unknown", ["status"], id="status-object"
        ),
        pytest.param(
            {"status": 7}, ending(3), "failed", "exit-status", ["exited with status 3"], id="number-exit-3"
        ),
        # What we found.
        pytest.param(
            None,
            ending(signal="SIGTERM", trouble="timeout", words="was silent for 9.0 s"),
            "failed",
            "timeout",
            ["was silent for 9.0 s"],
            id="timeout",
        ),
        pytest.param(
            {"status": "ok", "reason": "success"},
            ending(0, trouble="timeout", words="was silent for 9.0 s"),
            "failed",
            "timeout",
            ["was silent for 9.0 s"],
            id="timeout-then-ok",
        ),
        pytest.param(
            {"status": "rejected", "reason": "r", "message": "half done"},
            ending(1, trouble="timeout", words="was silent for 9.0 s"),
            "failed",
            "timeout",
            ["was silent for 9.0 s", "half done"],
            id="timeout-then-rejected",
        ),
        pytest.param(
            None,
            ending(signal="SIGTERM", trouble="malformed", words="its output is malformed: 'hello'"),
            "failed",
            "malformed",
            ["'hello'"],
            id="malformed",
        ),
        pytest.param(
            {"status": "ok"},
            ending(0, trouble="malformed", words="its output is malformed: 'hello'"),
            "failed",
            "malformed",
            ["'hello'"],
            id="malformed-after-ok",
        ),
        pytest.param(
            None,
            ending(
                None, trouble="cannot-start", words="cannot be started: its interpreter /x does not exist"
            ),
            "failed",
            "cannot-start",
            ["its interpreter /x does not exist"],
            id="cannot-start",
        ),
        pytest.param(
            {"status": "ok"},
            ending(None, trouble="unkillable", words="could not be killed: dd (pid 7)"),
            "failed",
            "unkillable",
            ["dd (pid 7)"],
            id="unkillable",
        ),
    ],
)
def test_a_driver_that_failed_on_an_adjust(
    reply: Reply, end: Ending, status: str, reason: str, words: list[str]
) -> None:
    found = outcome(reply, end)
    assert (found.ok, found.status, found.reason) == (False, status, reason)
    assert [word for word in words if word not in found.message] == []
    assert found.message
    assert not found.blameless


def test_a_driver_that_says_ok_and_exits_0_has_succeeded() -> None:
    found = outcome(
        {"status": "ok", "reason": "Skipped due to 'adjust_on' condition", "message": "as it was"}
    )
    assert (found.ok, found.status) == (True, "ok")
    assert found.reason == "Skipped due to 'adjust_on' condition"
    assert found.message == "as it was"
    assert not found.blameless


@pytest.mark.parametrize(
    ("reply", "end", "ok", "status", "reason"),
    [
        pytest.param({"application": {}}, ending(0), True, "ok", None, id="no-status"),
        pytest.param({"application": {}, "status": "ok"}, ending(0), True, "ok", None, id="status-ok"),
        pytest.param({}, ending(0), True, "ok", None, id="empty-reply"),
        pytest.param({"application": {}}, ending(2), False, "failed", "exit-status", id="exit-2"),
        pytest.param(
            {"application": {}, "status": "ok"}, ending(2), False, "failed", "exit-status", id="ok-exit-2"
        ),
        pytest.param({"application": {}}, ending(signal="SIGKILL"), False, "failed", "signal", id="signal"),
        pytest.param(
            {"application": {}, "status": "failed"}, ending(0), False, "failed", "unknown", id="failed"
        ),
        pytest.param(
            {"application": {}, "status": None}, ending(0), False, "failed", "unknown", id="status-null"
        ),
        pytest.param(
            {"application": {}, "status": 5}, ending(0), False, "failed", "unknown", id="status-number"
        ),
        pytest.param({"status": "rejected", "reason": "r"}, ending(0), False, "rejected", "r", id="rejected"),
        pytest.param(None, ending(0), False, "failed", "no-reply", id="no-reply"),
        pytest.param(None, ending(1), False, "failed", "exit-status", id="no-reply-exit-1"),
        pytest.param(
            {"application": {}},
            ending(0, trouble="timeout", words="w"),
            False,
            "failed",
            "timeout",
            id="timeout",
        ),
    ],
)
def test_on_a_query_or_info_a_reply_needs_no_status(
    reply: Reply, end: Ending, status: str, reason: str | None, *, ok: bool
) -> None:
    found = outcome(reply, end, adjusting=False)
    assert (found.ok, found.status) == (ok, status)
    assert reason is None or found.reason == reason


STATUSES: list[Any] = ["ok", "failed", "aborted", "", None, 1, False, [], {}]
REPLIES: list[Reply] = [
    None,
    *(
        {**status, **reason, **message}
        for status, reason, message in itertools.product(
            ({}, *({"status": value} for value in STATUSES)),
            ({}, *({"reason": value} for value in ("unstable", "", None, 1, ["a"]))),
            ({}, *({"message": value} for value in ("it broke", "", None, 1, ["a", "b"]))),
        )
    ),
]
ENDINGS = [
    ending(0),
    ending(3),
    ending(255),
    ending(signal="SIGTERM"),
    ending(signal="signal 40"),
    *(ending(0, trouble=trouble, words="our words") for trouble in ("timeout", "malformed", "unkillable")),
    ending(signal="SIGKILL", trouble="timeout", words="our words"),
    ending(None, trouble="cannot-start", words="our words"),
]


@pytest.mark.parametrize("adjusting", [True, False], ids=["adjust", "query"])
@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: f"{end.code}-{end.signal}-{end.trouble}")
def test_whatever_a_reply_holds_the_verdict_is_by_the_contract(end: Ending, *, adjusting: bool) -> None:
    for reply in REPLIES:
        found = outcome(reply, end, adjusting=adjusting)
        said = None if reply is None else reply.get("status", None if adjusting else "ok")
        assert found.ok == (said == "ok" and end.code == 0 and end.trouble is None), reply
        assert isinstance(found.status, str), reply
        assert isinstance(found.reason, str), reply
        assert isinstance(found.message, str), reply
        assert found.reason, reply
        if found.ok:
            assert found.status == "ok", reply
            continue
        its_own = isinstance(said, str) and said not in ("ok", "") and end.trouble is None
        assert found.status == (said if its_own else "failed"), reply
        if end.trouble is not None:
            assert (found.reason, end.words in found.message) == (end.trouble, True), reply
            continue
        if end.code:
            assert f"exited with status {end.code}" in found.message, reply
        if end.signal:
            assert f"killed by {end.signal}" in found.message, reply
        if reply is None:
            assert "gave no reply" in found.message
        else:
            assert "gave no reply" not in found.message, reply
        if reply and reply.get("message") == "it broke":
            assert "it broke" in found.message, reply
        if its_own and reply and reply.get("reason") == "unstable":
            assert found.reason == "unstable", reply


@pytest.mark.parametrize(
    "end", [ending(signal="SIGTERM"), ending(0), ending(1)], ids=["died", "exit-0", "exit-1"]
)
def test_one_that_was_stopped_for_anothers_failure_has_none_of_its_own(end: Ending) -> None:
    """SPEC 6: those running may finish for 2 s more, then they are stopped (no failure of theirs)."""
    end = copy.copy(end)
    end.stopped = "failure"
    found = outcome(None, end, adjusting=False)
    assert not found.ok
    assert found.blameless
    assert found.status != "ok"


def test_one_that_is_malformed_is_to_blame_though_it_was_stopped() -> None:
    end = ending(signal="SIGTERM", trouble="malformed", words="its output is malformed", stopped="failure")
    assert not outcome(None, end, adjusting=False).blameless


@pytest.mark.parametrize("adjusting", [True, False], ids=["adjust", "query"])
def test_one_that_ends_well_while_it_is_stopped_has_succeeded(*, adjusting: bool) -> None:
    """SPEC 4: ok in the reply and exit status 0 are a success, and nothing else is asked for."""
    found = outcome({"status": "ok", "reason": "success"}, ending(0, stopped="SIGTERM"), adjusting=adjusting)
    assert (found.ok, found.status, found.reason) == (True, "ok", "success")


@pytest.mark.parametrize(
    ("reply", "end", "reason"),
    [
        pytest.param(None, ending(signal="SIGTERM", stopped="SIGTERM"), "signal", id="died"),
        pytest.param(None, ending(143, stopped="SIGTERM"), "exit-status", id="exited"),
    ],
)
def test_the_reason_of_one_that_was_stopped_is_one_of_those_that_there_are(
    reply: Reply, end: Ending, reason: str
) -> None:
    """SPEC 13 has a closed list of reasons for a driver that gave none."""
    assert outcome(reply, end).reason == reason


def test_a_success_may_turn_out_to_be_a_failure() -> None:
    found = outcome({"application": []}, adjusting=False)
    assert found.ok
    found.fail("malformed", "application is a list, not an object")
    assert (found.ok, found.status, found.reason) == (False, "failed", "malformed")
    assert found.message == "application is a list, not an object"
    assert not found.blameless


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        pytest.param(None, ending(1, stderr="it hurts"), id="without-a-word"),
        pytest.param(
            {"status": "failed", "message": "no"}, ending(0, stderr="it hurts"), id="with-a-message"
        ),
        pytest.param(None, ending(0, trouble="timeout", words="silent", stderr="it hurts"), id="timeout"),
    ],
)
def test_what_a_failed_driver_wrote_to_stderr_is_in_its_message(reply: Reply, end: Ending) -> None:
    _, found, shown = outcome(reply, end).message.partition("stderr:")
    assert found
    assert shown.strip() == "it hurts"


def test_stderr_of_a_driver_that_succeeded_is_not_shown() -> None:
    assert "warning" not in outcome({"status": "ok"}, ending(0, stderr="warning")).message
    assert "stderr" not in outcome(None, ending(1)).message


# All drivers (SPEC 7.8, 7.9).


def failed(name: str, status: str, reason: str | None = None, message: str = "m") -> Outcome:
    return outcome({"status": status, "reason": reason, "message": message}, name=name)


@pytest.mark.parametrize(
    ("failures", "status", "reason"),
    [
        pytest.param([("a", "failed", "r1")], "failed", "r1", id="one"),
        pytest.param([("a", "failed", "r1"), ("b", "failed", "r2")], "failed", "r1", id="the-first"),
        pytest.param(
            [("a", "failed", "r1"), ("b", "aborted", "r2")], "aborted", "r2", id="aborted-before-failed"
        ),
        pytest.param(
            [("a", "failed", "r1"), ("b", "aborted", "r2"), ("c", "rejected", "r3")],
            "rejected",
            "r3",
            id="rejected-before-aborted",
        ),
        pytest.param(
            [("a", "rejected", "r1"), ("b", "aborted", "r2"), ("c", "rejected", "r3")],
            "rejected",
            "r1",
            id="first-of-the-rejected",
        ),
        pytest.param(
            [("a", "transient-failure", "r1"), ("b", "failed", "r2")],
            "transient-failure",
            "r1",
            id="any-other-status",
        ),
        pytest.param(
            [("a", "failed", "r1"), ("b", "rejected", None)], "rejected", "unknown", id="reason-never-null"
        ),
    ],
)
def test_of_several_failures_one_decides(
    failures: list[tuple[str, str, str | None]], status: str, reason: str
) -> None:
    final = failure([failed(*facts) for facts in failures])
    assert (final["status"], final["reason"]) == (status, reason)
    assert final["message"].split("\n") == [f"{name}: {said}: m" for name, said, _ in failures]
    assert "progress" not in final


statuses = st.sampled_from(["failed", "aborted", "rejected", "transient-failure", "ok", "", None, 1])
endings = st.sampled_from(ENDINGS)


@given(st.lists(st.tuples(statuses, st.none() | st.text(max_size=3), endings), min_size=1, max_size=5))
def test_a_failure_of_ours_never_carries_ok_and_always_a_reason(facts: list[tuple[Any, Any, Ending]]) -> None:
    outcomes = [
        outcome({"status": status, "reason": reason}, end, name=f"driver{index}")
        for index, (status, reason, end) in enumerate(facts)
    ]
    failures = [each for each in outcomes if not each.ok]
    if not failures:
        return
    final = failure(failures)
    ranked = [each for wanted in ("rejected", "aborted") for each in failures if each.status == wanted]
    decisive = [*ranked, *failures][0]
    assert (final["status"], final["reason"]) == (decisive.status, decisive.reason)
    assert final["status"] != "ok"
    assert final["reason"]
    for each in failures:
        assert f"{each.name}: {each.status}: {each.message}" in final["message"]


def test_a_message_of_ours_is_bounded() -> None:
    big = failed("a", "failed", "r", "\u20ac" * 200_000)
    for message in (failure([big, big])["message"], drivers([big], {"a": {}})["a"]["message"]):
        assert message.startswith(("a: failed: \u20ac", "\u20ac"))
        assert len(message.encode()) <= 256 << 10


def test_a_line_tells_name_status_and_message() -> None:
    assert lines_of([failed("a", "failed", None, "x"), failed("b", "rejected", None, "y")]) == (
        "a: failed: x\nb: rejected: y"
    )


def test_every_driver_is_in_the_table_in_driver_order() -> None:
    good = outcome({"status": "ok", "reason": "success"}, name="02", adjusting=True)
    good.ending.seconds = 1.23456
    bad = failed("04", "rejected", "r", "no")
    others = {
        name: {"status": status}
        for name, status in (
            ("01", "skipped"),
            ("02", "not-started"),
            ("03", "not-started"),
            ("04", "not-started"),
        )
    }
    before = copy.deepcopy(others)
    table = drivers([good, bad], others)
    assert list(table) == ["01", "02", "03", "04"]
    assert table["01"] == {"status": "skipped"}
    assert table["02"] == {"status": "ok", "reason": "success", "seconds": 1.235}
    assert table["03"] == {"status": "not-started"}
    assert (table["04"]["status"], table["04"]["reason"]) == ("rejected", "r")
    assert others == before


def test_drivers_of_an_aggregator_inside_stand_under_its_name() -> None:
    inner = {"x": {"status": "ok"}}
    table = drivers([outcome({"status": "ok", "drivers": inner}, name="a")], {"a": {}})
    assert table["a"]["drivers"] == inner


def test_other_keys_of_the_replies_merge_and_their_words_about_themselves_do_not() -> None:
    own = {
        "status": "ok",
        "reason": "r",
        "message": "m",
        "error": "e",
        "class": "c",
        "progress": 9,
        "drivers": {},
    }
    outcomes = [
        outcome({**own, "state": "old", "monitoring": {"a": 1, "b": 1}}, name="a"),
        outcome(None, name="b"),
        outcome({**own, "state": "new", "monitoring": {"b": 2}, "application": {"x": 1}}, name="c"),
    ]
    before = copy.deepcopy([each.reply for each in outcomes])
    assert what_they_said(outcomes) == {
        "state": "new",
        "monitoring": {"a": 1, "b": 2},
        "application": {"x": 1},
    }
    assert [each.reply for each in outcomes] == before


replies = st.none() | st.dictionaries(
    st.sampled_from(["status", "reason", "message", "error", "drivers", "state", "application"]),
    st.sampled_from(["ok", "rejected", "aborted", ""]) | values,
    max_size=4,
)


@given(st.lists(st.tuples(replies, endings, st.booleans()), min_size=1, max_size=4))
def test_whatever_the_replies_hold_there_is_an_answer_and_they_stay_as_they_are(
    facts: list[tuple[Reply, Ending, bool]],
) -> None:
    before = repr([reply for reply, _, _ in facts])
    outcomes = [
        outcome(reply, end, name=f"driver{index}", adjusting=adjusting)
        for index, (reply, end, adjusting) in enumerate(facts)
    ]
    failures = [each for each in outcomes if not each.ok]
    table = drivers(outcomes, {each.name: {} for each in outcomes})
    final = {**what_they_said(outcomes), **(failure(failures) if failures else {}), "drivers": table}
    assert encode(final).isascii()
    assert repr([reply for reply, _, _ in facts]) == before
    assert list(table) == [each.name for each in outcomes]
    for each in outcomes:
        entry = table[each.name]
        assert isinstance(each.status, str)
        assert each.status
        assert isinstance(each.reason, str)
        assert each.reason
        assert (each.status == "ok") == each.ok == ("message" not in entry)
        assert repr(entry.get("drivers")) == repr(each.reply.get("drivers"))
    if failures:
        assert (final["status"], final["reason"]) in {(each.status, each.reason) for each in failures}
        assert final["message"].count("\n") >= len(failures) - 1
