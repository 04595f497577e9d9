"""Runs that are asked for by a request: checked, submitted as Ray jobs, looked up, stopped."""

import json
from pathlib import Path
from typing import Any

from cluster.cells import digest
from decoders import RECIPES, bundled
from evaluators import tasks
from jobs.client import ClusterError, asking, check_id, connect
from jobs.config import RunConfig, load_config
from jobs.errors import MENDABLE, UserError
from jobs.plan import Plan
from jobs.serve.catalogue import BadRequest
from jobs.serve.config import Evaluations
from jobs.serve.protocol import Evaluation, EvaluationRequest
from jobs.submit import OUT, submit


class EvaluationService:
    """What the service submits.

    Args:
        settings: what may be asked for.
        reports: whether reports of the run directories' folder are served.
    """

    def __init__(self, settings: Evaluations, reports: Path | None) -> None:
        self._settings = settings
        self._shown = reports is not None and settings.out.resolve() == reports.resolve()

    def submit(self, asked: EvaluationRequest) -> Evaluation:
        """Submits a run; the same request again names the same one.

        Raises:
            BadRequest: the configuration is not valid, or asks for what is not allowed.
            ServiceError: the cluster does not answer.
        """
        file = self._settings.configs / asked.config
        if not file.is_file():
            known = ", ".join(sorted(path.name for path in self._settings.configs.glob("*.yaml")))
            raise BadRequest(f"there is no configuration {asked.config}: {known}", "config")
        try:
            config = load_config(file, asked.set, asked.limit)
            self._check(config)
            if not Plan(config).cells:
                raise UserError("no decoder names a model, so there is nothing to run")
            name = f"{config.name}-{digest(config.model_dump(mode='json'), 8)}"
            out = str(self._settings.out.resolve() / name)
            return self.state(submit(config, out, address=self._settings.address))
        except ClusterError as error:
            raise ServiceError(str(error)) from error
        except MENDABLE as error:
            raise BadRequest(str(error), "set") from error

    def state(self, job: str) -> Evaluation:
        """What the cluster and the run itself say of a job.

        Raises:
            BadRequest: the service has no such job.
        """
        _, info = self._found(job)
        out = self._folder(info)
        ended = str(info.status) == "SUCCEEDED" and (out / "report.html").exists()
        return Evaluation(
            id=job,
            status=str(info.status),
            out=out.name,
            message=info.message,
            progress=_progress(out / "progress.json"),
            report=f"/reports/{out.name}/report.html" if ended and self._shown else None,
        )

    def cancel(self, job: str) -> Evaluation:
        """Asks the job to stop; what has ended of it is safe.

        Raises:
            BadRequest: the service has no such job.
        """
        client, _ = self._found(job)
        try:
            with asking(client.get_address(), job):
                client.stop_job(job)
        except ClusterError as error:
            raise ServiceError(str(error)) from error
        return self.state(job)

    def _found(self, job: str) -> tuple[Any, Any]:
        """The cluster's client and the job, if it is one of the service's."""
        unknown = BadRequest(f"there is no evaluation {job[:100]!r}", "id", status=404)
        try:
            check_id(job)
        except UserError as error:
            raise unknown from error
        try:
            client = connect(self._settings.address)
            with asking(client.get_address(), job):
                info = client.get_job_info(job)
        except ClusterError as error:
            raise ServiceError(str(error)) from error
        except UserError as error:
            raise unknown from error
        if self._folder(info).parent != self._settings.out.resolve():
            raise unknown
        return client, info

    def _folder(self, info: Any) -> Path:
        return Path(str((info.metadata or {}).get(OUT, "/")))

    def _check(self, config: RunConfig) -> None:
        """Refuses whatever a run would read beyond what the service's configuration lists.

        Raises:
            UserError: a model, data folder, task file or server is not listed.
        """
        allowed = {*bundled(), *self._settings.sources}
        sources = {name: model.source or name for name, model in config.models.items()}
        named = [source for source in sources.values() if source not in allowed]
        for entry in config.decoders:
            for settings in (entry.settings, *entry.per_task.values()):
                for key in PARTNERS & settings.keys():
                    named += [
                        str(value)
                        for value in _listed(settings[key])
                        if value not in allowed and value not in sources
                    ]
                urls = _listed(settings.get("url"))
                if any(url not in self._settings.urls for url in urls if url is not None):
                    raise UserError(f"decoder {entry.recipe}: this service asks no such server")
                if any(value is not None for value in _listed(settings.get("api_key_env"))):
                    raise UserError(f"decoder {entry.recipe}: api_key_env cannot be set here")
        if named:
            raise UserError(f"model {named[0]!r} is not one that this service may load")
        for name, task in config.tasks.items():
            if name not in tasks():
                raise UserError(f"task {name!r} is not one of {', '.join(tasks())}")
            if task.data is not None and task.data not in self._settings.data:
                raise UserError(f"tasks.{name}.data is not a folder that this service may read")


class ServiceError(RuntimeError):
    """The cluster cannot be asked."""


PARTNERS = {kind.partner_setting for kind in RECIPES.values() if kind.partner_setting}
"""Settings that name a second model."""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _progress(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
