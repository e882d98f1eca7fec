"""Whatever a command is sent, and whenever: one line, the exit code that is true, nothing left."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from support.command_line import anybatch, error_line, started_by

from anybatch.cli import app, main
from anybatch.cli.app import data_app
from anybatch.engine.supervisor import supervise
from anybatch.engine.watch import Watch
from anybatch.errors import Elsewhere, Failed, InputError, Stopped
from anybatch.process import SUPERVISOR
from anybatch.runs import Run

SENDS = "import os, signal, time\ndef send(): os.kill(os.getpid(), signal.SIGINT)\n"
# How an interrupt can strike a library that is being imported: as it is, turned into another error, or dropped.
IMPORTS = {
    "plain": "send()\n",
    "turned into a RuntimeError": (
        "class Field:\n    def __set_name__(self, owner, name): send()\n"
        "try:\n    class Model:\n        field = Field()\nexcept BaseException:\n    raise RuntimeError('a field')\n"
    ),
    "inside an exec": "exec('send()')\n",
    "dropped": "class Held:\n    def __del__(self): send()\nHeld()\ntime.sleep(20)\n",
}


@pytest.fixture(autouse=True, scope="module")
def hang_ups_are_heard() -> Iterator[None]:
    """Under nohup a hang-up is ignored, in every command started from there, too, as it should be."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("module", ["typer", "torch"])
@pytest.mark.parametrize("way", list(IMPORTS))
def test_an_interrupt_during_an_import_is_one_line(tmp_path: Path, module: str, way: str) -> None:
    (tmp_path / f"{module}.py").write_text(SENDS + IMPORTS[way])
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    result = anybatch("train", "digits-lenet", "--dry-run", cwd=tmp_path, env={"PYTHONPATH": paths})
    assert result.returncode == 130, result.stderr
    assert error_line(result) == "anybatch: error: interrupted"


COMMANDS = [
    *((info.name or info.callback.__name__,) for info in app.registered_commands if info.callback),
    *(("data", info.callback.__name__) for info in data_app.registered_commands if info.callback),
]
ENDS = [
    (InputError("wrong"), 2),
    (Failed("lost"), 1),
    (Stopped("asked"), 75),
    (Elsewhere(75), 75),
    (KeyboardInterrupt(), 130),
    (typer.Abort(), 130),
    (typer.Exit(1), 1),
    (typer.Exit(3), 3),
    (OSError(28, "No space left on device", "file"), 1),
    (BrokenPipeError(), 1),
]


