"""What a recipe would do, before it does it."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from anybatch.cli import main
from anybatch.cli.drawing import preview_text
from anybatch.data.images.source import ImageSource
from anybatch.data.prepare import prepare
from anybatch.errors import InputError
from anybatch.recipes import RECIPES, change, find_recipe, train_recipe
from anybatch.recipes.phases import StreamedExamples
from anybatch.recipes.preview import preview_recipe, sampled_rates
from anybatch.recipes.recipe import CorpusSettings

TEXT = " ".join("one two three four five six seven eight nine ten." for _ in range(8))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("text") / "shards"
    prepare(lambda: [TEXT for n in range(80)], folder, vocabulary_size=300)
    return [
        f"data.path={folder}", "reference.num_examples=400", "reference.warmup_ratio=0.1", "model.hidden_size=32",
        "model.num_layers=1", "phases.0.sequence_length=16", "phases.0.batch_size=30", "phases.1.sequence_length=32",
        "phases.1.batch_size=20",
    ]  # fmt: skip


def test_a_preview_shows_phases_rates_memory_and_time(settings: list[str]) -> None:
    found = preview_recipe(change(find_recipe("bert-mixed"), settings), num_ranks=4)
    json.dumps(found)
    first, second = found["phases"]
    assert (first["num_steps"], second["num_steps"]) == (12, 2)
    assert (first["micro_batch_size"], second["micro_batch_size"]) == (8, 5)
    assert second["carry_over"] == "reset_step"
    assert found["num_steps"] == 14
    assert found["state_bytes"]["parameters"] == 4 * found["parameters"]
    # LAMB keeps two moments, and a count a tensor.
    assert 8 * found["parameters"] < found["state_bytes"]["optimizer"] < 8.1 * found["parameters"]
    assert found["memory_bytes_a_rank"] > 16 * found["parameters"]
    assert all(phase["activation_bytes"] > 0 and 0 < phase["step_s"] < 60 for phase in found["phases"])
    assert math.isclose(found["time_s"], sum(phase["time_s"] for phase in found["phases"]))
    assert max(rate["lr"] for rate in found["learning_rates"]) == pytest.approx(first["lr"])
    text = preview_text(found)
    assert "reset_step" in text
    assert "learning rate over 14 steps" in text


def test_a_part_of_a_long_micro_batch_stands_for_it(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = change(find_recipe("bert-mixed"), [*settings, "engine.micro_batch_size=16"])
    monkeypatch.setattr("anybatch.engine.preview._LONG_ENOUGH_S", 1e9)
    whole = preview_recipe(recipe)
    sizes: list[int] = []
    read = StreamedExamples.read

    def noted(self: StreamedExamples, start: int, count: int) -> Any:
        sizes.append(count)
        return read(self, start, count)

    monkeypatch.setattr("anybatch.engine.preview._LONG_ENOUGH_S", 1e-9)
    monkeypatch.setattr(StreamedExamples, "read", noted)
    part = preview_recipe(recipe)
    assert sizes[1:] == [4, 4], "after what is held out"
    for mine, all_of_it in zip(part["phases"], whole["phases"], strict=True):
        assert mine["micro_batch_size"] == all_of_it["micro_batch_size"]
        assert mine["num_steps"] == all_of_it["num_steps"]
        assert mine["activation_bytes"] == pytest.approx(all_of_it["activation_bytes"], rel=0.2)


def test_images_are_read_before_the_steps_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = change(find_recipe("digits-lenet"), ["engine.micro_batch_size=8"])
    sizes: list[int] = []
    batch = ImageSource.batch

    def noted(self: ImageSource, epochs: Any, examples: Any) -> Any:
        sizes.append(len(examples))
        return batch(self, epochs, examples)

    monkeypatch.setattr("anybatch.engine.preview._LONG_ENOUGH_S", 1e9)
    monkeypatch.setattr(ImageSource, "batch", noted)
    assert preview_recipe(recipe)["phases"][0]["activation_bytes"] > 0
    assert sizes == [2, 8]


def test_a_dry_run_writes_nothing(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assignments = [f"--set={setting}" for setting in settings]
    monkeypatch.setattr(sys, "argv", ["anybatch", "train", "bert-mixed", "--dry-run", "--json", *assignments])
    main()
    assert json.loads(capsys.readouterr().out)["num_examples"] == 12 * 30 + 2 * 20
    assert not any(tmp_path.iterdir())


def test_text_stands_in_for_what_a_large_recipe_needs(tmp_path: Path) -> None:
    small = ["model.hidden_size=32", "model.num_layers=1", "model.num_heads=2"]
    recipe = change(find_recipe("bert-large-paper"), small)
    found = preview_recipe(recipe)
    (phase,) = found["phases"]
    assert (phase["batch_size"], phase["num_steps"], phase["num_examples"]) == (32_768, 15_625, 512_000_000)
    assert found["parameters"] > 30_522 * 32
    assert "under a vocabulary of 30,522, for data.path is not set" in preview_text(found)
    with pytest.raises(InputError, match="batch_size = 32768 is larger than the data"):
        train_recipe(recipe, tmp_path / "run")
    causal = preview_recipe(change(find_recipe("gpt2-small"), small))
    assert causal["num_steps"] == 100_000
    assert causal["parameters"] > 50_257 * 32


def test_every_recipe_on_text_can_be_looked_at_without_data() -> None:
    for name, make in RECIPES.items():
        recipe = make()
        if isinstance(recipe.data, CorpusSettings):
            largest = max(phase.batch_size for phase in recipe.phases)
            # Python's text has some four hundred sequences of 1,024 tokens.
            assert largest <= 256 or recipe.data.source_vocabulary, name


def test_rates_are_sampled_over_all_phases() -> None:
    from anybatch.engine import Phase

    phases = [Phase(None, 1, 100, 1.0, 0, lambda t: 1.0), Phase(None, 1, 300, 0.5, 0, lambda t: 1 - t / 300)]  # type: ignore[arg-type]
    rates = sampled_rates(phases, 40)
    assert len(rates) == 40
    steps = [rate["step"] for rate in rates]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (1, 400)
    assert sum(rate["lr"] == 1.0 for rate in rates) == pytest.approx(10, abs=1)
