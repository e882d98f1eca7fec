"""What the page says must be true for every outcome."""

from collections.abc import Callable
from pathlib import Path

import pytest

from anybatch.comparison.families import build, compare
from anybatch.comparison.findings import Findings, find
from anybatch.comparison.rows import Reference, Row

Make = Callable[..., Row]


def say(runs: list[Row]) -> tuple[str, str]:
    findings: Findings = find(compare(runs))
    plain = findings.headline.replace("\u202f", " "), " | ".join(findings.points).replace("\u202f", " ")
    assert all("nan" not in text.lower() and "None" not in text for text in plain)
    assert all(point.endswith(".") and ".." not in point for point in findings.points)
    return plain


def runs_of(record: Make, optimizer: str, losses: dict[int, float | None], **changes: object) -> list[Row]:
    return [record(optimizer, batch, loss, **changes) for batch, loss in losses.items()]


def test_largest_factor_within_the_bound_is_named_with_its_gap(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: 4.0, 32: 4.1, 64: 4.19, 256: 4.8}))
    assert headline == (
        "LAMB's held-out loss stayed within 5 % of its own batch-8 run up to ×8 (batch 64, +4.8 %), with nothing tuned "
        "there."
    )
    assert "24,000 examples each: 4.00 at the reference, batch 8; 4.10, gap +2.5 %, at ×4 (batch 32)" in points
    assert "4.80, gap +20 %, at ×32 (batch 256)" in points


def test_the_bound_itself_holds_and_just_beyond_does_not(record: Make) -> None:
    (series,) = build(runs_of(record, "lamb", {8: 4.0, 32: 4.2, 64: 4.201}))
    assert [cell.held for cell in series.cells] == [True, True, False]
    assert "+5.03 %" in say(runs_of(record, "lamb", {8: 4.0, 64: 4.2012}))[0]


def test_beyond_the_largest_that_held_the_cause_is_left_open(record: Make) -> None:
    _, points = say(runs_of(record, "lamb", {8: 4.0, 64: 4.1, 256: 4.8, 1024: 6.0}))
    assert "LAMB does not hold at ×32 (batch 256), +20 %: either this is past the critical batch" in points
    assert "these runs do not show which" in points
    assert "too few steps are left:" not in points


def test_where_nothing_but_frequencies_is_learned_the_steps_have_run_out(record: Make) -> None:
    _, points = say(runs_of(record, "lamb", {8: 4.0, 64: 4.1, 256: 4.8, 1024: 6.0}, context_free_loss=5.9))
    assert (
        "At ×128 (batch 1,024) too few steps are left: 24 steps teach no more than word frequencies, so this batch is "
        "past the critical batch" in points
    )


def test_a_reference_that_learned_no_more_either_leaves_the_cause_open(record: Make) -> None:
    _, points = say(runs_of(record, "lamb", {8: 6.0, 64: 7.0}, context_free_loss=5.9))
    assert "these runs do not show which" in points
    assert "too few steps are left:" not in points


def test_everything_holds(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: 4.0, 32: 4.1, 64: 3.9}))
    assert "at every larger batch tried, up to ×8 (batch 64, −2.5 %)" in headline
    assert "these runs do not show its critical batch" in points
    assert "past the critical batch" not in points


def test_nothing_holds(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: 4.0, 32: 4.4, 64: 5.0}))
    assert "stayed within 5 % of its own batch-8 run at no larger batch (nearest: ×4 (batch 32, +10 %))" in headline
    assert "these runs do not show which" in points


def test_a_factor_that_failed_below_the_largest_is_admitted(record: Make) -> None:
    headline, _ = say(runs_of(record, "lamb", {8: 4.0, 32: 4.4, 64: 4.1}))
    assert "up to ×8 (batch 64, +2.5 %), though not at ×4" in headline


