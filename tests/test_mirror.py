"""The tests of src/anybatch/ROOM/x.py are in tests/ROOM/test_x.py, or the table below says where they are, and why."""

from pathlib import Path

import anybatch

SOURCE = Path(anybatch.__file__).parent
TESTS = Path(__file__).parent
# A shorter file is mostly tested with its only user.
FEWEST_LINES = 60

# Where files without tests of their name are tested: the tests, why there, and the files.
ELSEWHERE: dict[str, tuple[str, tuple[str, ...]]] = {
    "cli/test_running.py": (
        "every command is held to the same rules: one line for a mistake, the exit code, nothing left",
        ("cli/data.py", "cli/deciding.py"),
    ),
    "comparison/test_findings.py": (
        "sentences are tested with the rows that they come from",
        ("comparison/cell.py", "comparison/doubts.py", "comparison/families.py", "comparison/rows.py"),
    ),
    "data/test_prepare_files.py": (
        "what one preparation is made of shows in the shards that come out",
        ("data/staging.py",),
    ),
    "data/test_mlm.py": ("pairs are the examples of pretraining", ("data/pairs.py",)),
    "data/test_shards.py": ("what is written is tested by reading it", ("data/shard_writer.py",)),
    "data/images/test_finding.py": ("layouts on the disk, found and read", ("data/images/folder.py",)),
    "data/images/test_source.py": (
        "an example of a source is what sets, IDX files, views and mixing make it",
        ("data/images/idx.py", "data/images/sets.py"),
    ),
    "engine/test_checkpoint.py": (
        "a checkpoint's pieces, its background writer and the stop that asks for it",
        ("engine/background.py", "engine/interruption.py", "engine/pieces.py"),
    ),
    "engine/test_loop.py": (
        "a whole run: its job, course, options and end",
        ("engine/course.py", "engine/execution.py", "engine/job.py"),
    ),
    "engine/test_batch_norm.py": ("an evaluation uses the statistics of all ranks", ("engine/evaluate.py",)),
    "recipes/test_preview.py": ("the engine's part is measured with a recipe's job", ("engine/preview.py",)),
    "test_signals.py": (
        "a supervisor, its ranks and a terminal are real processes",
        ("engine/supervisor.py",),
    ),
    "machine/test_doctor.py": ("doctor shows the environment", ("environment.py",)),
    "recipes/test_images.py": (
        "scores of images are tested with runs on images",
        ("evaluation/image_scores.py",),
    ),
    "machine/test_bench.py": (
        "one measurement: its problem, its contenders, the traffic that is counted, its cells",
        ("machine/contenders.py", "machine/measured.py", "machine/problem.py", "machine/traffic.py"),
    ),
    "models/test_classifier.py": ("networks are tested as the classifier has them", ("models/convolutional.py",)),
    "recipes/test_questions.py": (
        "a span model is tested by what it answers",
        ("models/question_answering.py",),
    ),
    "optim/test_against_oracle.py": (
        "one matrix of all optimizers, settings and ways of computing",
        ("optim/lamb.py", "optim/lars.py"),
    ),
    "optim/test_properties.py": ("the strategy is what holds for every layer", ("optim/strategy.py",)),
    "optim/test_state.py": (
        "checks are tested by what is refused, recall by what a state is",
        ("optim/checks.py", "optim/recall.py"),
    ),
    "optim/test_sharded.py": ("shards and their parts need ranks", ("optim/parts.py", "optim/sharding.py")),
    "optim/kernels/test_build.py": ("the library is what is built", ("optim/kernels/library.py",)),
    "optim/kernels/test_triton.py": (
        "the programs are run by the one step that uses them",
        ("optim/kernels/triton_programs.py",),
    ),
    "recipes/test_optimizers.py": ("Muon is one row of the recipes' optimizers", ("optim/muon.py",)),
    "planner/test_command.py": (
        "a plan is asked for by the name of a cluster and predicted",
        ("planner/clusters.py", "planner/prediction.py"),
    ),
    "recipes/test_published.py": (
        "a recipe's numbers are those of its source",
        ("recipes/bert.py", "recipes/bert_large.py", "recipes/gpt.py"),
    ),
    "recipes/test_image_recipes.py": (
        "a recipe's numbers are those of its source",
        ("recipes/resnet50.py", "recipes/small_images.py"),
    ),
    "recipes/test_pretraining.py": (
        "runs on text from the shards to the scores",
        ("recipes/causal.py", "recipes/run_text.py", "recipes/task.py"),
    ),
    "recipes/test_recipe.py": (
        "a recipe is found, a field changed and a job made by its name",
        ("recipes/change.py", "recipes/tasks.py"),
    ),
    "report/test_page.py": (
        "a page is tested as a whole, with all its sections and figures",
        (
            "comparison/wording.py",
            "report/curves.py",
            "report/document.py",
            "report/layout.py",
            "report/quality.py",
            "report/questions.py",
            "report/running.py",
            "report/svg.py",
            "report/tables.py",
            "report/trust.py",
        ),
    ),
    "study/test_theory.py": (
        "one experiment from its functions to its page",
        ("report/theory.py", "study/theory/experiments.py", "study/theory/problem.py"),
    ),
    "study/test_advice.py": ("advice is what measuring runs say", ("study/advise.py", "study/measuring.py")),
    "test_elsewhere.py": (
        "advice from logs of other trainers, and what is printed of it",
        ("cli/advice_text.py", "study/own_runs.py"),
    ),
    "study/test_declaration.py": (
        "a study is declared by a catalogue, protocols and shipped files",
        ("study/catalogue.py", "study/protocols.py", "study/shipped.py"),
    ),
    "study/test_findings.py": (
        "what a study shows before and after its trials",
        ("study/command.py", "study/results.py"),
    ),
    "study/test_planted_truth.py": ("a grid is what a whole study measures", ("comparison/grid.py",)),
    "study/test_trial_queue.py": ("a trial runs as it is taken from the queue", ("study/execution.py",)),
}


def names_of_long_files() -> dict[str, bool]:
    """{file: whether it has tests of its name} of every file of more than sixty lines."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE)
        if path.name != "__init__.py" and path.read_text(encoding="utf-8").count("\n") > FEWEST_LINES:
            found[name.as_posix()] = (TESTS / name.parent / f"test_{path.name}").exists()
    return found


def test_a_file_has_tests_of_its_name_or_the_table_says_where_they_are() -> None:
    listed = [name for _, names in ELSEWHERE.values() for name in names]
    long = names_of_long_files()
    untested = sorted(name for name, tested in long.items() if not tested and name not in listed)
    assert not untested, f"write tests/{untested[0].replace('/', '/test_')}, or list the file with a reason"
    needless = sorted(name for name in listed if long.get(name, True))
    assert not needless, f"{needless[0]}: has tests of its name, is short or is gone; take it out of the table"
    assert len(listed) == len(set(listed))


def test_the_tests_that_the_table_names_exist() -> None:
    assert [name for name in ELSEWHERE if not (TESTS / name).is_file()] == []


def test_helpers_lie_in_one_folder() -> None:
    """Among the tests there are tests and fixtures; a helper is in tests/support. The oracle is the paper."""
    others = [path for path in TESTS.rglob("*.py") if not path.name.startswith("test_") and path.name != "conftest.py"]
    assert [path for path in others if path.parent.name != "support"] == [TESTS / "oracle.py"]
