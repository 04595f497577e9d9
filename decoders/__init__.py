"""Decoders of diffusion and autoregressive language models on one batched engine."""

import lazy_loader

# Names come when they are used: the networks bring torch and transformers, which take seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