def test_failing_where_another_optimizer_holds_is_not_blamed_on_the_steps(record: Make) -> None:
    lamb = runs_of(record, "lamb", {8: 4.0, 32: 4.05, 64: 4.1})
    headline, points = say(lamb + runs_of(record, "adamw", {8: 4.0, 32: 4.1, 64: 4.88}))
    assert headline.endswith("; under the same rule, AdamW's did so up to ×4 (batch 32, +2.5 %).")
    assert "AdamW does not hold at ×8 (batch 64), +22 %, but LAMB does: the cause is not the number of steps" in points
    assert (
        "The best held-out loss of one run each: LAMB at batch 8 (4.00; AdamW 4.00), 32 (4.05; AdamW 4.10) and 64 "
        "(4.10; AdamW 4.88)." in points
    )


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({8: 3.9, 64: 4.0}, "one run each: AdamW at batch 8 (3.90; LAMB 4.00) and 64 (4.00; LAMB 4.10)."),
        ({8: 3.98, 64: 5.0}, "one run each: AdamW at batch 8 (3.98; LAMB 4.00); LAMB at batch 64 (4.10; AdamW 5.00)."),
        ({8: 4.3, 64: 5.0}, "one run each: LAMB at batch 8 (4.00; AdamW 4.30) and 64 (4.10; AdamW 5.00)."),
    ],
)
def test_the_other_optimizer_is_given_its_due(record: Make, losses: dict[int, float | None], said: str) -> None:
    assert said in say(runs_of(record, "lamb", {8: 4.0, 64: 4.1}) + runs_of(record, "adamw", losses))[1]


def test_adamw_holding_farther_is_said_in_the_headline(record: Make) -> None:
    lamb = runs_of(record, "lamb", {8: 4.0, 32: 4.5, 64: 5.0})
    headline, _ = say(lamb + runs_of(record, "adamw", {8: 4.0, 32: 4.1, 64: 4.15}))
    assert (
        "AdamW's held-out loss stayed within 5 % of its own batch-8 run at every larger batch tried, up to ×8"
        in headline
    )


def test_other_models_or_lengths_are_not_compared(record: Make) -> None:
    lamb = runs_of(record, "lamb", {8: 4.0, 64: 4.1})
    for change in ({"parameters": 99}, {"num_examples": 48_000}):
        assert "one run each: " not in say(lamb + runs_of(record, "adamw", {8: 5.0, 64: 5.0}, **change))[1]
    assert "one run each: " in say(lamb + runs_of(record, "adamw", {8: 5.0, 64: 5.0}))[1]


def test_one_optimizer_is_compared_with_nobody(record: Make) -> None:
    headline, points = say(runs_of(record, "adamw", {8: 4.0, 64: 4.1}))
    assert headline.startswith("AdamW's held-out loss stayed")
    assert "LAMB" not in headline + points


def test_a_single_run(record: Make) -> None:
    headline, points = say([record("lamb", 8, 4.0)])
    assert headline == "LAMB ran only at batch 8 (held-out loss 4.00), so there is nothing to compare."
    assert "tuned" not in headline + points


def test_diverged_run(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: 4.0, 32: 4.1, 64: None}))
    assert "up to ×4" in headline
    assert "LAMB diverged at ×8 (batch 64): the untuned settings are unstable there" in points
    assert "critical batch" not in points


def test_the_length_is_that_of_the_runs_with_a_score(record: Make) -> None:
    stopped = record("lamb", 64, None, num_examples=23_800)
    assert "after about 24,000 examples each" in say([record("lamb", 8, 4.0), stopped])[1]


def test_all_larger_batches_diverged(record: Make) -> None:
    assert "LAMB diverged at every larger batch" in say(runs_of(record, "lamb", {8: 4.0, 64: None}))[0]


def test_diverged_reference(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: None, 64: 4.1}))
    assert "LAMB diverged at its reference batch (8), so there is nothing to compare with" in headline
    assert "No gap can be given." in points


def test_reference_missing_among_the_runs(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {32: 4.1, 64: 4.2}))
    assert "LAMB has no run at its reference batch (8), so its gaps are unknown" in headline
    assert "×" not in headline + points


def test_no_reference_recorded_claims_no_rule(record: Make) -> None:
    headline, points = say(runs_of(record, "lamb", {8: 4.0, 64: 4.1}, reference=None))
    assert "nothing tuned" not in headline
    assert "Nothing was tuned" not in points
    assert "may have been set by hand" in points


def test_unfinished_reference(record: Make) -> None:
    runs = [record("lamb", 8, None, state="running", final={}), record("lamb", 64, 4.1)]
    headline, points = say(runs)
    assert "LAMB's run at its reference batch (8) has not finished" in headline
    assert "1 run has not finished and is left out of every number here: lamb-8-0 (running)." in points


def test_nothing_finished(record: Make) -> None:
    headline, _ = say([record("lamb", 8, None, state="failed", final={})])
    assert headline.startswith("No pretraining run has finished yet")


def test_only_fine_tuning(record: Make) -> None:
    headline, _ = say([record("adamw", 16, 3.0, task="questions")])
    assert "1 finished fine-tuning run without" in headline


