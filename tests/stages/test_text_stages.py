"""What a stage's key depends on, and mistakes that are found before anything runs."""

import pytest

from rlm.data.config import (
    DocumentsConfig,
    EncyclopediaSource,
    FilesSource,
    PretrainedTokenizer,
    TrainedByteTokenizer,
    TrainedTokenizer,
)
from rlm.retrieval.config import (
    Bm25,
    ChunkEncoderConfig,
    ChunkIndexConfig,
    NeighboursConfig,
    PretrainedEncoder,
    ScratchEncoder,
)
from rlm.stages.stage import Stage
from rlm.stages.text_stages import check_chunks, check_documents, check_windows, documents_stage, neighbours_stages
from rlm.stages.wire import pack, unpack

SOURCE = EncyclopediaSource(entities=50)
MINILM = ChunkEncoderConfig(encoder=PretrainedEncoder(name="minilm"))


def contents(changed: str = ""):
    """A digest of everything that is read, as the name it is read by; of `changed`, another."""

    def content(source) -> str:
        named = source.files[0] if isinstance(source, FilesSource) else getattr(source, "name", "")
        return named + "*" if changed and named == changed else named

    return content


def stages(changed: str = "", chunks=None, k: int = 2) -> tuple[Stage, ...]:
    content = contents(changed)
    config = DocumentsConfig(source=FilesSource(files=("wiki",)), exclude=FilesSource(files=("test",)))
    corpus = documents_stage(config, PretrainedTokenizer(name="gpt2"), content)
    text = documents_stage(DocumentsConfig(source=FilesSource(files=("lm",))), corpus, content)
    chunks = chunks or ChunkIndexConfig(encoder=MINILM)
    return corpus, text, *neighbours_stages(chunks, NeighboursConfig(k=k), text, corpus, content)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("wiki", [True, True, True, True]),
        ("test", [True, True, True, True]),
        ("gpt2", [True, True, True, True]),
        ("lm", [False, True, False, True]),
        ("minilm", [False, False, True, True]),
        ("other", [False, False, False, False]),
    ],
)
def test_stages__have_other_keys_when_a_file_they_read_changes(changed: str, expected: list[bool]) -> None:
    pairs = zip(stages(), stages(changed), strict=True)
    assert [one.key != two.key for one, two in pairs] == expected


def test_stages__have_other_keys_when_their_configuration_changes() -> None:
    one = stages()
    assert [a.key != b.key for a, b in zip(one, stages(k=3), strict=True)] == [False, False, False, True]
    bm25 = stages(chunks=ChunkIndexConfig(index=Bm25(), encoder=MINILM))
    assert [a.key != b.key for a, b in zip(one, bm25, strict=True)] == [False, False, True, True]
    assert bm25[2].content == "", "BM25 reads no encoder"


def test_stages__of_an_encoder_from_scratch_have_a_seed() -> None:
    assert stages()[2].seed is None
    assert stages(chunks=ChunkIndexConfig(encoder=ChunkEncoderConfig(encoder=ScratchEncoder())))[2].seed == 0


def test_unpack__when_packed() -> None:
    stage = stages()[3]
    assert unpack(pack(stage)) == stage
    for tokenizer in (TrainedTokenizer(), TrainedByteTokenizer(source=FilesSource(files=("lm",)))):
        trained = documents_stage(DocumentsConfig(source=SOURCE, part=(0.25, 1.0)), tokenizer, contents())
        assert unpack(pack(trained)) == trained
        read = tokenizer.source is not None
        changed = documents_stage(DocumentsConfig(source=SOURCE, part=(0.25, 1.0)), tokenizer, contents("lm"))
        assert (changed.key != trained.key) == read


def test_check__finds_mistakes_and_nothing_else() -> None:
    assert not check_documents("text", DocumentsConfig(source=SOURCE))
    assert not check_chunks("chunks", ChunkIndexConfig(encoder=MINILM))
    assert not check_chunks("chunks", ChunkIndexConfig(index=Bm25()))
    assert not check_windows("training.tokens", 512, 64) and not check_windows("evaluate", 512, 64, 128)
    assert check_documents("text", DocumentsConfig(source=SOURCE, part=(0.5, 0.2)))[0].startswith("text.part: found")
    assert "text.fraction: found 0.0" in check_documents("text", DocumentsConfig(source=SOURCE, fraction=0.0))[0]
    assert "chunks.encoder: none" in check_chunks("chunks", ChunkIndexConfig())[0]
    scratch = ChunkEncoderConfig(encoder=ScratchEncoder(max_positions=64))
    assert "at most 64" in check_chunks("chunks", ChunkIndexConfig(encoder=scratch))[0]
    assert "not longer than one chunk of 64" in check_windows("training.tokens", 64, 64)[0]
    assert "multiple of the chunk, 64" in check_windows("evaluate", 512, 64, 96)[0]
