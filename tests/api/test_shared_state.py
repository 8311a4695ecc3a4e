from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from planloom.api.shared_state import SharedState, StateEntry
from planloom.api.state_manager import StateManager
from planloom.errors import ConfigError, OutputError


def test_a_value_that_was_set_is_there_with_who_set_it_and_when() -> None:
    state = SharedState()

    state.set("total", 7, source="adder", metadata={"unit": "EUR"})

    entry = state.get_entry("total")
    assert entry is not None
    assert (state.get("total"), entry.source, entry.metadata) == (7, "adder", {"unit": "EUR"})
    assert entry.timestamp > 1_700_000_000


def test_none_that_was_set_is_a_value_and_not_a_missing_key() -> None:
    state = SharedState({"answer": None})

    assert state.has("answer")
    assert state.get("answer", "nothing") is None
    assert state.get("question", "nothing") == "nothing"


def test_the_history_keeps_every_value_of_a_key_in_order() -> None:
    state = SharedState()

    state.set("a", 1, "x").set("b", 2, "y").set("a", 3, "z").delete("a")

    assert [(entry.value, entry.source) for entry in state.get_history("a")] == [(1, "x"), (3, "z")]
    assert [entry.key for entry in state.get_history()] == ["a", "b", "a"]
    assert state.get_all() == {"b": 2}


def test_the_history_keeps_no_more_than_it_is_told_to() -> None:
    state = SharedState(max_history=2)

    for number in range(5):
        state.set("n", number)

    assert [entry.value for entry in state.get_history()] == [3, 4]


def test_delete_says_whether_there_was_something_to_delete() -> None:
    state = SharedState({"a": 1})

    assert (state.delete("a"), state.delete("a")) == (True, False)


def test_clear_forgets_values_and_history() -> None:
    state = SharedState({"a": 1})

    state.clear()

    assert (len(state), state.get_history()) == (0, [])


def test_what_is_handed_out_can_be_changed_without_changing_the_state() -> None:
    given = {"list": [1]}
    state = SharedState({"value": given})

    given["list"].append(2)
    state.get("value")["list"].append(3)
    state.get_all()["value"]["list"].append(4)
    state.to_dict()["value"]["value"]["list"].append(5)

    assert state.get("value") == {"list": [1]}
    assert state.get_history("value")[0].value == {"list": [1]}


def test_a_value_that_is_no_json_is_refused_with_its_key() -> None:
    with pytest.raises(OutputError, match=r"state\['thing'\]"):
        SharedState().set("thing", object())


@pytest.mark.parametrize("key", ["", 3, None])
def test_a_key_that_is_no_text_is_refused(key: str) -> None:
    with pytest.raises(ConfigError):
        SharedState().set(key, 1)


def test_a_state_shows_its_keys_and_never_its_values() -> None:
    state = SharedState({"password": "hunter2"})

    assert "hunter2" not in repr(state)
    assert "password" in repr(state)


def test_many_threads_setting_at_once_lose_nothing() -> None:
    state = SharedState()

    def work(name: str) -> None:
        for number in range(200):
            state.set(f"{name}-{number}", number, name)

    threads = [Thread(target=work, args=(f"t{one}",)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(state) == len(state.get_history()) == 800


# --- kept states --------------------------------------------------------------------------------


def test_a_restored_snapshot_has_the_values_and_the_history_of_its_moment() -> None:
    state = SharedState({"a": 1})
    manager = StateManager(state)
    name = manager.snapshot()

    state.set("a", 2).set("b", 3)
    manager.restore(name)

    assert state.get_all() == {"a": 1}
    assert [entry.value for entry in state.get_history()] == [1]


def test_snapshots_have_names_of_their_own_or_the_ones_they_are_given() -> None:
    manager = StateManager()

    assert [manager.snapshot(), manager.snapshot("mine"), manager.snapshot()] == ["snapshot-1", "mine", "snapshot-3"]
    assert manager.snapshots() == ["snapshot-1", "mine", "snapshot-3"]


def test_an_unknown_snapshot_is_an_error_that_names_the_nearest() -> None:
    manager = StateManager()
    manager.snapshot("before")

    with pytest.raises(ConfigError, match="did you mean 'before'"):
        manager.restore("befor")


def test_an_exported_state_read_back_is_the_same_state(tmp_path: Path) -> None:
    state = SharedState({"a": [1, {"b": None}]})
    state.set("a", "now", source="node", metadata={"n": 1}).set("umlaut", "ä")
    file = tmp_path / "state.json"

    StateManager(state).export_json(file)
    other = StateManager().import_json(file)

    assert other.to_dict() == state.to_dict()
    assert other.get_history() == state.get_history()
    assert json.loads(file.read_text(encoding="utf-8"))["planloom_state"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_an_exported_text_can_be_read_back_without_a_file() -> None:
    text = StateManager(SharedState({"a": 1})).export_json()

    assert StateManager().import_json(text).get_all() == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"planloom_state": 2, "entries": []}',
        '{"entries": []}',
        '{"planloom_state": 1, "entries": [{"key": "a"}]}',
        '{"planloom_state": 1, "entries": [{"key": "a", "value": NaN, "timestamp": 1.0}]}',
        '{"planloom_state": 1',
        "{" * 100_000,
    ],
)
def test_what_is_no_exported_state_is_refused_and_changes_nothing(text: str) -> None:
    manager = StateManager(SharedState({"kept": 1}))

    with pytest.raises(ConfigError):
        manager.import_json(text)

    assert manager.state.get_all() == {"kept": 1}


def test_a_file_that_is_not_there_or_cannot_be_written_is_told_with_its_path(tmp_path: Path) -> None:
    manager = StateManager()

    with pytest.raises(ConfigError, match="missing"):
        manager.import_json(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="folder"):
        manager.export_json(tmp_path / "folder" / "state.json")


def test_an_entry_that_counts_less_goes_into_the_history_only() -> None:
    state = SharedState({"a": 1})

    state.put(StateEntry("a", 2, "late", 3.0), is_current=False)

    assert state.get("a") == 1
    assert [entry.value for entry in state.get_history("a")] == [1, 2]


def test_what_is_handed_out_with_its_source_or_as_history_is_a_copy_too() -> None:
    state = SharedState({"a": [1]}).set("b", 1, metadata={"m": [1]})

    for entry in (state.get_entry("a"), *state.get_history("a"), *state.entries()):
        assert entry is not None
        if entry.key == "a":
            entry.value.append(2)
        if entry.metadata is not None:
            entry.metadata["m"].append(2)

    assert state.get("a") == [1]
    assert [entry.value for entry in state.get_history("a")] == [[1]]
    told = state.get_entry("b")
    assert told is not None
    assert told.metadata == {"m": [1]}


@pytest.mark.parametrize("arguments", [{"values": [1]}, {"max_history": "5"}, {"max_history": True}])
def test_a_state_that_cannot_be_is_refused(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        SharedState(**arguments)


def test_a_key_that_nobody_can_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="no key"):
        SharedState().set("\ud800", 1)


@pytest.mark.parametrize(
    "entry", [{"key": ""}, {"key": "\ud800"}, {"timestamp": float("nan")}, {"timestamp": float("inf")}]
)
def test_an_exported_state_with_what_no_state_can_have_is_refused_whole(entry: dict[str, Any]) -> None:
    whole = {"key": "a", "value": 1, "timestamp": 1.0} | entry
    manager = StateManager(SharedState({"kept": 1}))

    with pytest.raises(ConfigError):
        manager.import_json(json.dumps({"planloom_state": 1, "entries": [whole], "history": []}))

    assert manager.state.get_all() == {"kept": 1}
