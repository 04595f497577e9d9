"""A baseline on a server: any that speaks OpenAI's completions API."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from decoders.recipes.base import Decoder, EngineKind, Generation, Visibility, at_least


@dataclass(frozen=True, kw_only=True)
class Remote(Decoder):
    """Asks an OpenAI-compatible server; the row's model gives its tokenizer, nothing else."""

    recipe: ClassVar[str] = "remote"
    paper: ClassVar[str] = (
        "OpenAI's completions API, as vLLM, SGLang, llama.cpp and others serve it"
    )
    models: ClassVar[str] = "whatever the server serves; the row's model is only its tokenizer"
    exactness: ClassVar[str] = "the server's; forwards are unknown, speed is that of its device"
    generation: ClassVar[Generation] = "autoregressive"
    engine: ClassVar[EngineKind] = "remote"
    visibility: ClassVar[frozenset[Visibility]] = frozenset(
        {"bidirectional", "causal", "block-causal"}
    )

    url: str = ""
    """Base of the API, e.g. http://127.0.0.1:8000/v1; prompts go to its /completions."""
    server_model: str = ""
    """The model's name on the server."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key, on the driver and on every worker; the
    key itself is written nowhere. Empty: no key is sent."""
    timeout_s: float = 120.0
    """Seconds that one attempt may take, and the longest pause that a server may ask for."""
    retries: int = 4
    """Attempts after the first, where the server is busy, fails or is out of reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or parts.query or parts.fragment:
            self.refuse(f"url must look like http://127.0.0.1:8000/v1, got {self.url!r}")
        if "@" in parts.netloc:
            self.refuse("url must not hold a name or a key; name a variable in api_key_env")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if not self.server_model:
            self.refuse("server_model must name a model of the server")
        if self.api_key_env and not self.api_key_env.isidentifier():
            self.refuse("api_key_env must be the name of an environment variable, not a key")
        if not 0 < self.timeout_s < float("inf"):
            self.refuse(f"timeout_s must be > 0, got {self.timeout_s}")
        at_least(self, 0, "retries")

    @property
    def host(self) -> str:
        """Where the server is."""
        return urlsplit(self.url).netloc

    @property
    def device(self) -> str:
        """What the rows' speed belongs to: no device of ours."""
        return f"remote:{self.host}"
