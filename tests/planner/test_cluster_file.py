"""A user's own cluster, as a file that changes a known one."""

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
[mfu]
transformer = 0.3
"""


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(OURS)
    ours, known = find_cluster(str(file)), find_cluster("h100-node")
    assert (ours.name, ours.devices_a_node, ours.price, ours.price_source) == ("ours", 4, 2.1, "given in ours.toml")
    assert (ours.between.bytes_per_s, ours.between.latency_s) == (12.5e9, known.between.latency_s)
    assert ours.inside == known.inside
    assert ours.mfu["transformer"].share == 0.3
    assert ours.mfu["convolution"] == known.mfu["convolution"]
    slower, fast = (
        plan("published-bert-large", name, devices=8)["chosen"]["training_s"] for name in (str(file), "h100-node")
    )
    assert slower > fast


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price = 1", "like = None: name the cluster that it starts from, tpu-v3-pod, a100-node"),
        ("like = 'h100'", "no cluster is called 'h100'; nearest: h100-node"),
        ("like = 'h100-node'\nprise = 1", "prise: no such field; nearest: price"),
        ("like = 'h100-node'\nprice = -1", "price = -1: must be a number from 0 to"),
        (
            "like = 'h100-node'\ndevices_a_node = 0",
            "devices_a_node = 0: must be a whole number from 1 to 1,000,000,000",
        ),
        ("like = 'h100-node'\ndevices_a_node = 2.5", "devices_a_node = 2.5: must be a whole number"),
        ("like = 'h100-node'\noverlap = 1.5", "overlap = 1.5: must be a number from 0 to 1"),
        ("like = 'h100-node'\nprice = nan", "price = nan: must be a number"),
        ("like = 'h100-node'\nprice = 'much'", "price = 'much': must be a number"),
        ("like = 'h100-node'\ntitle = 3", "title = 3: must be a string"),
        ("like = 'h100-node'\nbetween = 3", "between = 3: must be a table of its fields"),
        ("like = 'h100-node'\n[between]\nspeed = 3", "between.speed: no such field"),
        (
            "like = 'h100-node'\n[between]\ntopology = 'ring'",
            "between.topology = 'ring': must be one of switched, torus",
        ),
        ("like = 'h100-node'\n[mfu]\nmamba = 0.3", "mamba: must be one of transformer, convolution"),
        (
            "like = 'h100-node'\n[mfu]\ntransformer = 3",
            "transformer = 3: must be a number from 1e-06 to 1",
        ),
        (
            "like = 'h100-node'\n[accelerator.peak_flops]\nfp4 = 1e15",
            "peak_flops.fp4: must be one of fp32, tf32, fp16, bf16",
        ),
        ("like = 'h100-node'\nauto_precision = 'fp4'", "auto_precision = 'fp4': must be one of fp32, tf32"),
        ("like = ", "is not TOML"),
        pytest.param(
            f"like = 'h100-node'\nprice = {'9' * 400}", r"price = 9{10,}\.\.\.: must be a number", id="400 digits"
        ),
        pytest.param(f"like = 'h100-node'\nprice = {'9' * 5000}", "is not TOML: Exceeds the limit", id="5,000 digits"),
        pytest.param(
            f"like = 'h100-node'\n[inside]\nbytes_per_s = 0x{'f' * 5000}",
            "bytes_per_s = a number of thousands of digits: must be a number from 1 to",
            id="5,000 hexadecimal digits",
        ),
        ("like = 'h100-node'\n[between]\nlatency_s = 1e308", r"latency_s = 1e\+308: must be a number from 0 to 100"),
        (
            "like = 'h100-node'\n[accelerator.peak_flops]\nbf16 = 5e-324",
            "peak_flops.bf16 = 5e-324: must be a number from 1 to",
        ),
        pytest.param("title = " + "[" * 3000, "brackets are nested too deeply", id="3,000 brackets"),
        pytest.param("#" * (2**20 + 1), "is longer than 1,048,576 bytes", id="a long file"),
        ("like = 'wrong.toml'", "like = 'wrong.toml': name the cluster that it starts from"),
        ("like = 'h100-node'\ntitle = \"\\u001b[31m\"", "must be a string of at most 200 printable characters"),
        pytest.param(f"like = 'h100-node'\n{'x' * 5000} = 1", r"x{20,}\.\.\.: no such field", id="a long name"),
    ],
)
def test_nonsense_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        find_cluster(str(file))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("side", [0, 1])
def test_a_cluster_at_every_bound_is_planned(tmp_path: Path, side: int) -> None:
    rate, small, devices = (1, 1e24)[side], (0, 100)[side], (1, 10**9)[side]
    link = f"bytes_per_s = {rate}\nlatency_s = {small}\nefficiency = {(1e-6, 1)[side]}\n"
    file = tmp_path / "bounds.toml"
    file.write_text(
        f"like = 'h100-node'\ndevices_a_node = {devices}\nmost_devices = {devices}\njitter = {small}\n"
        f"overlap = {side}\nlaunch_s = {small}\nprice = {(0, 1e9)[side]}\nhost_bytes_per_s = {rate}\n"
        f"storage_bytes_per_s = {rate}\n"
        f"[inside]\n{link}[between]\n{link}[accelerator]\nmemory_bytes = 80e9\n"
        f"memory_bytes_per_s = {rate}\n[accelerator.peak_flops]\nbf16 = {rate}\n"
        f"[mfu]\ntransformer = {(1e-6, 1)[side]}\n"
    )
    name = "published-bert-large"
    assert plan(name, str(file), devices=1)["workload"] == name
    assert plan(name, str(file))["workload"] == name


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        find_cluster(str(tmp_path / "none.toml"))
