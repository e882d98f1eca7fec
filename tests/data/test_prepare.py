import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.shard_documents import documents as in_shards
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from anybatch.data import vocabulary
from anybatch.data.prepare import HELD_OUT, TOKENIZER, TRAIN, prepare
from anybatch.data.sentences import split_sentences
from anybatch.data.shard_writer import ShardWriter
from anybatch.data.shards import open_shards
from anybatch.data.text import read_documents
from anybatch.errors import InputError

MadeUp = Callable[[int], list[str]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_document_stands_in_one_part_in_order(folder: Path, made_up: MadeUp) -> None:
    tokenizer = vocabulary.load(folder / TOKENIZER)
    expected = [
        [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in split_sentences(document)]
        for document in made_up(80)
    ]
    places = []
    for name, count in ((TRAIN, 64), (HELD_OUT, 16)):
        part = open_shards(folder / name)
        part.verify()
        part.check_vocabulary(tokenizer)
        assert part.num_documents == count
        found = [[sentence.tolist() for sentence in document] for document in in_shards(part)]
        places.append([expected.index(document) for document in found])
    assert places[0] == sorted(places[0])
    assert places[1] == sorted(places[1])
    assert sorted(places[0] + places[1]) == list(range(80))
    assert len(open_shards(folder / TRAIN).parts) > 1


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, made_up: MadeUp) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(lambda: made_up(30), tmp_path / name, vocabulary_size=256, held_out=0.3, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_held_out_words_do_not_shape_the_vocabulary(tmp_path: Path, made_up: MadeUp) -> None:
    prepare(lambda: made_up(20), tmp_path / "a", vocabulary_size=256, held_out=0.5)
    held_out = open_shards(tmp_path / "a" / HELD_OUT)
    tokenizer = vocabulary.load(tmp_path / "a" / TOKENIZER)
    texts = {tokenizer.decode(document[0].tolist()) for document in in_shards(held_out)}

    def changed() -> list[str]:
        return [text.replace(".", "!") if is_held_out(text, texts) else text for text in made_up(20)]

    prepare(changed, tmp_path / "b", vocabulary_size=256, held_out=0.5)
    assert contents(tmp_path / "a")[TOKENIZER] == contents(tmp_path / "b")[TOKENIZER]
    assert contents(tmp_path / "a") != contents(tmp_path / "b")


def is_held_out(text: str, first_sentences: set[str]) -> bool:
    return any(text.lower().startswith(sentence.lower().rstrip(" .")) for sentence in first_sentences)


@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(4, 0.05, 2), (4, 0.99, 2), (5, 0.99, 3), (40, 0.05, 2), (10, 0.9, 8)]
)
def test_both_parts_get_something(tmp_path: Path, made_up: MadeUp, count: int, share: float, held_out: int) -> None:
    summary = prepare(lambda: made_up(count), tmp_path / "a", vocabulary_size=256, held_out=share)
    assert (summary["held_out"]["documents"], summary["train"]["documents"]) == (held_out, count - held_out)
    assert summary["vocabulary_size"] == vocabulary.load(tmp_path / "a" / TOKENIZER).get_vocab_size() <= 256


def test_a_given_vocabulary_is_used(tmp_path: Path, made_up: MadeUp, tokenizer: Tokenizer) -> None:
    prepare(lambda: made_up(10), tmp_path / "a", tokenizer=tokenizer)
    assert vocabulary.fingerprint(vocabulary.load(tmp_path / "a" / TOKENIZER)) == vocabulary.fingerprint(tokenizer)


def test_progress_counts_the_documents_of_each_pass(tmp_path: Path, made_up: MadeUp) -> None:
    seen: dict[str, list[int]] = {}
    prepare(
        lambda: made_up(10), tmp_path / "a", progress=lambda stage, done, *_: seen.setdefault(stage, []).append(done)
    )
    assert set(seen) == {"reading", "alphabet", "vocabulary", "tokens"}
    assert all(counts[-1] == 10 for counts in seen.values())


def words(*ordinary: str) -> Tokenizer:
    return vocabulary.from_words({word: number for number, word in enumerate((*vocabulary.SPECIAL_TOKENS, *ordinary))})