def raises(name: str, error: BaseException) -> Callable[[], None]:
    """A command of that name that ends so."""

    def command() -> None:
        raise error

    command.__name__ = name
    return command


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_the_exit_code_of_every_command_tells_how_it_ended(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = data_app.registered_commands if command[0] == "data" else app.registered_commands
    info = next(one for one in infos if command[-1] in (one.name, one.callback.__name__ if one.callback else ""))
    monkeypatch.setattr(sys, "argv", ["anybatch", *command])
    for error, code in ENDS:
        monkeypatch.setattr(info, "callback", raises(command[-1], error))
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr().err
        assert caught.value.code == code, said
        assert "--resume" not in said or command == ("train",)
        assert "Traceback" not in said


def test_output_that_nobody_takes_is_a_failure(tmp_path: Path) -> None:
    for command, said in (("recipes > /dev/full", "standard output: No space left on device"), ("recipes | true", "")):
        line = f"set -o pipefail; {sys.executable} -m anybatch {command}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 1
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == bool(said)


def test_the_version_is_shown(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert anybatch("--version", cwd=tmp_path).stdout == version("anybatch") + "\n"


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.returncode
        assert time.monotonic() < deadline
        time.sleep(0.02)


def recorded(run: Path) -> bool:
    metrics = run / "metrics.jsonl"
    return metrics.exists() and '"train"' in metrics.read_text()


EXAMPLES = ("--set", "reference.num_examples=2000000", "--set", "reference.num_epochs=null")
LONG = ("train", "digits-lenet", *EXAMPLES, "--run", "run")


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves_and_goes_on_by_the_printed_words(tmp_path: Path) -> None:
    """Its output is the terminal itself, which takes no more words."""
    terminal, end = pty.openpty()
    code = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, sys.executable, "-m", "anybatch", *LONG],
        cwd=tmp_path, stdin=end, stdout=end, stderr=end, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(end)
    try:
        wait_for(lambda: recorded(tmp_path / "run"), process)
        os.close(terminal)
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["outcome"] == "stopped"
    assert "SIGHUP" in status["message"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{status['step']:08d}" / "state.json").is_file()
    # As every hint says it: without the recipe's name, which the folder has; here under another torch.
    environment = tmp_path / "run" / "environment.json"
    environment.write_text(environment.read_text().replace('"torch": "', '"torch": "0.'))
    process = subprocess.Popen(
        [sys.executable, "-m", "anybatch", "train", "--run", "run", "--resume"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        wait_for(lambda: len(Run(tmp_path / "run").metrics("start")) == 2, process)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 75
    assert "run: continues with torch" in said


INTERRUPTED_TWICE = """
import os, signal
from anybatch.__main__ import start
from anybatch.engine import checkpoint
complete, saves = checkpoint._complete, []
def interrupted(*arguments):
    saves.append(arguments)
    for _ in range(2 if len(saves) == 2 else 0):
        os.kill(os.getpid(), signal.SIGINT)
    return complete(*arguments)
checkpoint._complete = interrupted
start()
"""


@pytest.mark.slow
def test_a_second_ctrl_c_during_a_save_ends_at_once_and_the_checkpoint_before_it_serves(tmp_path: Path) -> None:
    size = ("--batch-size", "256", "--set", "reference.num_examples=2560", "--set", "reference.num_epochs=null")
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_TWICE, "train", "digits-lenet", "--run", "run", *size,
         "--set", "engine.checkpoint_every_steps=2"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines() == ["digits-lenet", "anybatch: error: interrupted"]
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["outcome"] == "failed"
    assert anybatch("train", "--resume", "--run", "run", cwd=tmp_path).returncode == 0
    run = Run(tmp_path / "run")
    assert run.finished
    assert [event["step"] for event in run.metrics("start")] == [0, 2]


def test_a_hang_up_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    code = (
        "import os, signal; from anybatch.engine import stop_requests\n"
        "with stop_requests() as request: os.kill(os.getpid(), signal.SIGHUP); print(request.reason)"
    )
    result = subprocess.run(
        ["nohup", sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert result.stdout == "None\n", result.stderr


# Of the supervisor, with something else in the place of a rank.


POPEN = subprocess.Popen


def launching(monkeypatch: pytest.MonkeyPatch, script: str, before: Callable[[], None] = lambda: None) -> None:
    def popen(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        process = POPEN([sys.executable, "-S", "-c", script], **options)  # type: ignore[call-overload]
        before()
        return process  # type: ignore[no-any-return]

    monkeypatch.setattr("anybatch.engine.supervisor.subprocess.Popen", popen)


def test_a_signal_before_a_rank_is_known_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    launching(monkeypatch, "import time; time.sleep(60)", lambda: os.kill(os.getpid(), signal.SIGTERM))
    started = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"):
        supervise(["train"], {}, 2, 0)
    assert time.monotonic() - started < 20


def test_what_the_ranks_told_counts_and_not_how_gloo_was_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    tells = (
        "import json, os, sys\n"
        "for told in ({}, {'code': 0, 'message': '', 'is_cause': True}):\n"
        f"    os.write(int(os.environ['{SUPERVISOR}'].split(':')[1]), json.dumps(told).encode() + b'\\n')\n"
        "sys.exit(1)\n"
    )
    launching(monkeypatch, tells)
    supervise(["train"], {}, 2, 0)
    launching(monkeypatch, tells.replace("for told", "for told in () if os.environ['RANK'] == '1' else"))
    with pytest.raises(Failed):
        supervise(["train"], {}, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_supervisor_that_is_gone_before_the_ranks_have_begun_leaves_nothing(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anybatch", *LONG, "--nproc", "2"], cwd=tmp_path, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        wait_for(lambda: len(started_by(process.pid)) == 2, process)
        process.send_signal(number)
        assert process.wait(timeout=30) == (75 if number == signal.SIGHUP else -number)
        deadline = time.monotonic() + 30
        while started_by(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        for left in started_by(process.pid):
            os.kill(left, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == []
    assert not recorded(tmp_path / "run")


def test_time_during_which_a_run_was_stopped_is_no_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after SIGTSTP and SIGCONT, or a lid that was closed."""
    clock = time.monotonic
    slept = [0.0]
    monkeypatch.setattr("anybatch.engine.watch._PERIOD_S", 0.01)
    monkeypatch.setattr("anybatch.engine.watch.time.monotonic", lambda: clock() + slept[0])
    watch = Watch(hang_timeout_s=5)
    ended: list[str] = []
    monkeypatch.setattr(watch, "_end", lambda: ended.append("ended"))
    watch.start()
    watch.doing("computing")
    slept[0] = 3600.0
    time.sleep(0.3)
    watch.stop()
    assert not ended