@pytest.mark.parametrize(("power", "name"), [(0.5, "square-root"), (1.0, "linear"), (0.0, None)])
def test_the_rule_is_read_off_the_rates(record: Make, power: float, name: str | None) -> None:
    runs = [record("lamb", batch, 4.0, lr=0.01 * (batch / 8) ** power) for batch in (8, 32, 64)]
    (series,) = build(runs)
    assert series.rule == name
    headline, points = say(runs)
    assert ("with nothing tuned there" in headline) == (name is not None)
    if name:
        assert f"from the reference, the rate by the {name} rule from 0.01 for LAMB. The warm-up keeps" in points


def test_one_rate_set_by_hand_withdraws_the_claim(record: Make) -> None:
    runs = [*runs_of(record, "lamb", {8: 4.0, 32: 4.1}), record("lamb", 64, 4.0, lr=0.02)]
    assert "nothing tuned" not in say(runs)[0]


def test_seeds_give_means_ranges_and_paired_gaps(record: Make) -> None:
    losses = {0: (4.0, 4.1), 1: (4.4, 4.4), 2: (3.6, 3.8)}
    runs = [
        record("lamb", b, loss, seed=s) for s, pair in losses.items() for b, loss in zip((8, 64), pair, strict=True)
    ]
    headline, points = say(runs)
    assert "4.00 (3.60 to 4.40) at the reference" in points
    assert "gap +2.7 % (±0.0 % to +5.6 %), at ×8" in points
    assert "3 runs a cell; seeds 0, 1 and 2." in points
    assert "+2.7 %" in headline


def test_a_seed_that_diverged_spoils_its_cell(record: Make) -> None:
    runs = [record("lamb", 8, 4.0, seed=seed) for seed in (0, 1)]
    runs += [record("lamb", 64, 4.0, seed=0), record("lamb", 64, None, seed=1)]
    headline, points = say(runs)
    assert [cell.held for cell in build(runs)[0].cells] == [True, False]
    assert "LAMB diverged, in some runs, at every larger batch" in headline
    assert "1 of 2 runs diverged" in points
    assert "LAMB diverged in 1 of 2 runs at ×8 (batch 64)" in points


def test_one_seed_is_called_one_seed(record: Make) -> None:
    assert "One run a cell; seed 7." in say(runs_of(record, "lamb", {8: 4.0, 64: 4.1}, seed=7))[1]
    assert "seed not recorded" in say(runs_of(record, "lamb", {8: 4.0, 64: 4.1}, seed=None))[1]


def test_repeated_seed_is_admitted(record: Make) -> None:
    runs = [record("lamb", 8, 4.0), record("lamb", 8, 4.1), record("lamb", 64, 4.0)]
    assert "Some cells hold several runs of one seed." in say(runs)[1]


def test_other_lengths_and_references_are_series_of_their_own(record: Make) -> None:
    short = runs_of(record, "lamb", {8: 4.0, 64: 4.1})
    longer = runs_of(record, "lamb", {8: 3.5, 64: 3.6}, num_examples=96_000)
    assert sorted(one.label for one in build(short + longer)) == ["LAMB (24,000 examples)", "LAMB (96,000 examples)"]
    other = runs_of(record, "lamb", {8: 4.2, 64: 4.3}, reference=Reference(8, 0.02))
    assert {one.label for one in build(short + other)} == {
        "LAMB (reference 8, rate 0.01)",
        "LAMB (reference 8, rate 0.02)",
    }


def test_rounding_to_whole_steps_keeps_a_series_together(record: Make) -> None:
    (series,) = build(runs_of(record, "lamb", {8: 4.0, 256: 4.5, 1024: 5.0}))
    assert [cell.factor for cell in series.cells] == [1, 32, 128]


def test_a_batch_below_the_reference_is_not_a_larger_one(record: Make) -> None:
    (series,) = build(runs_of(record, "lamb", {4: 3.9, 8: 4.0, 64: 5.0}))
    assert series.main is None
    assert [cell.batch for cell in series.judged] == [64]


def test_what_was_learned_beyond_word_frequencies_is_the_measure_of_a_gap(record: Make) -> None:
    runs = runs_of(record, "lamb", {8: 4.0, 32: 4.2, 256: 5.1}, context_free_loss=5.0)
    _, points = say(runs)
    assert (
        "Word frequencies alone give 5.00. LAMB gained 1.00 over them at its reference. Of this gain, it kept 80.0 % "
        "at ×4 and 0.0 % at ×32." in points
    )


def test_a_reference_that_learned_nothing_is_said_to(record: Make) -> None:
    _, points = say(runs_of(record, "lamb", {8: 5.2, 32: 5.3}, context_free_loss=5.0))
    assert "LAMB learned no more than these at its reference batch" in points


