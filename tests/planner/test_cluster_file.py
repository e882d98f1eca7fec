"""A user's own cluster, as a file that changes a known one."""

import json
from pathlib import Path

import pytest

from anybatch.errors import InputError
from anybatch.planner import find_cluster
from anybatch.planner.command import plan

OURS = """
like = "h100-node"
devices_a_node = 4
price = 2.1
[between]
bytes_per_s = 12.5e9
[accelerator]
memory_bytes = 64e9
[accelerator.achieved]
transformer = 0.3
"""


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(OURS)
    ours, known = find_cluster(str(file)), find_cluster("h100-node")
    assert (ours.name, ours.devices_a_node, ours.price, ours.price_source) == ("ours", 4, 2.1, "given in ours.toml")
    assert (ours.between.bytes_per_s, ours.between.latency_s) == (12.5e9, known.between.latency_s)
    assert ours.inside == known.inside
    assert ours.accelerator.achieved["transformer"].share == 0.3
    assert ours.accelerator.achieved["convolution"] == known.accelerator.achieved["convolution"]
    slower, fast = (
        json.loads(plan("bert-large", name, devices=8, as_json=True))["chosen"]["training_s"]
        for name in (str(file), "h100-node")
    )
    assert slower > fast


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price = 1", "like = None: name the cluster that it starts from, tpu-v3-pod, a100-node"),
        ("like = 'h100'", "no cluster is called 'h100'; nearest: h100-node"),
        ("like = 'h100-node'\nprise = 1", "prise: no such field; nearest: price"),
        ("like = 'h100-node'\nprice = -1", "price = -1: must be at least 0"),
        ("like = 'h100-node'\ndevices_a_node = 0", "devices_a_node = 0: must be above 0"),
        ("like = 'h100-node'\ndevices_a_node = 2.5", "devices_a_node = 2.5: must be a whole number"),
        ("like = 'h100-node'\noverlap = 1.5", "overlap = 1.5: must be at least 0 and at most 1"),
        ("like = 'h100-node'\nprice = nan", "price = nan: must be a number"),
        ("like = 'h100-node'\nprice = 'much'", "price = 'much': must be a number"),
        ("like = 'h100-node'\ntitle = 3", "title = 3: must be a string"),
        ("like = 'h100-node'\nbetween = 3", "between = 3: must be a table of its fields"),
        ("like = 'h100-node'\n[between]\nspeed = 3", "between.speed: no such field"),
        (
            "like = 'h100-node'\n[between]\ntopology = 'ring'",
            "between.topology = 'ring': must be one of switched, torus",
        ),
        ("like = 'h100-node'\n[accelerator.achieved]\nmamba = 0.3", "mamba: must be one of transformer, convolution"),
        (
            "like = 'h100-node'\n[accelerator.achieved]\ntransformer = 3",
            "transformer = 3: must be above 0 and at most 1",
        ),
        ("like = ", "is not TOML"),
    ],
)
def test_nonsense_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        plan("bert-large", str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        find_cluster(str(tmp_path / "none.toml"))
