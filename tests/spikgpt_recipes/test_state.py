"""The saved state of a build."""

from __future__ import annotations

from pathlib import Path

from spikgpt_recipes.state import FILE, BuildState, hash_inputs


def test_the_result_of_a_step_is_kept_for_the_same_inputs_only(tmp_path: Path) -> None:
    state = BuildState(tmp_path / "work")
    state.save("train", hash_inputs("a", {"b": 1, "c": 2}), [1])
    again = BuildState(tmp_path / "work")
    assert again.result("train", hash_inputs("a", {"c": 2, "b": 1})) == [1]
    assert again.result("train", hash_inputs("a", {"b": 1})) is None
    assert again.result("card", hash_inputs("a", {"c": 2, "b": 1})) is None


def test_files_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".trained.x1").mkdir()
    (tmp_path / ".trained.x1" / "config.json").write_text("{")
    (tmp_path / ".half").write_text("")
    (tmp_path / "trained").mkdir()
    (tmp_path / FILE).write_text('{"train": ')
    state = BuildState(tmp_path)
    assert state.result("train", "key") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "trained"]
