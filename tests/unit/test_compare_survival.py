"""The fate of each name, by what was seen of it before and after."""

from __future__ import annotations

from sojourn.compare.survival import Fate, Verdict, judge


def seen(digest: str, kind: str = "list", **more: str) -> dict[str, str]:
    return {"digest": digest, "kind": kind, "why": "", "alias": "", **more}


def fates(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]], *said: tuple[str, str]) -> list[Fate]:
    return judge(before, after, said)


def test_a_name_is_kept_lost_in_silence_or_changed() -> None:
    before = {"same": seen("1"), "gone": seen("2"), "other": seen("3"), "retyped": seen("4")}
    after = {"same": seen("1"), "other": seen("33"), "retyped": seen("44", "tuple")}
    assert fates(before, after) == [
        Fate("same", Verdict.KEPT, "list"),
        Fate("gone", Verdict.SILENT, "list", "it is not there"),
        Fate("other", Verdict.CHANGED, "list", "it has another value"),
        Fate("retyped", Verdict.CHANGED, "list", "it is tuple"),
    ]


def test_what_was_said_counts_for_the_whole_name_and_only_if_something_is_otherwise() -> None:
    before = {"model": seen("1"), "fine": seen("2")}
    said = (("model.lock", "model.lock: a lock that is held"), ("fine", "a false alarm"))
    assert fates(before, {"fine": seen("2")}, *said) == [
        Fate("model", Verdict.TOLD, "list", "a lock that is held"),
        Fate("fine", Verdict.KEPT, "list"),
    ]


def test_an_alias_that_is_no_more_is_a_change_unless_the_other_name_is_lost() -> None:
    before = {"a": seen("1"), "b": seen("1", alias="a")}
    (_, apart) = fates(before, {"a": seen("1"), "b": seen("1")})
    assert apart == Fate("b", Verdict.CHANGED, "list", "it is no longer the same object as a")
    (_, alone) = fates(before, {"b": seen("1")})
    assert alone.verdict is Verdict.KEPT


def test_a_function_that_has_lost_the_notebook_is_changed() -> None:
    before = {"f": seen("1", "function", globals="the notebook's")}
    (fate,) = fates(before, {"f": seen("1", "function")})
    assert fate.verdict is Verdict.CHANGED


def test_what_could_not_be_seen_is_not_examined() -> None:
    (fate,) = fates({"clock": seen("", why="it looks different each time")}, {})
    assert fate == Fate("clock", Verdict.UNEXAMINED, "list", "it looks different each time")
