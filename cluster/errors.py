"""What ends a run that the same command can finish."""


class PipelineError(RuntimeError):
    """The run stopped; the rows that had ended are safe."""


class CommitError(RuntimeError):
    """Rows are missing; the same command computes them."""