def test_without_a_frequency_loss_nothing_is_said_of_it(record: Make) -> None:
    assert "frequencies" not in say(runs_of(record, "lamb", {8: 4.0, 32: 4.2}))[1]


def test_where_frequencies_are_known_the_share_of_the_learning_is_the_measure(record: Make) -> None:
    lamb = [
        run for seed, less in ((0, 0.0), (1, 0.1)) for run in runs_of(
            record, "lamb", {2: 1.5 - less, 8: 1.52 - less, 32: 1.55 - less, 128: 1.75}, context_free_loss=3.0,
            task="causal", seed=seed, reference=Reference(2, 0.01),
        )
    ]  # fmt: skip
    adamw = runs_of(
        record,
        "adamw",
        {2: 1.5, 8: 1.5, 32: 1.5751},
        context_free_loss=3.0,
        task="causal",
        reference=Reference(2, 0.01),
    )
    headline, points = say([*lamb, *adamw])
    assert headline == (
        "LAMB kept at least 95 % of what its own batch-2 run learned, up to ×16 (batch 32, 96.8 % kept), with nothing "
        "tuned there; under the same rule, AdamW did so up to ×4 (batch 8, 100.0 % kept)."
    )
    assert "Token frequencies alone give 3.00. LAMB gained 1.55 over them at its reference" in points
    assert "96.8 % (96.7 % to 96.9 %) at ×16" in points
    assert "LAMB does not hold at ×64 (batch 128), 80.7 % kept: either" in points
    assert "AdamW does not hold at ×16 (batch 32), 94.99 % kept, but LAMB does" in points
    first = build([*lamb, *adamw])[0]
    assert first.bound == pytest.approx(1.45 + 0.05 * 1.55)


def test_a_reference_that_learned_nothing_is_judged_by_its_gap(record: Make) -> None:
    (one,) = build(runs_of(record, "lamb", {8: 5.0, 32: 5.1}, context_free_loss=5.0))
    assert not one.by_share
    assert one.bound == pytest.approx(5.25)
    assert [cell.held for cell in one.cells] == [True, True]


def test_a_ramp_is_no_reference_and_rules_are_told_apart(tmp_path: Path) -> None:
    from anybatch.comparison.folders import load
    from anybatch.recipes import change, find_recipe, train_recipe

    small = ["reference.num_epochs=null", "reference.num_examples=640"]
    for name, given in {
        "reference": [], "sde": ["reference.rule=sde", "phases.0.batch_size=64"], "ramp": ["ramp=32:64"],
    }.items():  # fmt: skip
        train_recipe(change(find_recipe("digits-lenet"), [*small, *given]), tmp_path / name)
    series = {one.label: one for one in build(load([tmp_path]))}
    assert set(series) == {"LAMB", "LAMB (sde rule)", "LAMB (ramp 32 to 64)"}
    assert series["LAMB (ramp 32 to 64)"].judged == []
    assert [cell.factor for cell in series["LAMB (sde rule)"].judged] == [2.0]
    assert series["LAMB (sde rule)"].rule == "sde"


def test_seeds_of_a_folder_give_intervals_and_paired_differences(record: Make) -> None:
    shift = {0: 0.0, 1: 0.3, 2: -0.2}
    lamb = [run for s, by in shift.items() for run in runs_of(record, "lamb", {8: 4.0 + by, 64: 4.1 + by}, seed=s)]
    adamw = [
        record("adamw", b, 4.0 + (b > 8) * 0.2 + by + 0.001 * s, seed=s) for s, by in shift.items() for b in (8, 64)
    ]
    _, points = say([*lamb, *adamw])
    # The seeds lie 0.5 apart, the pairs 0.002.
    assert (
        "The data support that it is better than AdamW, by 0.101 (95 % interval 0.09852 to 0.1035, 3 pairs)" in points
    )
    assert "At batch 64 LAMB has the best mean held-out loss, 4.133 (95 % interval 3.508 to 4.758)." in points
    assert "The data do not distinguish it from AdamW; it leads by 0.001 (95 % interval -0.001484" in points
    assert "Each of the 2 comparisons has its own 95 % interval" in points


def test_lost_runs_are_counted_among_the_rivals_own(record: Make) -> None:
    """One run of LAMB, three of AdamW, of which one diverged: one of three, whoever is the first of the pair."""
    runs = [record("lamb", 8, 4.0, context_free_loss=6.0)]
    runs += [record("adamw", 8, loss, seed=seed) for seed, loss in enumerate((4.2, 4.3, None))]
    _, points = say(runs)
    assert "1 of 3 of its runs diverged or failed, and are left out" in points
