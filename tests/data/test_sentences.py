"""Where a sentence ends, in prose, lists, verse and other scripts; and that no letter is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch.data.sentences import LONGEST_WORD, clean, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Mr. and Mrs. Smith met Dr. J. R. Brown in the U.S. Senate.", "They left."],
        ["It costs 3.50 dollars, i.e. More than 2.", "Version 3.11 is out."],
        ["“Why?” he asked.", "“Because,” she said.", "‘No!’", "(It was late.)", "[Sic.]", "Then 5 came."],
        ['He said "Stop!"', '"Go on."', "Done."],
        ["See vol. 3, no. 7, pp. 12 and fig. 2.", "He said no.", "We agree."],
        ["Wait… what?", "Well…", "Éric came!", "Ωmega too?!", "Yes."],
        ["It was I.", "He knew."],
        ["1. First things first.", "2. Then the rest."],
        ["He came from St. Petersburg to Co. Cork on Jan. 3.", "The end"],
        ["the file a.b is open. but this goes on."],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_paragraphs_end_sentences_and_lines_do_not() -> None:
    assert split_sentences("A heading\n\nFirst line\nsecond  line. New\n \t\n\n\nlast") == [
        "A heading",
        "First line second line.",
        "New",
        "last",
    ]


@given(st.text(alphabet='aB1 .!?…\n"“”’()é,U'))
def test_no_character_is_lost_or_made_up(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)


def test_items_of_a_list_are_sentences_of_their_own() -> None:
    text = "You need:\n- two eggs\n * some flour\n12. salt\nand so\n1984 it was\n-5 degrees"
    assert split_sentences(text) == [
        "You need:",
        "- two eggs",
        "* some flour",
        "12. salt and so 1984 it was -5 degrees",
    ]


@pytest.mark.parametrize(
    "sentences",
    [
        ["他来了。", "你呢？", "「好！」", "她说。"],
        ["هل تعرف؟", "نعم۔", "لا أعرف."],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["זה משפט.", "וזה עוד אחד."],
    ],
)
def test_scripts_without_capitals(sentences: list[str]) -> None:
    spaced = "" if sentences[0].endswith("。") else " "
    assert split_sentences(spaced.join(sentences)) == sentences


def test_text_without_punctuation_is_parted_evenly() -> None:
    words = [f"w{number}" for number in range(700)]
    sentences = split_sentences("\n".join(words))
    assert " ".join(sentences).split() == words
    assert {len(sentence.split()) for sentence in sentences} == {116, 117}
    assert split_sentences(" ".join(words[:256])) == [" ".join(words[:256])]


def test_a_word_without_an_end_is_cut() -> None:
    sentences = split_sentences("a" * (3 * LONGEST_WORD + 5) + " b")
    assert sentences == [" ".join(["a" * LONGEST_WORD] * 3 + ["aaaaa", "b"])]


def test_what_is_no_text_is_taken_out() -> None:
    assert clean("a\x00b\x1b\ufeff co\xadop\t1\r\n2\x85\x1c3\u200c") == "ab coop\t1\r\n2\x85\x1c3\u200c"
