"""SPEC 4, 7.22-7.29, 13: the verdict on one driver, and the final object for all of them."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servo_agg.protocol.messages import Reply as ReplyMessage
from servo_agg.protocol.messages import encode
from servo_agg.protocol.outcome import (
    Outcome,
    RunFacts,
    driver_table,
    failure_lines,
    failure_result,
    merge_replies,
)
from tests.support.outputs import values

if TYPE_CHECKING:
    from servo_agg.protocol.outcome import Failure

Object = dict[str, Any]
Reply = Optional[Object]


def ending(
    code: int | None = 0,
    signal: str | None = None,
    failure: Failure | None = None,
    failure_text: str = "",
    stopped_by: str | None = None,
    stderr: str = "",
) -> RunFacts:
    made = RunFacts()
    made.exit_code = None if signal is not None else code
    made.killed_by = signal
    made.failure = failure
    made.failure_text = failure_text
    made.stop_cause = stopped_by
    made.stderr = stderr
    return made


def outcome(
    reply: Reply, end: RunFacts | None = None, *, name: str = "web", adjusting: bool = True
) -> Outcome:
    message = None if reply is None else ReplyMessage.from_body(reply)
    return Outcome(name, message, end or ending(), adjusting=adjusting)


# One driver (SPEC 4.15-4.19, 13.5).


OTHER = {"reason": "success", "message": "all well"}
NO_STATUS = "its reply has no status"
SILENT = ending(0, failure="timeout", failure_text="was silent for 9.0 s")
MALFORMED = ending(signal="SIGTERM", failure="malformed", failure_text="its output is malformed")
HURT = ending(1, stderr="it hurts")
BLANK: list[Any] = [None, "", " \n", []]


def failed_reply(**more: Any) -> Object:
    return {"status": "failed", **more}


@pytest.mark.parametrize(
    ("reply", "end", "verdict", "message"),
    [
        # No reply.
        (None, ending(0), "failed: no-reply", "gave no reply"),
        (None, ending(3), "failed: exit-status", "exited with status 3, gave no reply"),
        (None, ending(signal="SIGSEGV"), "failed: signal", "was killed by SIGSEGV, gave no reply"),
        # The reply says ok, the end does not.
        ({"status": "ok"}, ending(3), "failed: exit-status", "replied ok but exited with status 3"),
        (
            {"status": "ok", **OTHER},
            ending(1),
            "failed: exit-status",
            "all well (replied ok but exited with status 1)",
        ),
        (
            {"status": "ok"},
            ending(signal="SIGKILL"),
            "failed: signal",
            "replied ok but was killed by SIGKILL",
        ),
        # The reply says that it failed.
        (failed_reply(), ending(0), "failed: unknown", "failed without a message"),
        (failed_reply(), ending(3), "failed: exit-status", "exited with status 3"),
        (failed_reply(), ending(signal="SIGHUP"), "failed: signal", "was killed by SIGHUP"),
        (failed_reply(reason="unstable", message="went down"), ending(0), "failed: unstable", "went down"),
        (
            {"status": "rejected", "reason": "r", "message": "no"},
            ending(1),
            "rejected: r",
            "no (exited with status 1)",
        ),
        (
            {"status": "aborted", "reason": "r"},
            ending(signal="SIGTERM"),
            "aborted: r",
            "was killed by SIGTERM",
        ),
        (
            {"status": "transient-failure"},
            ending(0),
            "transient-failure: unknown",
            "failed without a message",
        ),
        # A reason or a message that is not a text, or is blank.
        *(
            (failed_reply(reason=reason, message="m"), ending(0), "failed: unknown", "m")
            for reason in (None, ["a"], 7, "", "  ")
        ),
        (
            failed_reply(reason="  ", message="m"),
            ending(1),
            "failed: exit-status",
            "m (exited with status 1)",
        ),
        *(
            (failed_reply(message=message), ending(0), "failed: unknown", "failed without a message")
            for message in BLANK
        ),
        (failed_reply(message=["one", 2]), ending(0), "failed: unknown", "one; 2"),
        (failed_reply(message={"text": "no"}), ending(0), "failed: unknown", '{"text":"no"}'),
        (failed_reply(message="one\ntwo\n"), ending(0), "failed: unknown", "one\ntwo"),
        # No status, or one that is not a text, is blank, or differs from ok only in case.
        ({}, ending(0), "failed: unknown", NO_STATUS),
        (
            {"reason": "unstable", "message": "it swings"},
            ending(0),
            "failed: unstable",
            f"it swings ({NO_STATUS})",
        ),
        (
            {"error": "E", "message": "m"},
            ending(3),
            "failed: exit-status",
            f"m (exited with status 3, {NO_STATUS})",
        ),
        ({"error": "boom"}, ending(1), "failed: exit-status", f"boom (exited with status 1, {NO_STATUS})"),
        ({"error": {"code": 404}}, ending(0), "failed: unknown", f'{{"code":404}} ({NO_STATUS})'),
        (
            {"status": 7},
            ending(3),
            "failed: exit-status",
            'exited with status 3, the "status" in its reply must be a string, got a number',
        ),
        *(
            (
                {"status": status},
                ending(0),
                "failed: unknown",
                f'the "status" in its reply must be a string, got {kind}',
            )
            for status, kind in (
                (None, "null"),
                (0, "a number"),
                (True, "a boolean"),
                (["ok"], "a list"),
                ({}, "an object"),
            )
        ),
        *(
            (
                {"status": status},
                ending(0),
                "failed: unknown",
                f'the "status" in its reply must be "ok", got {status!r}',
            )
            for status in ("", " ", "OK", " ok")
        ),
        # What the supervisor found.
        (None, SILENT, "failed: timeout", "was silent for 9.0 s"),
        ({"status": "ok", "reason": "success"}, SILENT, "failed: timeout", "was silent for 9.0 s"),
        ({"status": "rejected", "message": "half"}, SILENT, "failed: timeout", "half (was silent for 9.0 s)"),
        ({"status": "ok"}, MALFORMED, "failed: malformed", "its output is malformed"),
        # What it wrote to stderr.
        (None, HURT, "failed: exit-status", "exited with status 1, gave no reply; stderr: it hurts"),
        (failed_reply(message="no"), ending(0, stderr="it hurts"), "failed: unknown", "no; stderr: it hurts"),
        # It was stopped for a signal that we got. SPEC 13.5 has a closed list of reasons.
        (
            None,
            ending(signal="SIGTERM", stopped_by="SIGTERM"),
            "failed: signal",
            "was stopped, gave no reply",
        ),
        (None, ending(143, stopped_by="SIGTERM"), "failed: exit-status", "was stopped, gave no reply"),
    ],
)
def test_a_driver_failed_on_an_adjust_with_this_message(
    reply: Reply, end: RunFacts, verdict: str, message: str
) -> None:
    found = outcome(reply, end)
    assert (found.ok, f"{found.status}: {found.reason}", found.message) == (False, verdict, message)


def test_a_driver_that_says_ok_and_exits_0_has_succeeded() -> None:
    found = outcome(
        {"status": "ok", "reason": "not due", "message": "as it was"}, ending(0, stderr="warning")
    )
    assert (found.ok, found.status, found.reason, found.message) == (True, "ok", "not due", "as it was")
    assert not found.stopped_for_other


@pytest.mark.parametrize(
    ("reply", "end", "status", "reason"),
    [
        ({"application": {}}, ending(0), "ok", "success"),
        ({"application": {}, "status": "ok"}, ending(0), "ok", "success"),
        ({}, ending(0), "ok", "success"),
        ({"application": {}}, ending(2), "failed", "exit-status"),
        ({"application": {}, "status": "ok"}, ending(2), "failed", "exit-status"),
        ({"application": {}}, ending(signal="SIGKILL"), "failed", "signal"),
        ({"application": {}, "status": "failed"}, ending(0), "failed", "unknown"),
        ({"application": {}, "status": None}, ending(0), "failed", "unknown"),
        ({"application": {}, "status": 5}, ending(0), "failed", "unknown"),
        ({"status": "rejected", "reason": "r"}, ending(0), "rejected", "r"),
        (None, ending(0), "failed", "no-reply"),
        ({"application": {}}, SILENT, "failed", "timeout"),
    ],
)
def test_on_a_query_or_info_a_reply_needs_no_status(
    reply: Reply, end: RunFacts, status: str, reason: str
) -> None:
    found = outcome(reply, end, adjusting=False)
    assert (found.ok, found.status, found.reason) == (status == "ok", status, reason)


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
    *(
        ending(0, failure=failure, failure_text="our words")
        for failure in ("timeout", "malformed", "unkillable")
    ),
    ending(signal="SIGKILL", failure="timeout", failure_text="our words"),
    ending(None, failure="cannot-start", failure_text="our words"),
]


@pytest.mark.parametrize("adjusting", [True, False], ids=["adjust", "query"])
@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: f"{end.exit_code}-{end.killed_by}-{end.failure}")
def test_the_verdict_on_any_reply_is_that_of_the_contract(end: RunFacts, *, adjusting: bool) -> None:
    for reply in REPLIES:
        found = outcome(reply, end, adjusting=adjusting)
        said = None if reply is None else reply.get("status", None if adjusting else "ok")
        assert found.ok == (said == "ok" and end.exit_code == 0 and end.failure is None), reply
        assert isinstance(found.status, str), reply
        assert isinstance(found.reason, str), reply
        assert isinstance(found.message, str), reply
        assert found.reason, reply
        if found.ok:
            assert found.status == "ok", reply
            continue
        its_own = isinstance(said, str) and said not in ("ok", "") and end.failure is None
        assert found.status == (said if its_own else "failed"), reply
        if end.failure is not None:
            assert (found.reason, end.failure_text in found.message) == (end.failure, True), reply
            continue
        if end.exit_code:
            assert f"exited with status {end.exit_code}" in found.message, reply
        if end.killed_by:
            assert f"was killed by {end.killed_by}" in found.message, reply
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
def test_a_driver_stopped_for_another_one_has_no_failure_of_its_own(end: RunFacts) -> None:
    """SPEC 6.8: those running may finish for 2 s more, then they are stopped (no failure of theirs)."""
    end = copy.copy(end)
    end.stop_cause = "failure"
    found = outcome(None, end, adjusting=False)
    assert not found.ok
    assert found.stopped_for_other
    assert found.status != "ok"


def test_a_malformed_driver_has_failed_though_it_was_stopped_for_another_one() -> None:
    end = ending(
        signal="SIGTERM", failure="malformed", failure_text="its output is malformed", stopped_by="failure"
    )
    assert not outcome(None, end, adjusting=False).stopped_for_other


@pytest.mark.parametrize("adjusting", [True, False], ids=["adjust", "query"])
def test_a_driver_that_succeeds_while_it_is_stopped_has_succeeded(*, adjusting: bool) -> None:
    """SPEC 4.15: ok in the reply and exit status 0 are a success."""
    end = ending(0, stopped_by="SIGTERM")
    found = outcome({"status": "ok", "reason": "success"}, end, adjusting=adjusting)
    assert (found.ok, found.status, found.reason) == (True, "ok", "success")


def test_a_success_can_be_turned_into_a_failure() -> None:
    found = outcome({"application": []}, adjusting=False)
    assert found.ok
    found.fail("malformed", "application must be an object, got a list")
    assert (found.ok, found.status, found.reason) == (False, "failed", "malformed")
    assert found.message == "application must be an object, got a list"
    assert not found.stopped_for_other


# All drivers (SPEC 7.22-7.29).


def failed(name: str, status: str, reason: str | None = None, message: str = "m") -> Outcome:
    return outcome({"status": status, "reason": reason, "message": message}, name=name)


@pytest.mark.parametrize(
    ("failures", "status", "reason"),
    [
        ([("a", "failed", "r1")], "failed", "r1"),
        ([("a", "failed", "r1"), ("b", "failed", "r2")], "failed", "r1"),
        ([("a", "failed", "r1"), ("b", "aborted", "r2")], "aborted", "r2"),
        ([("a", "failed", "r1"), ("b", "aborted", "r2"), ("c", "rejected", "r3")], "rejected", "r3"),
        ([("a", "rejected", "r1"), ("b", "aborted", "r2"), ("c", "rejected", "r3")], "rejected", "r1"),
        ([("a", "transient-failure", "r1"), ("b", "failed", "r2")], "transient-failure", "r1"),
        ([("a", "failed", "r1"), ("b", "rejected", None)], "rejected", "unknown"),
    ],
)
def test_of_several_failures_one_decides(
    failures: list[tuple[str, str, str | None]], status: str, reason: str
) -> None:
    final = failure_result([failed(*facts) for facts in failures])
    assert (final["status"], final["reason"]) == (status, reason)
    assert final["message"].split("\n") == [f"{name}: {said}: m" for name, said, _ in failures]
    assert "progress" not in final


statuses = st.sampled_from(["failed", "aborted", "rejected", "transient-failure", "ok", "", None, 1])
endings = st.sampled_from(ENDINGS)


@given(st.lists(st.tuples(statuses, st.none() | st.text(max_size=3), endings), min_size=1, max_size=5))
def test_a_final_failure_has_a_reason_and_a_status_other_than_ok(
    facts: list[tuple[Any, Any, RunFacts]],
) -> None:
    outcomes = [
        outcome({"status": status, "reason": reason}, end, name=f"driver{index}")
        for index, (status, reason, end) in enumerate(facts)
    ]
    failures = [each for each in outcomes if not each.ok]
    if not failures:
        return
    final = failure_result(failures)
    ranked = [each for wanted in ("rejected", "aborted") for each in failures if each.status == wanted]
    decisive = [*ranked, *failures][0]
    assert (final["status"], final["reason"]) == (decisive.status, decisive.reason)
    assert final["status"] != "ok"
    assert final["reason"]
    for each in failures:
        assert f"{each.name}: {each.status}: {each.message}" in final["message"]


def test_the_message_of_a_final_failure_is_bounded() -> None:
    big = failed("a", "failed", "r", "\u20ac" * 200_000)
    for message in (failure_result([big, big])["message"], driver_table([big], {"a": {}})["a"]["message"]):
        assert message.startswith(("a: failed: \u20ac", "\u20ac"))
        assert len(message.encode()) <= 256 << 10


def test_a_line_has_name_status_and_message() -> None:
    assert failure_lines([failed("a", "failed", None, "x"), failed("b", "rejected", None, "y")]) == (
        "a: failed: x\nb: rejected: y"
    )


def test_every_driver_is_in_the_table_in_driver_order() -> None:
    good = outcome({"status": "ok", "reason": "success"}, name="02", adjusting=True)
    good.facts.seconds = 1.23456
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
    table = driver_table([good, bad], others)
    assert list(table) == ["01", "02", "03", "04"]
    assert table["01"] == {"status": "skipped"}
    assert table["02"] == {"status": "ok", "reason": "success", "seconds": 1.235}
    assert table["03"] == {"status": "not-started"}
    assert (table["04"]["status"], table["04"]["reason"]) == ("rejected", "r")
    assert others == before


def test_drivers_of_an_inner_aggregator_are_listed_under_its_name() -> None:
    inner = {"x": {"status": "ok"}}
    table = driver_table([outcome({"status": "ok", "drivers": inner}, name="a")], {"a": {}})
    assert table["a"]["drivers"] == inner


def test_other_keys_of_the_replies_merge_and_their_status_does_not() -> None:
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
    before = copy.deepcopy([each.body for each in outcomes])
    assert merge_replies(outcomes) == {
        "state": "new",
        "monitoring": {"a": 1, "b": 2},
        "application": {"x": 1},
    }
    assert [each.body for each in outcomes] == before


replies = st.none() | st.dictionaries(
    st.sampled_from(["status", "reason", "message", "error", "drivers", "state", "application"]),
    st.sampled_from(["ok", "rejected", "aborted", ""]) | values,
    max_size=4,
)


@given(st.lists(st.tuples(replies, endings, st.booleans()), min_size=1, max_size=4))
def test_any_replies_give_a_result_and_are_not_changed(facts: list[tuple[Reply, RunFacts, bool]]) -> None:
    before = repr([reply for reply, _, _ in facts])
    outcomes = [
        outcome(reply, end, name=f"driver{index}", adjusting=adjusting)
        for index, (reply, end, adjusting) in enumerate(facts)
    ]
    failures = [each for each in outcomes if not each.ok]
    table = driver_table(outcomes, {each.name: {} for each in outcomes})
    final = {**merge_replies(outcomes), **(failure_result(failures) if failures else {}), "drivers": table}
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
        assert repr(entry.get("drivers")) == repr(each.body.get("drivers"))
    if failures:
        assert (final["status"], final["reason"]) in {(each.status, each.reason) for each in failures}
        assert final["message"].count("\n") >= len(failures) - 1
