import bz2
import gzip
import json
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.report import score
from rlm.report.scoring import score_files, wilson

QUESTIONS = [
    {"id": "1", "question": "who wrote hamlet", "answers": ["Shakespeare", "William Shakespeare"]},
    {"id": "2", "question": "capital of france", "answers": ["Paris"]},
    {"id": "3", "question": "first year of the war", "answers": [r"19(14|39)"], "answer_kind": "regex"},
    {"id": "4", "question": "largest planet", "answers": ["Jupiter"]},
]


def _write(path: Path, lines: list) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def _files(tmp_path: Path, predictions: list, questions: list = QUESTIONS) -> tuple[Path, Path]:
    return _write(tmp_path / "predictions.jsonl", predictions), _write(tmp_path / "answers.jsonl", questions)


def test_score_files__counts_by_hand(tmp_path: Path) -> None:
    found = score_files(
        *_files(
            tmp_path,
            [
                {"id": "1", "prediction": "the William  Shakespeare!"},
                {"question": "capital of france", "prediction": "Lyon"},
                {"id": 3, "prediction": "1939, in September"},
            ],
        )
    )
    assert (found.right, found.n, found.unanswered) == (2, 4, 1)
    assert found.exact_match == 50


def test_score__prints_exact_match_interval_and_what_is_missing(tmp_path: Path) -> None:
    printed = score(*_files(tmp_path, [{"id": "1", "prediction": "Shakespeare"}, {"id": "4", "prediction": None}]))
    # Wilson by hand: (1/4 + z²/8 ± z √(3/64 + z²/64)) / (1 + z²/4) with z = 1.95996.
    assert printed.splitlines() == [
        "exact match 25.00 (95 % Wilson interval 4.56 to 69.94, 1 of n = 4)",
        "3 of the questions have no prediction: counted as wrong",
    ]


def test_score__takes_the_answer_kind_that_is_given(tmp_path: Path) -> None:
    files = _files(tmp_path, [{"id": "1", "prediction": "Shakespeare, William"}])
    assert score_files(*files).right == 0
    assert score_files(*files, "regex").right == 1


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (412, 1000)])
def test_wilson__is_scipy_s(right: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((100 * expected.low, 100 * expected.high))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "1", "prediction": "x"'], "predictions.jsonl:1: not JSON"),
        (["", "[1]"], "predictions.jsonl:2: not a JSON object"),
        ([{"prediction": "x"}], "predictions.jsonl:1: neither `id` nor `question`"),
        ([{"id": "1"}], "predictions.jsonl:1: no `prediction`"),
        ([{"id": "1", "prediction": 3}], "predictions.jsonl:1: `prediction` is 3; write text"),
        ([{"id": "9", "prediction": "x"}], r"predictions.jsonl:1: id '9' is not among the 4 questions of .*answers"),
        (
            [{"id": "2", "prediction": "x"}, {"question": "capital of france", "prediction": "y"}],
            r"predictions.jsonl:2: question 'capital of france' was predicted before, at .*predictions.jsonl:1",
        ),
    ],
)
def test_score_files__names_file_and_line_of_a_mistake(tmp_path: Path, lines: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score_files(*_files(tmp_path, lines))


def test_score_files__asks_for_the_id_when_a_question_is_asked_twice(tmp_path: Path) -> None:
    files = _files(
        tmp_path, [{"question": "largest planet", "prediction": "x"}], [*QUESTIONS, {**QUESTIONS[3], "id": "5"}]
    )
    with pytest.raises(ConfigError, match="asks 'largest planet' 2 times; write the `id`"):
        score_files(*files)


def test_score_files__says_which_file_is_not_there(tmp_path: Path) -> None:
    _, answers = _files(tmp_path, [])
    with pytest.raises(ConfigError, match=r"nowhere.jsonl: cannot be read"):
        score_files(tmp_path / "nowhere.jsonl", answers)


def test_score_files__keeps_lines_whole_that_hold_unicode_separators(tmp_path: Path) -> None:
    line = '{"id": "2", "prediction": "Paris\u2028"}'
    assert score_files(*_files(tmp_path, [line])).right == 1


def test_score_files__reads_compressed_files_and_marks_and_blank_lines(tmp_path: Path) -> None:
    predictions, answers = _files(tmp_path, [{"id": "2", "prediction": "Paris"}, "", {"id": "1", "prediction": "x"}])
    for path in (predictions, answers):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    plain = score_files(predictions, answers)
    assert plain.right == 1
    assert score_files(*(path.with_name(f"{path.name}.gz") for path in (predictions, answers))) == plain
    predictions.write_bytes(bz2.compress(predictions.read_bytes()))
    with pytest.raises(ConfigError, match=r"predictions\.jsonl: .*bzip2"):
        score_files(predictions, answers)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "prediction": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"id": "1", "prediction": NaN}', "NaN is no number"),
        ('{"id": "1", "prediction": "x", "prediction": "y"}', "'prediction' twice"),
        ('{"id": "1", "prediction": "\\ud83d"}', "`prediction` holds half of a character"),
        ('{"question": "\\ud83d", "prediction": "x"}', "`question` holds half of a character"),
        ('{"id": true, "prediction": "x"}', "`id` is True"),
        ('{"id": 1.0, "prediction": "x"}', "`id` is 1.0"),
        ('{"id": null, "prediction": "x"}', "`id` is None"),
        ('{"id": "1", "prediction": ["x"]}', r"`prediction` is \['x'\]"),
    ],
)
def test_score_files__names_all_lines_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    files = _files(tmp_path, [line, {"id": "9", "prediction": "x"}])
    with pytest.raises(ConfigError, match=message) as caught:
        score_files(*files)
    assert [each.split(": ")[0] for each in str(caught.value).split("\n")] == [f"{files[0]}:1", f"{files[0]}:2"]


