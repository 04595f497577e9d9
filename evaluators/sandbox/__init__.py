"""Judging programs that nobody trusts: the program alone in a sandbox, its tests outside."""

from evaluators.sandbox.checker import Case, Verdict, check
from evaluators.sandbox.launch import TIERS, SandboxError, Tier
from evaluators.sandbox.limits import Limits
from evaluators.sandbox.tiers import Probe, probe, trial

__all__ = [
    "TIERS",
    "Case",
    "Limits",
    "Probe",
    "SandboxError",
    "Tier",
    "Verdict",
    "check",
    "probe",
    "trial",
]
