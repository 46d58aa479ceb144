"""The work of the stages of texts, from which a forecast makes seconds and bytes (imports nothing heavy)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOKENS_PER_PASSAGE = {"encyclopedia": 28.0, "": 135.0}
"""By the kind of source."""
CHUNK_TOKENS, EMBEDDING = 64, 384
"""Of neighbours, whose configuration does not tell them."""
CHUNK_ENCODER = 2.0 * 12 * 6 * EMBEDDING**2
"""Operations a token of the encoder of chunks, MiniLM's, where it is not told."""
VOCABULARY = 8_000.0
QUESTIONS, QUESTION_TOKENS = 3_000.0, 16.0
DECODER = {"layers": 12, "hidden_size": 768}
"""Of a checkpoint, GPT-2's."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage does."""

    pieces: float = 0.0
    """Tokens cut from text."""
    trained: float = 0.0
    """Operations of training, forward and backward."""
    encoded: float = 0.0
    """Operations without gradients."""
    searched: float = 0.0
    """Operations of inner products."""
    compared: float = 0.0
    """Pairs of tokens."""
    memory: float = 0.0
    """Bytes above those of an idle process."""
    disk: float = 0.0
    """Bytes."""


def documents(config: Any, tokens: Callable[[str], float]) -> Work:
    """Tokens of two bytes; ids, titles and lengths are small beside them."""
    return Work(pieces=tokens(""), memory=3e8, disk=2.2 * tokens(""))


