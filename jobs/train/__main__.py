"""`python -m jobs.train`: makes the tokenizer, the corpus and the bundled models.

    python -m jobs.train --recipe heldout   --data DIR --out FILE.parquet
    python -m jobs.train --recipe tokenizer --data DIR --out TOKENIZER
    python -m jobs.train --recipe corpus    --data DIR --tokenizer TOKENIZER --out CORPUS
    python -m jobs.train --recipe mdlm      --data CORPUS --out RUN --minutes 18
    python -m jobs.train --recipe bd        --data CORPUS --out RUN --init tiny-ar
    python -m jobs.train --recipe joint     --data CORPUS --out RUN --base tiny-mdlm

`mdlm`, `ar`, `bd` (block diffusion) and `joint` (a joint sampler) also take the data folder itself
and make tokenizer and corpus on the way.
"""

import argparse
import sys
from pathlib import Path

import torch

from jobs.train.config import TrainConfig, TrainError, with_settings
from jobs.train.corpus import CORPUS_FILE, HELD_OUT_FILE, Corpus, tokenise
from jobs.train.data import held_out, read_held_out, write_held_out
from jobs.train.documents import tokenizer_texts, training_documents
from jobs.train.joint import JointTask, base_model
from jobs.train.loop import Length, Run
from jobs.train.tasks import OBJECTIVES, LanguageModel, Task
from jobs.train.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipes = ("heldout", "tokenizer", "corpus", "mdlm", "ar", "bd", "joint")
    parser.add_argument("--recipe", required=True, choices=recipes)
    parser.add_argument("--data", required=True, type=Path, help="data folder, or a made corpus")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder of a made tokenizer")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="weights to start from: a bundled name, a folder, a hub name",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="the frozen model of a joint sampler, named like --init's"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="length of the run, resumed parts included")
    length.add_argument("--minutes", type=float, help="the same on the clock (default 20)")
    parser.add_argument(
        "--pause", type=float, help="stop there (steps or minutes, as the length is), to resume"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    return parser


def make_corpus(data: Path, tokenizer: Path | None, out: Path, config: TrainConfig) -> None:
    """Writes tokenizer, tokenised mixture and held-out problems into one folder."""
    documents = training_documents(data, config.seed, config.corpus_scale)
    if tokenizer is None:
        made = train_tokenizer(tokenizer_texts(documents), config.shape.vocab_size)
    else:
        made = load_tokenizer(tokenizer)
    save_tokenizer(made, out, config.shape.max_positions)
    tokenise(made, documents).save(out / CORPUS_FILE)
    write_held_out(held_out(data), out / HELD_OUT_FILE)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainError(f"--device {name} cannot be used: {reason}") from None
    return device


def _task(args: argparse.Namespace, config: TrainConfig) -> Task:
    """The model in training with its data, made first where there is only the data folder."""
    device = _device(args.device)
    folder = args.data
    if not (folder / CORPUS_FILE).exists():
        folder = args.out / "corpus"
        if not (folder / CORPUS_FILE).exists():
            make_corpus(args.data, args.tokenizer, folder, config)
    tokenizer = load_tokenizer(folder)
    if tokenizer.get_vocab_size() != config.shape.vocab_size:
        size = tokenizer.get_vocab_size()
        raise TrainError(f"the corpus has {size} token ids: --set vocab_size={size}")
    corpus = Corpus.load(folder / CORPUS_FILE)
    problems = read_held_out(folder / HELD_OUT_FILE)
    if args.recipe == "joint":
        base = base_model(args.base, device)
        return JointTask(config, base, corpus, tokenizer, problems, device, args.init)
    return LanguageModel(args.recipe, config, corpus, tokenizer, problems, device, args.init)


def _check(args: argparse.Namespace) -> None:
    if not args.data.is_dir():
        raise TrainError(f"--data {args.data} is not a folder")
    for name in ("steps", "minutes", "pause"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise TrainError(f"--{name} must be positive, got {getattr(args, name)}")
    if (args.base is None) == (args.recipe == "joint"):
        raise TrainError("--recipe joint, and no other, takes --base: the model it is trained for")
    trained = (*OBJECTIVES, "joint")
    if args.init is not None and args.recipe not in trained:
        raise TrainError(f"--init is for {', '.join(trained)}, not for {args.recipe}")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        config = with_settings(TrainConfig(), args.settings)
        _check(args)
        if args.recipe == "heldout":
            write_held_out(held_out(args.data), args.out)
        elif args.recipe == "tokenizer":
            documents = training_documents(args.data, config.seed, config.corpus_scale)
            made = train_tokenizer(tokenizer_texts(documents), config.shape.vocab_size)
            save_tokenizer(made, args.out, config.shape.max_positions)
        elif args.recipe == "corpus":
            make_corpus(args.data, args.tokenizer, args.out, config)
        else:
            task = _task(args, config)
            minutes = None if args.steps else args.minutes or 20.0
            run = Run(args.recipe, task, config, Length(args.steps, minutes, args.pause), args.out)
            if args.resume:
                run.resume()
            run.train()
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
