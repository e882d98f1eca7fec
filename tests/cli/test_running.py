"""What a user can get wrong on the command line ends in one line and the right exit code, with nothing left behind."""

import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from support.command_line import anybatch, error_line
from typer.testing import CliRunner

from anybatch.cli import app, main
from anybatch.errors import InputError
from anybatch.recipes import change, find_recipe, from_json, with_batch_size
from anybatch.runs import locked

TEXT = "\n\n\n".join(f"Document {n} begins here. It has a second sentence about number {n}." for n in range(40))


def run_main(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command line, in this process: quicker than one of its own."""
    monkeypatch.setattr(sys, "argv", ["anybatch", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A little prepared data."""
    from anybatch.data.prepare import prepare
    from anybatch.data.text import read_documents

    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    prepare(lambda: read_documents([source]), tmp_path / "shards", vocabulary_size=300)
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.jsonl: empty"),
        (b"\x00\x01\x02\x03" * 100, "text.jsonl:1: not text: byte 0"),
        (b"\xff\xfe rubbish", "text.jsonl:1: not UTF-8"),
        (b'{"text": "Some words."}\n' * 16 + b'{"text": \n' + b'{"text": "More."}\n', "text.jsonl:17: not valid JSON"),
        (b'{"text": "Some words."}\n{"title": "x"}\n', 'text.jsonl:2: the object has no "text"'),
        (b'{"text": "Some words."}\n{"text": "  "}\n', 'text.jsonl:2: "text" is blank'),
        (b'{"text": "Some words."}\n', "1 document: at least 4"),
    ],
)
def test_bad_text_leaves_nothing_behind(
    tmp_path: Path,
    content: bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "text.jsonl"
    source.write_bytes(content)
    assert run_main(["data", "prepare", str(source), "--out", str(tmp_path / "out")], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("anybatch: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "bert-tinny"], "no recipe is called 'bert-tinny'; nearest: bert-tiny"),
        (["train", "bert-demo", "--batch-size", "0"], "batch size 0: must be at least 1"),
        (["train", "bert-demo", "--set", "optimizer.lrr=1"], "no such field; nearest: optimizer.lr"),
        (["train", "bert-demo", "--set", "data.path=nowhere"], "nowhere"),
        (["train", "squad-demo"], "model.path is not set"),
        (["train", "squad-demo", "--set", "model.path=nowhere"], "neither a run folder nor a Hugging Face model"),
        (["train"], "recipe"),
        (
            ["plan", "bert-large-paper", "--cluster", "h1000-node"],
            "no cluster is called 'h1000-node'; nearest: h100-node",
        ),
        (["plan", "bert-large-paper", "--cluster", "h100-node", "--devices", "0"], "--devices 0: must be at least 1"),
        (["plan", "bert-larg", "--cluster", "h100-node"], "neither a recipe nor a published run is called 'bert-larg'"),
        (["plan", "bert-large-paper"], "--cluster"),
        (["advise", "bert-demo", "--steps", "2"], "--steps 2: must be at least 16"),
        (["train", "bert-demo", "--batch-size", "many"], "--batch-size"),
        (["train", "bert-demo", "--nonsense"], "--nonsense"),
        (["eval", "."], "not a run folder"),
        (["eval", "nowhere"], "no such folder"),
        (["eval"], "name a run folder"),
        (["eval", "--predictions", "p.json"], "--predictions needs --squad"),
        (["report", "."], "no run found"),
        (["data", "inspect", "."], "tokenizer.json"),
    ],
)
def test_bad_arguments_exit_with_2(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(arguments, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("anybatch: error: "), error
    assert error.count("\n") == 1, error
    assert message in error
    assert not any(tmp_path.iterdir())


def test_a_batch_larger_than_the_data(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "bert-demo", "--batch-size", "512", "--set", f"data.path={shards}", "--run", str(run)]
    assert run_main(arguments, monkeypatch) == 2
    assert "512 is larger than the data" in capsys.readouterr().err
    assert not run.exists()


def test_a_vocabulary_that_does_not_match_the_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = json.loads((shards / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[10:12]
    words[first], words[second] = words[second], words[first]
    (shards / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert (
        run_main(["train", "bert-demo", "--set", f"data.path={shards}", "--run", str(tmp_path / "r")], monkeypatch) == 2
    )
    assert "vocabulary does not match the shards" in capsys.readouterr().err


def test_a_truncated_shard(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = shards / "train" / "shard-00000.tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-7])
    for arguments in (
        ["train", "bert-demo", "--set", f"data.path={shards}", "--run", str(tmp_path / "r")],
        ["data", "inspect", str(shards)],
    ):
        assert run_main(arguments, monkeypatch) == 2
        error = capsys.readouterr().err
        assert "shard-00000.tokens.npy: truncated" in error
        assert "anybatch data prepare" in error
    assert not (tmp_path / "r").exists()


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "shard-00000.tokens.npy")

    monkeypatch.setattr("anybatch.data.shard_writer.ShardWriter._write", full)
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    code = run_main(
        ["data", "prepare", str(source), "--out", str(tmp_path / "out"), "--vocabulary-size", "300"], monkeypatch
    )
    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith("anybatch: error: shard-00000.tokens.npy: No space left on device; free some space")
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


@pytest.mark.parametrize("model", ["bert-ensemble", "logistic-regression"])
def test_published_predictions_get_their_published_scores(tmp_path: Path, shared_data: Path, model: str) -> None:
    folder = shared_data / "squad" / "reference-predictions"
    expected = json.loads((folder / "expected-scores.json").read_text())[model]
    result = anybatch(
        "eval", "--predictions", folder / f"{model}.dev.json", "--squad", shared_data / "squad" / "dev.json", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    scores = json.loads(result.stdout)
    assert {name: round(scores[name], 3) for name in ("exact_match", "f1")} == expected


def test_recipes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["anybatch", "recipes", "--json"])
    main()
    assert "bert-demo" in json.loads(capsys.readouterr().out)


def test_nothing_but_a_line_for_a_user_s_mistake(tmp_path: Path) -> None:
    result = anybatch("train", "no-such-recipe", cwd=tmp_path)
    assert result.returncode == 2
    assert "no recipe is called" in error_line(result)


@pytest.fixture
def finished(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a short run, which has been done."""
    arguments = [
        "train",
        "bert-demo",
        "--batch-size",
        "8",
        "--set",
        f"data.path={shards}",
        "--run",
        str(tmp_path / "run"),
    ]
    arguments += ["--set", "reference.num_examples=32", "--set", "engine.num_evals=1"]
    monkeypatch.setattr(sys, "argv", ["anybatch", *arguments])
    main()
    return arguments


@pytest.mark.parametrize("content", ["[" * 100_000, "[1, 2]", "5", "null", '"x"', "{}", "\udcff"])
@pytest.mark.parametrize("name", ["recipe.json", "result.json", "environment.json"])
def test_a_damaged_run_is_one_line(
    finished: list[str],
    tmp_path: Path,
    name: str,
    content: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    (tmp_path / "run" / name).write_text(content, errors="surrogateescape")
    if name == "environment.json":
        (tmp_path / "run" / "result.json").unlink()
    assert run_main([*finished, "--resume"], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("anybatch: error: "), error
    assert error.count("\n") == 1, error


def test_a_run_without_its_metrics_still_ends(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("metrics.jsonl", "result.json"):
        (tmp_path / "run" / name).unlink()
    monkeypatch.setattr(sys, "argv", ["anybatch", *finished, "--resume"])
    main()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["examples_per_s"] is None


def test_other_data_under_the_same_name_are_refused(
    finished: list[str],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run" / "result.json").unlink()
    index = shards / "train" / "index.json"
    index.write_text(index.read_text() + " ")
    assert run_main([*finished, "--resume"], monkeypatch) == 2
    assert "belongs to a run with another data" in capsys.readouterr().err


def test_a_run_in_use_is_refused(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "run"):
        assert run_main([*finished, "--resume"], monkeypatch) == 2
    assert "in use by another process" in capsys.readouterr().err


def test_a_finished_run_is_shown_again(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["anybatch", *finished, "--resume", "--json"])
    main()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == {"run": str(tmp_path / "run"), **result}


def test_a_run_of_somebody_else_is_one_line(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may not be written, and a checkpoint that may not be read; as root, by a user without rights."""
    run = tmp_path / "run"
    (run / "result.json").unlink()
    with tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        copy = Path(shutil.copytree(tmp_path, Path(open_to_all) / "copy"))
        copy.chmod(0o755)
        theirs = copy / "run"
        arguments = [argument.replace(str(tmp_path), str(copy)) for argument in finished]
        (theirs / "recipe.json").write_text((theirs / "recipe.json").read_text().replace(str(tmp_path), str(copy)))

        def error_of() -> str:
            """What the command says to a user without rights; in a fork, which has imported what it needs."""
            monkeypatch.setattr(sys, "argv", ["anybatch", *arguments, "--resume"])
            said = Path(open_to_all) / "said"
            process = os.fork()
            if not process:
                with open(said, "w") as file:
                    os.dup2(file.fileno(), 2)
                    sys.stderr = file
                    if os.geteuid() == 0:
                        os.setgroups([])
                        os.setgid(65534)
                        os.setuid(65534)
                    try:
                        main()
                    except SystemExit as ended:
                        file.flush()
                        os._exit(int(ended.code or 0))
                    finally:
                        os._exit(99)
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2, said.read_text()
            line = said.read_text()
            assert line.startswith("anybatch: error: ")
            assert line.count("\n") == 1
            return line

        for path in (theirs, *theirs.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert f"{theirs}: cannot be written (Permission denied)" in error_of()
        for path in (theirs, *theirs.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        (theirs / "recipe.json").write_text((theirs / "recipe.json").read_text().replace(str(tmp_path), str(copy)))
        for checkpoint in (theirs / "checkpoints").iterdir():
            checkpoint.chmod(0)
        assert "may not be read; change its permissions" in error_of()
        for checkpoint in (theirs / "checkpoints").iterdir():
            checkpoint.chmod(0o755)


def test_files_of_a_run_are_readable_as_others_are(finished: list[str], tmp_path: Path) -> None:
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    expected = (tmp_path / "run" / "recipe.json").stat().st_mode
    assert {path.name for path in files if path.stat().st_mode != expected} == set()


def test_a_failed_run_leaves_no_thread_behind(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever called it goes on: nothing is left that could end the process later."""
    arguments = [
        "train",
        "bert-demo",
        "--batch-size",
        "512",
        "--set",
        f"data.path={shards}",
        "--run",
        str(tmp_path / "r"),
    ]
    assert run_main(arguments, monkeypatch) == 2
    assert "anybatch-watch" not in {thread.name for thread in threading.enumerate()}


def test_a_command_that_is_interrupted_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anybatch.recipes.find_recipe", interrupt)
    assert run_main(["train", "bert-demo"], monkeypatch) == 130
    assert capsys.readouterr().err == "anybatch: error: interrupted\n"


def test_a_report_does_not_replace_a_device(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["anybatch", "report", str(tmp_path / "run"), "-o", "/dev/null"])
    main()
    assert Path("/dev/null").is_char_device()


def test_no_option_of_train_is_lost_on_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched: dict[str, Any] = {}
    monkeypatch.setattr(
        "anybatch.engine.supervise",
        lambda *given: launched.update(arguments=given[0], recipe=given[1], about=given[2:]),
    )
    values = {
        "recipe": "digits-lenet",
        "run": str(tmp_path / "run"),
        "batch_size": "64",
        "assignments": "seed=7",
        "track": "tensorboard",
        "nproc": "2",
        "relaunch": "3",
    }
    command = typer.main.get_command(app)
    parameters = command.commands["train"].params  # type: ignore[attr-defined]
    typed: list[str] = []
    for parameter in parameters:
        name, flag = str(parameter.name), parameter.opts[0]
        if name not in ("dry_run", "help"):
            # A new option needs a value here, and a place below.
            typed += [values[name]] if name == "recipe" else [flag] if name not in values else [flag, values[name]]
    found = CliRunner().invoke(app, ["train", *typed])
    assert found.exception is None
    expected = with_batch_size(change(find_recipe("digits-lenet"), ["seed=7"]), 64)
    assert from_json(launched["recipe"]) == expected
    assert launched["arguments"] == ["train", f"--run={values['run']}", "--resume", "--track=tensorboard", "--json"]
    assert launched["about"] == (2, 3)


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    recipe = change(find_recipe("bert-tiny"), ["seed=7"])
    (tmp_path / "mine.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert find_recipe(str(tmp_path / "mine.json")) == recipe
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(InputError, match=r"mine\.json: must hold a JSON object"):
        find_recipe(str(tmp_path / "mine.json"))
