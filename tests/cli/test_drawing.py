"""What commands print of values."""

from anybatch.cli.drawing import bench_text, plan_text, plot
from anybatch.planner.command import plan


def test_the_plot_has_the_shape_of_the_rates() -> None:
    rows = plot([0.0, 0.5, 1.0, 0.25])
    columns = [[row.ljust(14)[10 + column] for row in rows] for column in range(4)]
    assert [sum(cell == "█" for cell in column) for column in columns] == [0, 4, 8, 2]
    assert rows[0].split()[0] == "1"
    assert rows[-1].split()[0] == "0"


def test_a_plan_shows_its_table_its_choice_and_its_command() -> None:
    found = plan("bert-mini", "h100-node", devices=16, batch_size=1024)
    text = plan_text(found)
    (command,) = found["commands"]
    assert command in text
    assert "US$" in text
    assert f"batch {found['chosen']['batch_size']:,}" in text
    assert "kWh" in text


def test_columns_that_say_nothing_are_left_out_of_a_plan() -> None:
    found = plan("bert-mini", "h100-node", devices=16, batch_size=1024)
    unpriced = {**found, "options": [{**option, "cost": None} for option in found["options"]]}
    assert "US$" not in plan_text(unpriced)


def test_a_measurement_has_a_row_a_contender_and_says_what_was_not_measured() -> None:
    times = {"role": "ours", "samples_s": [0.001, 0.002], "bytes_per_parameter": 40, "counted": False, "gb_per_s": 2.0}
    rows = [
        {"name": "LAMB", "median_s": 0.001, **times},
        {"name": "Lamb", "role": "peer", "why_not": "timm is not installed"},
    ]
    place = {"processor": "a CPU", "threads": 1, "cores": 2, "versions": {"torch": "2"}}
    conditions = {"device": "cpu", "repeats": 7, "busy": 0, "clip": None}
    measured = {"name": "tiny", "tensors": 2, "parameters": 10, "rows": rows}
    lines = list(bench_text({"conditions": conditions, "environment": place, "sets": [measured]}))
    assert lines[0] == "a CPU, 1 thread of 2 cores, torch 2, medians of 7"
    assert any(line.split()[:2] == ["LAMB", "1.00"] for line in lines)
    assert lines[-1] == "  not measured: Lamb: timm is not installed"
