"""What is wrong with named checkpoints, found in their folders before work starts (imports nothing heavy)."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rlm.data.checkpoint_files import OFFSET, Description, Family, check_weights, weight_files
from rlm.data.config import PretrainedTokenizer, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.pretrained import Named, description, files_at_hand, own_folder, vocabulary_mistake
from rlm.data.tokenizer_files import TokenizerFiles, describe_tokenizer, has_tokenizer
from rlm.errors import ConfigError

OF_ENCODERS = ("cls_token", "sep_token", "pad_token", "mask_token")
"""Special tokens of a text that encoders read."""
_MULTIPLE = 8  # of `rlm.data.tokens.join`
_ELSEWHERE = 512  # positions of every published BERT: of a checkpoint that is not on this machine
_WORDS: dict[Family, str] = {
    "encoder": "reads both sides of a token",
    "decoder": "reads one side of a token only",
    "encoder-decoder": "is an encoder-decoder",
}

Found = TypeVar("Found")


class CheckpointCheck:
    """Looks at the checkpoints that an experiment names; `mistakes` are worded as those of `rlm.stages.checks`.

    What is wrong with a folder is said once, at the field that names it first. A name of the hub that was not
    downloaded is looked at when it is loaded.
    """

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self._said: set[str] = set()

    def say(self, field: str, mistake: str) -> None:
        """Note a mistake, unless another field has it."""
        if mistake not in self._said:
            self._said.add(mistake)
            self.mistakes.append(f"{field}: {mistake}")

    def _look(self, field: str, look: Callable[[], Found]) -> Found | None:
        try:
            return look()
        except ConfigError as error:
            self.say(field, str(error))
        except OSError as error:
            self.say(field, f"{error.filename}: cannot be read ({error.strerror})")
        return None

    def model(self, field: str, named: Named, family: Family | None = None, instead: str = "") -> Description | None:
        """What is known of a model, whose weights must be whole.

        Args:
            field: that names it.
            named: the checkpoint.
            family: it must be of; None: of any.
            instead: what to name in its place.
        """

        def look() -> Description | None:
            found, folder = description(named), files_at_hand(named)
            if folder is not None:
                check_weights(folder)
                if not weight_files(folder):
                    _refuse_lack(named, folder, "no weights (model.safetensors or pytorch_model.bin)")
            return found

        found = self._look(field, look)
        if found is not None and not found.model_type:
            self.say(field, f"config.json of {named.name} names no `model_type`; write it there, such as bert or gpt2")
        if found is not None and family is not None and found.family not in (family, None):
            words = _WORDS[found.family]
            self.say(field, f"{named.name} is a {found.model_type}, which {words}; name {instead}")
            return None
        return found

    def encoder(self, field: str, named: Named) -> Description | None:
        """A model that reads both sides."""
        return self.model(field, named, "encoder", "a BERT-like checkpoint")

    def masked(self, field: str, named: Named) -> Description | None:
        """A BERT, which fills masks and reads answers."""
        found = self.model(field, named, "encoder", "a BERT checkpoint")
        if found is None or found.model_type in ("bert", "realm", ""):
            return found
        self.say(field, f"{named.name} is a {found.model_type}, not a bert; name a BERT checkpoint")
        return None

    def language_model(self, field: str, named: Named) -> Description | None:
        """A model that reads one side, and tells what follows."""
        return self.model(field, named, "decoder", "a causal language model, such as openai-community/gpt2")

    def translator(self, field: str, named: Named) -> Description | None:
        """An encoder-decoder."""
        return self.model(field, named, "encoder-decoder", "an encoder-decoder, such as Helsinki-NLP/opus-mt-de-en")

    def tokenizer(self, field: str, named: Named, needs: tuple[str, ...] = ()) -> TokenizerFiles | None:
        """What is known of a tokenizer, which must have some special tokens."""

        def look() -> TokenizerFiles | None:
            folder = files_at_hand(named)
            if folder is None:
                return None
            if not has_tokenizer(folder):
                _refuse_lack(named, folder, "no tokenizer (tokenizer.json or vocab.txt)")
                return None
            return describe_tokenizer(folder)

        found = self._look(field, look)
        missing = [] if found is None else found.missing(needs)
        if missing:
            lack = ", ".join(missing)
            self.say(field, f"the tokenizer of {named.name} has no {lack}; name one that has, such as that of a BERT")
        return found

    def text(self, field: str, config: object, needs: tuple[str, ...] = ()) -> TokenizerFiles | None:
        """The tokenizer of a text; None where one is trained."""
        return self.tokenizer(field, config, needs) if isinstance(config, PretrainedTokenizer) else None

    def vocabulary(
        self, model: Description | None, named: Named, field: str, text: object, tokenizer: TokenizerFiles | None
    ) -> None:
        """Refuse a text with tokens that its model does not know.

        Args:
            model: what is known of it.
            named: the model.
            field: that names the text's tokenizer.
            text: configuration of that tokenizer, trained or a checkpoint's.
            tokenizer: what is known of a checkpoint's.
        """
        if model is None or model.vocabulary is None:
            return
        size, mistake = model.vocabulary, None
        if tokenizer is not None and tokenizer.tokens is not None:
            count = len(tokenizer.tokens)
            mistake = self._look(field, lambda: vocabulary_mistake(named, size, count, "text"))
        elif isinstance(text, TrainedTokenizer | TrainedByteTokenizer) and text.vocab_size < size:
            mistake = (
                f"{named.name} has a vocabulary of {size}, the tokenizer that is trained at most one of"
                f" {text.vocab_size}; write {{kind: pretrained, name: {named.name}}}"
            )
        if mistake:
            self.say(field, mistake)


def _refuse_lack(named: Named, folder: Path, lack: str) -> None:
    """Refuse a folder of one's own that lacks a part; config.json alone describes a checkpoint, enough to plan with."""
    if own_folder(named.name) is not None and {path.name for path in folder.iterdir()} != {"config.json"}:
        raise ConfigError(f"{named.name}: {lack} in the folder; download it, too, or name another checkpoint")


def known(named: Named) -> Description | None:
    """What is known of a checkpoint; None too where it is damaged, which `CheckpointCheck` says."""
    try:
        return description(named)
    except ConfigError:
        return None


def width_of(named: Named) -> int | None:
    """Of a checkpoint's states, where it is known."""
    found = known(named)
    return None if found is None else found.width


def reads(named: Named) -> int:
    """Word pieces that an encoder reads, in batches padded as they are here."""
    found = known(named)
    if found is None or found.positions is None:
        return _ELSEWHERE
    return found.positions if found.model_type in OFFSET else found.positions - found.positions % _MULTIPLE