def test_score_files__names_the_answers_that_share_an_id(tmp_path: Path) -> None:
    repeated = [*QUESTIONS, {**QUESTIONS[1], "answers": ["Lutetia"]}]
    named = _files(tmp_path, [{"id": "2", "prediction": "x"}], repeated)
    with pytest.raises(
        ConfigError, match=rf"{named[1]}:5: `id` '2' is also that of {named[1]}:2; give each question its"
    ):
        score_files(*named)
    with pytest.raises(ConfigError, match=rf"{named[1]}:5: `id` '2'"):
        score_files(*_files(tmp_path, [{"question": "capital of france", "prediction": "x"}], repeated))
    assert score_files(*_files(tmp_path, [{"id": "1", "prediction": "Shakespeare"}], repeated)).right == 1
    other = [*QUESTIONS, {**QUESTIONS[0], "id": "2"}]
    with pytest.raises(ConfigError, match=rf"{named[1]}:5: `id` '2' is also that of {named[1]}:2"):
        score_files(*_files(tmp_path, [{"id": "4", "prediction": "x"}], other))


def test_score_files__refuses_predictions_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"predictions\.jsonl: holds no prediction"):
        score_files(*_files(tmp_path, [""]))


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.filterwarnings("error")
def test_score__takes_patterns_as_the_released_evaluation(tmp_path: Path, in_file: bool) -> None:
    questions = [
        {"id": "1", "question": "who", "answers": ["(Paris", "Rom"]},
        {"id": "2", "question": "how much", "answers": ["*5"]},
        {"id": "3", "question": "where", "answers": ["(x+)+$", "xx"]},
    ]
    if in_file:
        questions = [{**question, "answer_type": "regex"} for question in questions]
    lines = [
        {"id": "1", "prediction": "Rome"},
        {"id": "2", "prediction": "*5"},
        {"id": "3", "prediction": "x" * 60 + "y"},
    ]
    files = _files(tmp_path, lines, questions)
    first, *notes = score(*files, None if in_file else "regex").split("\n")
    assert first.startswith("exact match 66.67") and "2 of n = 3" in first
    assert [note.split(", ")[0] for note in notes] == [
        f"{files[1]}:1: `answers` holds '(Paris'",
        f"{files[1]}:2: `answers` holds '*5'",
        f"{files[1]}:3: `answers` holds '(x+)+$'",
    ]
    assert all("matches nothing" in note for note in notes)
    assert score(*files, None if in_file else "regex").split("\n")[1:] == notes, "what was told once is told again"
