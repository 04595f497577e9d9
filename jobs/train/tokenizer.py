"""The byte-level BPE tokenizer that all bundled models share.

Id 0 is `<|endoftext|>` (end and padding), id 1 `<|mask|>`; no token begins a text. Every digit
is a token of its own, and every UTF-8 text survives a round trip: there is no normalisation.
The text of a special token, met in ordinary text, is parsed as that token; whoever encodes
foreign text finds it by `MASK_ID in ids`.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jobs.train.config import TrainError

EOS, MASK = "<|endoftext|>", "<|mask|>"
EOS_ID, MASK_ID = 0, 1


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns the merges; the same texts in the same order give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, special=True, normalized=False) for text in (EOS, MASK)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise TrainError(f"the texts give {size} tokens, {vocab_size} are wanted: add text")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` as transformers loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Reads `tokenizer.json`.

    Raises:
        TrainError: if it is missing, damaged, or not a tokenizer of this project.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TrainError(f"there is no {path}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a damaged file
        raise TrainError(f"{path}: {error}") from None
    if tokenizer.token_to_id(EOS) != EOS_ID or tokenizer.token_to_id(MASK) != MASK_ID:
        raise TrainError(f"{path} lacks {EOS} as id {EOS_ID} and {MASK} as id {MASK_ID}")
    return tokenizer
