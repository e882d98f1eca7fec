import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.errors import InputError

TEXTS = ["The cat sat on the mat; the cat's hat!", "Ein Übergrößenträger käme 42 Mal.", "日本 [SEP] the end"] * 3


def test_special_tokens_come_first_and_the_size_is_kept() -> None:
    tokenizer = vocabulary.train(lambda: TEXTS, 256)
    assert [tokenizer.id_to_token(number) for number in range(5)] == list(vocabulary.SPECIAL_TOKENS)
    assert tokenizer.get_vocab_size() <= 256
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))
    assert {token.content for token in tokenizer.get_added_tokens_decoder().values()} == set(vocabulary.SPECIAL_TOKENS)


def test_a_size_is_reached_where_the_text_has_the_words(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 400


def test_text_is_read_as_bert_reads_it() -> None:
    tokenizer = vocabulary.train(lambda: TEXTS, 256)
    assert tokenizer.encode("The CAT's", add_special_tokens=False).tokens[:2] == ["the", "cat"]
    assert tokenizer.decode(tokenizer.encode("Käme the cat!", add_special_tokens=False).ids) == "kame the cat!"
    encoding = tokenizer.encode("the", "cat")
    assert (encoding.tokens, encoding.type_ids) == (["[CLS]", "the", "[SEP]", "cat", "[SEP]"], [0, 0, 0, 1, 1])
    assert "[UNK]" in tokenizer.encode("ж", add_special_tokens=False).tokens


def test_the_letters_of_a_special_token_are_text(tmp_path: Path) -> None:
    tokenizer = vocabulary.train(lambda: TEXTS, 256)
    vocabulary.save(tokenizer, tmp_path / "tokenizer.json")
    for each in (tokenizer, vocabulary.load(tmp_path / "tokenizer.json")):
        assert not {0, 2, 3, 4} & set(each.encode("a [SEP] and [MASK], [PAD] [CLS]", add_special_tokens=False).ids)


def test_the_rarest_characters_give_way() -> None:
    letters = "".join(chr(0x4E00 + number) for number in range(300))
    tokenizer = vocabulary.train(lambda: [letters, "common words are common"] * 2, 256)
    assert tokenizer.get_vocab_size() <= 256
    assert "[UNK]" not in tokenizer.encode("common words").tokens


def test_an_alphabet_grows_beyond_a_thousand_where_the_text_needs_it() -> None:
    characters = [chr(0x4E00 + number) for number in range(3000)]
    tokenizer = vocabulary.train(lambda: ["".join(characters), "".join(reversed(characters))], 20_000)
    encoded = tokenizer.encode("".join(characters), add_special_tokens=False)
    assert len(encoded.ids) == 3000
    assert encoded.tokens.count("[UNK]") <= 0.0005 * 3000
    # A Chinese character is a word, and never goes on with one.
    assert not any(token.startswith("##") for token in tokenizer.get_vocab())
    # A long tail of rare characters is left unknown, as ever.
    common = "plain words " * 500_000
    few = vocabulary.train(lambda: [common, "".join(characters)], 20_000)
    assert sum(len(token) == 1 for token in few.get_vocab()) == 1000


def test_a_text_of_one_line_gives_the_vocabulary_of_its_sentences() -> None:
    sentences = [f"The {number * number} cats of house {number} sat on mats." for number in range(4000)]
    one_line, lines = (vocabulary.train(lambda t=texts: t, 700) for texts in ([" ".join(sentences)], sentences))
    assert one_line.get_vocab() == lines.get_vocab()


def test_training_twice_gives_the_same_vocabulary() -> None:
    """In fresh processes, since the order of the trainer's hash tables changes from one to the next."""
    code = (
        "from anybatch.data import vocabulary\n"
        "import numpy as np\n"
        "rng = np.random.default_rng(0)\n"
        "words = [''.join(chr(97 + c) for c in rng.integers(0, 26, 6)) for _ in range(1200)]\n"
        "print(vocabulary.fingerprint(vocabulary.train(lambda: [' '.join(words)] * 2, 700)))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


def test_saved_and_loaded_it_is_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    vocabulary.save(tokenizer, path)
    loaded = vocabulary.load(path)
    assert vocabulary.fingerprint(loaded) == vocabulary.fingerprint(tokenizer)
    assert loaded.encode("Bacodi fule?").ids == tokenizer.encode("Bacodi fule?").ids
    other = vocabulary.train(lambda: TEXTS, 256)
    assert vocabulary.fingerprint(other) != vocabulary.fingerprint(tokenizer)


def without_mask(tokenizer: Tokenizer) -> str:
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] != "[MASK]"]
    value["model"]["vocab"]["mask"] = value["model"]["vocab"].pop("[MASK]")
    return json.dumps(value)


def with_gap(tokenizer: Tokenizer) -> str:
    value = json.loads(tokenizer.to_str())
    value["model"]["vocab"]["zzz"] = 5000
    return json.dumps(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda tokenizer: "{", "tokenizer.json: no readable tokenizer.json"),
        (lambda tokenizer: '{"a": 1}', "tokenizer.json: no readable tokenizer.json"),
        (without_mask, r"tokenizer.json: has no \[MASK\]; BERT needs"),
        (with_gap, "numbers 401 tokens up to 5000"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, tokenizer: Tokenizer, content, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content(tokenizer))
    with pytest.raises(InputError, match=message) as caught:
        vocabulary.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        vocabulary.load(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="is a folder"):
        vocabulary.load(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        vocabulary.load(tmp_path / "latin")


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (TEXTS, 255, "vocabulary size 255: must be at least 256"),
        (TEXTS, 1_000_001, "vocabulary size 1000001: must be at most 1000000"),
        (TEXTS, 10**12, "vocabulary size 1000000000000: must be at most 1000000"),
        (TEXTS, 2**64 - 1, "must be at most 1000000"),
        ([" ", "\n"], 256, "hold no word"),
        ([], 256, "no word"),
    ],
)
def test_what_cannot_be_trained_is_named(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vocabulary.train(lambda: texts, size)


def test_a_very_long_word_costs_no_more_than_its_pieces() -> None:
    def trained(word: str) -> str:
        return vocabulary.fingerprint(vocabulary.train(lambda: [*TEXTS, f"before {word} after"], 300))

    word = "abcde" * 500
    assert trained(word) == trained(" ".join([word[:1000], word[1000:2000], word[2000:]]))


def test_two_tokens_of_one_number_are_named(tmp_path: Path) -> None:
    tokenizer = vocabulary.train(lambda: TEXTS, 256)
    vocabulary.save(tokenizer, tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["another"] = content["model"]["vocab"]["the"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"'another', 'the' have the same number, \d+"):
        vocabulary.load(tmp_path / "tokenizer.json")


def test_a_vocabulary_of_special_tokens_alone_is_named() -> None:
    tokenizer = vocabulary.from_words({name: number for number, name in enumerate(vocabulary.SPECIAL_TOKENS)})
    with pytest.raises(InputError, match="the vocabulary: has no ordinary token, only 5 special ones"):
        vocabulary.ordinary_ids(tokenizer)
