"""Dates, capitalised phrases, and word pieces inside spans against a loop over characters."""

import random
from pathlib import Path

import numpy as np
import pytest

from rlm.data.salient_spans import CharSpan, SalientSpanTable, align, find_dates, tag_capitalised, without_overlaps
from rlm.data.tokens import Ragged


@pytest.mark.parametrize(
    "text, dates",
    [
        ("On 12 May 2008 it rained.", ["12 May 2008"]),
        ("On the 12th of May it rained.", ["12th of May"]),
        ("May 12, 2008, and Sept. 3 and Jul 4th", ["May 12, 2008", "Sept. 3", "Jul 4th"]),
        ("in May 2008 or June, 1914", ["May 2008", "June, 1914"]),
        ("It may rain in May; April is wet.", ["April"]),
        ("in 1998 and the 1990s (1999–2003)", ["1998", "1990s", "1999", "2003"]),
        ("from July 14–20, 1965", ["July 14–20, 1965"]),
        ("2008-05-12 and 44 BC and the 19th century", ["2008-05-12", "44 BC", "19th century"]),
        ("$1998, 1,998, 1998.5, 1998%, 19981, A1998, 3000, 999", []),
        ("born 1 August 1744, died 1829.", ["1 August 1744", "1829"]),
        ("32 May 2008", ["May 2008"]),
        ("Decembering Mayors", []),
    ],
)
def test_find_dates__finds_dates_and_no_other_numbers(text: str, dates: list[str]) -> None:
    assert [text[span.start : span.end] for span in find_dates(text)] == dates


def phrases(*sentences: str) -> list[list[str]]:
    tagged = tag_capitalised([sentences])
    return [[text[s.start : s.end] for s in spans] for text, spans in zip(sentences, tagged, strict=True)]


@pytest.mark.parametrize(
    "sentence, found",
    [
        ("a river in New York City, near Hudson", ["New York City", "Hudson"]),
        ("king of the Duchy of Saxe-Coburg, Alexander the Great", ["Duchy of Saxe-Coburg", "Alexander the Great"]),
        ("by Ludwig van Beethoven and Guy de la Tour", ["Ludwig van Beethoven", "Guy de la Tour"]),
        ("by J. R. R. Tolkien and J.K. Rowling", ["J. R. R. Tolkien", "J.K. Rowling"]),
        ("by Dr. Jekyll at a U.S. army post", ["Dr. Jekyll", "U.S."]),
        ("saw O'Brien's and Obama’s house", ["O'Brien", "Obama"]),
        ("flew on Apollo 11 with 3.5 tons of Cargo 3.5 and Size 40%", ["Apollo 11", "Cargo", "Size"]),
        ("sold by Marks & Spencer, Procter&Gamble", ["Marks & Spencer", "Procter&Gamble"]),
        ("in Ålesund with Émile Zola and Лев Толстой", ["Ålesund", "Émile Zola", "Лев Толстой"]),
        ("said The Beatles, and If, I", ["Beatles"]),
        ("iPhone and eBay", []),
        ("", []),
    ],
)
def test_tag_capitalised__finds_phrases_inside_a_sentence(sentence: str, found: list[str]) -> None:
    assert phrases(f"and {sentence}") == [found]


@pytest.mark.parametrize(
    "sentence, found",
    [
        ("However, it rained.", []),
        ("Rain fell.", []),
        ("Marie Curie worked.", ["Marie Curie"]),
        ("The Beatles sang.", ["Beatles"]),
        ("In Paris it rained.", ["Paris"]),
        ("About 214 tons fell.", []),
        ("NASA launched it.", ["NASA"]),
        ('"Rain fell" was a song.', []),
        ("Friends of Ada Lovelace met.", ["Ada Lovelace"]),
        ("Friends of the Tower met.", ["Tower"]),
        ("Ludwig van Beethoven and Marks & Spencer", ["Ludwig van Beethoven", "Marks & Spencer"]),
    ],
)
def test_tag_capitalised__doubts_the_first_word_of_a_sentence(sentence: str, found: list[str]) -> None:
    assert phrases(sentence) == [found]


def test_tag_capitalised__believes_a_first_word_that_its_passage_has_inside_a_sentence() -> None:
    assert phrases("Lovelace wrote.", "We met Ada Lovelace.", "Wrote she?") == [["Lovelace"], ["Ada Lovelace"], []]
    assert phrases("Bank of England notes.", "A Bank.") == [["Bank of England"], ["Bank"]]
    other_passages = tag_capitalised([["Lovelace wrote."], ["We met Ada Lovelace."]])
    assert [len(spans) for spans in other_passages] == [0, 1]


def test_without_overlaps__keeps_the_longest() -> None:
    phrase, date, inside, after = (
        CharSpan(0, 12, "PHRASE"),
        CharSpan(8, 12, "DATE"),
        CharSpan(2, 4, "PHRASE"),
        CharSpan(12, 14, "DATE"),
    )
    assert without_overlaps([after, inside, date, phrase]) == [phrase, after]
    assert without_overlaps([CharSpan(4, 8, "B"), CharSpan(6, 10, "A")]) == [CharSpan(4, 8, "B")]


def test_align__keeps_pieces_wholly_inside_as_a_loop_does() -> None:
    draw = random.Random(0)
    starts, ends, spans = [], [], []
    for _ in range(60):
        edges = sorted(draw.sample(range(80), 2 * draw.randrange(0, 12)))
        starts.append(edges[::2])
        ends.append(edges[1::2])
        cuts = sorted(draw.sample(range(90), 2 * draw.randrange(0, 5)))
        spans.append([CharSpan(a, b, "X") for a, b in zip(cuts[::2], cuts[1::2], strict=True)])
    expected, position = [], 0
    for sentence in range(60):
        for span in spans[sentence]:
            inside = [
                i
                for i, (a, b) in enumerate(zip(starts[sentence], ends[sentence], strict=True))
                if span.start <= a and b <= span.end
            ]
            if inside:
                expected.append([sentence, inside[0], inside[-1] + 1, position])
            position += 1
    found = align(spans, Ragged.from_rows(starts), Ragged.from_rows(ends))
    assert found.tolist() == expected
    assert 20 < len(expected) < position


def test_align__of_nothing_is_empty() -> None:
    nothing = Ragged.from_rows([[], []])
    assert align([[], []], nothing, nothing).shape == (0, 4)


def test_salient_span_table__refuses_arrays_that_disagree(tmp_path: Path) -> None:
    np.save(tmp_path / "sentences.npy", np.zeros((2, 3), np.int64))
    for name in ("starts", "ends", "labels"):
        Ragged.from_rows([[0]]).save(tmp_path, name)
    with pytest.raises(ValueError, match=r"damaged \(2 sentences, 1 starts, 1 ends, 1 labels\); delete the folder"):
        SalientSpanTable.open(tmp_path)