def without_unknown() -> Tokenizer:
    """One whose own unknown token is not in its vocabulary, so that it fails at the first other word."""
    model = WordLevel({word: number for number, word in enumerate((*vocabulary.SPECIAL_TOKENS, "one"))}, "<unknown>")
    return Tokenizer(model)


HELD_OUT_TOO_SHORT = (
    r"the held-out part has [01] documents? of two tokens or more: at least 2 are needed; give more text"
)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "0 documents: at least 4 are needed"),
        (
            ["Only one."],
            {},
            "1 document: at least 4 are needed, two to train on and two to hold out; in a .txt file two",
        ),
        (["One.", "Two.", "Three."], {}, "3 documents: at least 4 are needed"),
        (["\u200b"] * 4, {}, "the texts hold no word"),
        (["One two."] * 9 + ["\u200b"] * 9, {"held_out": 0.1, "seed": 3}, HELD_OUT_TOO_SHORT),
        (
            ["one", "two"] * 2,
            {"tokenizer": words("one", "two")},
            "the train part has 0 documents of two tokens or more",
        ),
        (["One two."] * 4, {"tokenizer": words()}, "the tokenizer: has no ordinary token"),
        (["One two."] * 4, {"tokenizer": without_unknown()}, "the tokenizer cannot encode the text: WordLevel error"),
        (["One.", "Two."], {"held_out": 0.0}, "held_out = 0.0: must lie between 0 and 1"),
        (["One.", "Two."], {"held_out": 1.0}, "held_out = 1.0: must lie between 0 and 1"),
        (["One.", "Two."] * 2, {"vocabulary_size": 3}, "vocabulary size 3: must be at least 256"),
        (["One.", "Two."] * 2, {"seed": -1}, "seed = -1"),
    ],
)
def test_what_cannot_be_prepared_is_named_and_leaves_nothing(
    tmp_path: Path, texts: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(lambda: texts, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_share_of_unknown_words_is_told(tmp_path: Path, made_up: MadeUp) -> None:
    half = ["one two. three four five six."] * 8
    known = prepare(lambda: half, tmp_path / "known", tokenizer=words("one", "two", "three", "four", "."))
    assert known["unknown_share"] == 2 / 8
    with pytest.raises(
        InputError, match=r"88% of the text's tokens are \[UNK\]: the vocabulary is of another language"
    ):
        prepare(lambda: half, tmp_path / "unknown", tokenizer=words("one"))
    assert [path.name for path in tmp_path.iterdir()] == ["known"]


def test_an_existing_folder_is_left_alone(tmp_path: Path, made_up: MadeUp) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(InputError, match="out: already exists; choose another folder or remove it"):
        prepare(lambda: made_up(5), tmp_path / "out")
    assert contents(tmp_path) == {"out/mine": b"keep"}


def test_broken_input_in_the_last_pass_leaves_nothing(tmp_path: Path, made_up: MadeUp) -> None:
    passes = 0

    def documents() -> Iterator[str]:
        nonlocal passes
        passes += 1
        yield from made_up(5)
        if passes == 4:
            raise InputError("a.jsonl:17: not valid JSON")

    with pytest.raises(InputError, match=r"a.jsonl:17"):
        prepare(documents, tmp_path / "out")
    assert passes == 4
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: ShardWriter, name: str, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr(ShardWriter, "_write", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare(lambda: made_up(5), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_says_why(tmp_path: Path) -> None:
    """The system's own refusal, of files above 64 kB, in place of a full disk: the reason must survive."""
    code = (
        "import errno, resource, sys\n"
        "from pathlib import Path\n"
        "from anybatch.data.prepare import prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        "    prepare(lambda: ['some words ' * 20_000] * 4, Path(sys.argv[1]) / 'out')\n"
        "except OSError as error:\n"
        "    print(error.errno == errno.EFBIG)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_corpus(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "corpus" / "valid.jsonl.xz"
    summary = prepare(lambda: read_documents([path]), tmp_path / "out", vocabulary_size=2048)
    assert summary["train"]["documents"] + summary["held_out"]["documents"] == 304
    assert summary["held_out"]["documents"] == 15
    assert 15 < summary["train"]["tokens"] / summary["train"]["sentences"] < 50
