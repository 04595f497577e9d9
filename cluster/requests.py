"""From a row of the manifest to what its engine decodes."""

from cluster.gate import Task
from cluster.rows import Detokenizer
from decoders import Request
from decoders.likelihood import ChoiceRequest, TextRequest
from decoders.recipes.remote import Remote
from decoders.remote import RemoteRequest
from evaluators import CorpusTask


def request_of(task: Task, detokenizer: Detokenizer, trace: bool) -> Request:
    """The row's request, of the kind that its recipe takes."""
    row, decoder = task.row, task.cell.decoder
    row["prompt_ids"] = tuple(int(token) for token in row["prompt_ids"])
    until = tuple(row["until"])
    if isinstance(decoder, Remote):
        return RemoteRequest(
            row["sid"], row["prompt_ids"], decoder, prompt=row["prompt"], until=until
        )
    if isinstance(task.cell.kind, CorpusTask):
        (text,) = row["choices"]
        return TextRequest(row["sid"], row["prompt_ids"], decoder, text=tuple(map(int, text)))
    if decoder.engine == "likelihood":
        choices = tuple(tuple(map(int, choice)) for choice in row["choices"])
        return ChoiceRequest(row["sid"], row["prompt_ids"], decoder, choices=choices)
    return Request(
        sid=row["sid"],
        prompt_ids=row["prompt_ids"],
        decoder=decoder,
        trace=trace,
        is_complete=detokenizer.completes(until) if until else None,
    )
