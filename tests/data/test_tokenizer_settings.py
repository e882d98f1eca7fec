"""A vocabulary with settings beside it cuts text as transformers does, or is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, BertTokenizer

from anybatch.data import vocabulary
from anybatch.data.words import Encoder
from anybatch.errors import InputError
from anybatch.models.pretrained import save_tokenizer

LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
WORDS = [
    *vocabulary.SPECIAL_TOKENS, *LETTERS, *("##" + letter for letter in LETTERS if letter.isalnum()), "hello", "world",
    "café", "cafe", "Hello", "中", "文", "中文", "ﬁ", "µ", "<S>", "<T>",
]  # fmt: skip
TEXT = "Hello WORLD café CAFÉ cafe\u0301 中文 ﬁne µm <S> <new> <NEW> x\u200by\u00a0z [unused1] Straße İ don't"


def folder(path: Path, words: list[str] = WORDS, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "config.json").write_text('{"model_type": "bert"}')
    if settings:
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    return path


def check_as_transformers(path: Path, text: str = TEXT) -> list[str]:
    """The tokens of `text`, which are those of transformers, one way of encoding and the other."""
    tokenizer = vocabulary.load(vocabulary.in_folder(path))
    theirs = AutoTokenizer.from_pretrained(path, local_files_only=True)
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert encoded.tokens == theirs.tokenize(text)
    assert encoded.ids == theirs.encode(text, add_special_tokens=False)
    assert Encoder(tokenizer).encode([text, text])[0].tolist() == 2 * encoded.ids
    return list(encoded.tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"model_max_length": 512},
    ],
)
def test_settings_hold_beside_either_file_and_in_the_run_s_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    beside_words = check_as_transformers(folder(tmp_path / "words", **settings))
    BertTokenizer(str(tmp_path / "words" / "vocab.txt")).save_pretrained(tmp_path / "json")
    (tmp_path / "json" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", **settings})
    )
    (tmp_path / "json" / "config.json").write_text('{"model_type": "bert"}')
    assert check_as_transformers(tmp_path / "json") == beside_words
    (tmp_path / "run").mkdir()
    loaded = vocabulary.load(tmp_path / "words" / "vocab.txt")
    save_tokenizer(loaded, tmp_path / "run", 128)
    (tmp_path / "run" / "config.json").write_text('{"model_type": "bert"}')
    assert check_as_transformers(tmp_path / "run") == beside_words
    again = vocabulary.load(tmp_path / "run" / "tokenizer.json")
    assert vocabulary.fingerprint(again) == vocabulary.fingerprint(loaded)


def test_settings_without_a_config_of_a_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", do_lower_case=False)
    (path / "config.json").unlink()
    (path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert "café" in vocabulary.load(path / "vocab.txt").encode("café").tokens
    assert "cafe" not in vocabulary.load(path / "vocab.txt").encode("café").tokens


def test_added_tokens_are_met_in_text_and_in_the_fingerprint(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", do_lower_case=True)
    before = vocabulary.fingerprint(vocabulary.load(path / "vocab.txt"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<new>", AddedToken("don't", normalized=False)])
    tokenizer.save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "bert"}')
    assert {"<new>", "don't"} <= set(check_as_transformers(tmp_path / "b"))
    after = vocabulary.fingerprint(vocabulary.load(tmp_path / "b" / "tokenizer.json"))
    assert after != before


def test_a_lone_vocabulary_with_marks_in_capitals_is_lower_cased(tmp_path: Path) -> None:
    words = [word for word in WORDS if word != "Hello"]
    assert vocabulary.load(folder(tmp_path / "a", words) / "vocab.txt").encode("Hello").tokens[1:-1] == ["hello"]
    assert vocabulary.load(folder(tmp_path / "b") / "vocab.txt").encode("Hello").tokens[1:-1] == ["Hello"]


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"cls_token": "<S>"}, WORDS, r"a: its settings call \[CLS\] '<S>'; special tokens must have BERT's names"),
        ({"pad_token": "<pad>"}, WORDS, r"a: its settings call \[PAD\] '<pad>'"),
        ({"tokenizer_class": "NoSuchTokenizer"}, WORDS, "a: no readable tokenizer"),
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}, WORDS, "no readable tokenizer"),
        ({"do_lower_case": True}, ["\ufeff[PAD]", *WORDS[1:]], r"token '\[PAD\]' is number 0 there, and 1"),
        ({"do_lower_case": True}, [*WORDS, "hello"], "'hello' occurs twice"),
        ({"do_lower_case": True}, [word for word in WORDS if word != "[MASK]"], r"has no \[MASK\]"),
    ],
)
def test_settings_that_cannot_be_followed_are_one_line(
    settings: dict[str, Any], words: list[str], message: str, tmp_path: Path
) -> None:
    path = folder(tmp_path / "a", words, **settings)
    with pytest.raises(InputError, match=message) as caught:
        vocabulary.load(path / "vocab.txt")
    assert "\n" not in str(caught.value)
    (path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError):
        vocabulary.load(path / "vocab.txt")


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("normalizer", {"type": "NFKC"}),
        ("normalizer", None),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("model", {"type": "WordLevel", "unk_token": "[UNK]"}),
        ("model", {"type": "BPE", "merges": []}),
        ("model", {"max_input_chars_per_word": 3}),
        ("model", {"continuing_subword_prefix": "@@"}),
    ],
)
def test_what_transformers_would_drop_of_a_tokenizer_is_named(part: str, changed: Any, tmp_path: Path) -> None:
    path = folder(tmp_path / "a", do_lower_case=True)
    AutoTokenizer.from_pretrained(path).save_pretrained(path)
    vocabulary.load(path / "tokenizer.json")
    content = json.loads((path / "tokenizer.json").read_text())
    kept = content["model"] if part == "model" and "type" not in changed else {}
    content[part] = {**kept, **changed, "vocab": content["model"]["vocab"]} if part == "model" else changed
    (path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"transformers drops its {part} because of the settings beside it"):
        vocabulary.load(path / "tokenizer.json")
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}))
    check_as_transformers(path)


def test_a_tokenizer_that_cuts_at_random_is_refused(tmp_path: Path) -> None:
    numbers = {word: number for number, word in enumerate(WORDS)}
    Tokenizer(models.BPE(numbers, [], dropout=0.5, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"cuts text at random \(dropout = 0.5\)"):
        vocabulary.load(tmp_path / "tokenizer.json")


def test_whatever_is_accepted_is_cut_as_transformers_cuts_it(tmp_path: Path) -> None:
    draw = random.Random(0)
    read = 0
    for number in range(30):
        words = draw.sample(WORDS[5:], k=draw.randint(5, len(WORDS) - 5))
        settings = {
            name: draw.choice(values)
            for name, values in (
                ("do_lower_case", [True, False]),
                ("strip_accents", [True, False, None]),
                ("tokenize_chinese_chars", [True, False]),
                ("unk_token", ["[UNK]", "[UNK]", "[unk]"]),
                ("extra_special_tokens", [[], ["<T>"]]),
            )
            if draw.random() < 0.7
        }
        path = folder(tmp_path / str(number), [*vocabulary.SPECIAL_TOKENS, *words], **settings)
        if draw.random() < 0.3:
            AutoTokenizer.from_pretrained(path).save_pretrained(path)
        text = "".join(draw.choices([*TEXT, " "], k=200))
        try:
            vocabulary.load(vocabulary.in_folder(path))
        except InputError:
            continue
        check_as_transformers(path, text)
        read += 1
    assert read > 12