def chunk_index(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every chunk is encoded once; the index holds the embeddings again, in two bytes."""
    if config["index"]["kind"] == "bm25":
        return Work(pieces=tokens("corpus"), memory=40 * tokens("corpus"), disk=8 * tokens("corpus"))
    encoder = config["encoder"]["encoder"]
    width = encoder.get("hidden_size", EMBEDDING)
    operations = 2.0 * 12 * encoder["layers"] * width**2 if "layers" in encoder else CHUNK_ENCODER
    size = tokens("corpus") / config["chunk_tokens"] * 6 * width
    return Work(encoded=tokens("corpus") * operations, memory=size, disk=size)


def neighbours(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every chunk of the text is encoded and compared with every chunk of the corpus."""
    text, corpus = (tokens(role) / CHUNK_TOKENS for role in ("text", "corpus"))
    return Work(
        encoded=tokens("text") * CHUNK_ENCODER,
        searched=2 * text * corpus * EMBEDDING,
        memory=2 * corpus * EMBEDDING,
        disk=12 * text * config["k"],
    )


def retro_train(config: Any, tokens: Callable[[str], float]) -> Work:
    """The decoder reads every token, the encoder the neighbours: 2 k of its tokens for each."""
    training, read = config["train"]["training"], config["train"]
    count = training["steps"] * training["batch_size"] * read["tokens"]
    weights, kept = _weights(config["model"])
    batch = training["batch_size"] * read["tokens"]
    logits = 3 * 4 * batch * VOCABULARY
    return Work(
        trained=3 * count * _operations(config["model"], _share(read)),
        memory=16 * weights + batch * kept * (1 + _share(read)) + logits,
        disk=28 * weights,
    )


def perplexity(config: Any, tokens: Callable[[str], float]) -> Work:
    """Windows overlap where they are read more often than a window's length apart."""
    read = config["evaluate"]
    again = read["tokens"] / (read["stride"] or read["tokens"])
    batch = read["batch_size"] * read["tokens"]
    return Work(
        encoded=tokens("text") * again * _operations(config["model"], _share(read)),
        memory=4 * _weights(config["model"])[0] + 2 * 4 * batch * VOCABULARY,
        disk=1e5,
    )


def leakage(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every token of the text is compared with those of its chunk's neighbours, of two chunks each."""
    compared = tokens("text") * config["neighbours"]["k"] * 2 * CHUNK_TOKENS
    return Work(compared=compared, memory=16 * tokens("text"), disk=1e5)


def question_neighbours(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every question is compared with every chunk of the corpus."""
    corpus = tokens("corpus") / CHUNK_TOKENS
    return Work(
        encoded=QUESTIONS * QUESTION_TOKENS * CHUNK_ENCODER,
        searched=2 * QUESTIONS * corpus * EMBEDDING,
        memory=2 * corpus * EMBEDDING,
        disk=12 * QUESTIONS * config["passages"]["k"],
    )


def retro_finetune(config: Any, tokens: Callable[[str], float]) -> Work:
    """The decoder reads the prompt and the answer, the encoder the passages."""
    read, (length, share) = config["finetune"], _answered(config)
    batch = read["training"]["batch_size"] * length
    weights, kept = _weights(config["model"])
    return Work(
        trained=3 * read["training"]["steps"] * batch * _operations(config["model"], share),
        memory=16 * weights + batch * kept * (1 + share) + 3 * 4 * batch * VOCABULARY,
        disk=28 * weights,
    )


def retro_answer(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every token is read once, as the cache keeps those before."""
    length, share = _answered(config)
    return Work(
        encoded=QUESTIONS * length * _operations(config["model"], share),
        memory=4 * _weights(config["model"])[0] + 2 * 4 * config["answer"]["batch_size"] * length * VOCABULARY,
        disk=500 * QUESTIONS,
    )


def _answered(config: Any) -> tuple[float, float]:
    """Tokens of a prompt with its answer, and neighbour tokens for each of them."""
    finetune, chunk = config["finetune"], config["model"]["chunk_tokens"]
    length = finetune["prompt_chunks"] * chunk + finetune["answer_tokens"]
    passages = finetune["k"] * (finetune["passage_tokens"] or 2 * chunk)
    return length, finetune["prompt_chunks"] * passages / length


def datastore(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every token is read once; its key takes two bytes a unit of width, or four."""
    settings = config["datastore"]
    decoder = {**DECODER, **config["model"].get("decoder", {})}
    width, layers = decoder["hidden_size"], decoder["layers"]
    again = settings["tokens"] / (settings["stride"] or settings["tokens"])
    head = VOCABULARY * width if config["spoken"] else 0.0
    size = {"float16": 2, "float32": 4}[settings["dtype"]] * width + 2
    return Work(
        encoded=tokens("text") * again * 2.0 * (12 * layers * width**2 + head),
        memory=4 * 12 * layers * width**2 + 16 * settings["batch_size"] * settings["tokens"] * 4 * width,
        disk=tokens("text") * size,
    )


def datastore_index(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every key is compared with every centroid."""
    keys = _keys(tokens)
    sample = 4 * min(keys, 256 * config["lists"]) * EMBEDDING
    return Work(searched=2 * keys * config["lists"] * EMBEDDING, memory=100 * keys + sample, disk=75 * keys)


def knn_search(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every token is compared with every key, as fast as a model encodes; a quantised index takes a quarter of that."""
    queries, keys, held = tokens("queries"), _keys(tokens), 10 * tokens("queries") * config["k"]
    share = 0.25 if config["index"]["kind"] == "ivf_pq" else 1.0
    return Work(encoded=share * 2 * queries * keys * EMBEDDING, memory=min(4 * keys * EMBEDDING, 1e9), disk=held)


def knn_evaluate(config: Any, tokens: Callable[[str], float]) -> Work:
    """Neighbours of both texts are read a few times."""
    return Work(compared=1e3 * tokens("queries"), memory=5e8, disk=1e6 + 4 * tokens("queries"))


def _keys(tokens: Callable[[str], float]) -> float:
    """Of all datastores, of kNN-LM or kNN-MT."""
    return sum(tokens(f"datastore{suffix}") for suffix in ("", *(f"_{number}" for number in range(8))))


TEXT_STAGES: dict[str, Callable[[Any, Callable[[str], float]], Work]] = {
    work.__name__: work
    for work in (
        *(documents, chunk_index, neighbours, retro_train, perplexity, leakage),
        *(question_neighbours, retro_finetune, retro_answer),
        *(datastore, datastore_index, knn_search, knn_evaluate),
    )
}


def source_tokens(config: Mapping[str, Any], passages: float) -> float:
    """Of documents made from so many passages."""
    low, high = config["part"]
    each = TOKENS_PER_PASSAGE.get(config["source"]["kind"], TOKENS_PER_PASSAGE[""])
    return passages * each * (high - low) * config["fraction"]


def _share(read: Mapping[str, Any]) -> float:
    """Neighbour tokens for each token of the text."""
    return float(read["k"] * (2 if read["part"] == "both" else 1))


def _operations(model: Mapping[str, Any], share: float) -> float:
    """Of one token, forward, with its share of neighbours."""
    decoder, encoder = {**DECODER, **model["decoder"]}, model["encoder"]
    width = decoder["hidden_size"]
    read = 2.0 * (12 * decoder["layers"] * width**2 + VOCABULARY * width)
    return read + share * 2.0 * 12 * encoder["layers"] * encoder["hidden_size"] ** 2


def _weights(model: Mapping[str, Any]) -> tuple[float, float]:
    """Weights of a model, and bytes of activations a token: 34 a layer and unit of width."""
    shapes = [{**DECODER, **model["decoder"]}, model["encoder"]]
    weights = sum(12.0 * s["layers"] * s["hidden_size"] ** 2 + VOCABULARY * s["hidden_size"] for s in shapes)
    return weights, max(34.0 * shape["layers"] * shape["hidden_size"] for shape in shapes)
