"""Ranks as pods of an indexed Kubernetes Job (https://kubernetes.io/docs/tasks/job/indexed-parallel-processing-static/).

The connection file is a Secret that belongs to the Job: it is made when the Job is there, goes to ``kubectl`` over its
standard input, and is removed with the Job, by the cluster too.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
import tomllib
from pathlib import Path
from typing import Any

from deepseek_lab.distributed.launchers.batch import Batch, BatchError, Job
from deepseek_lab.distributed.launchers.launcher import Launcher, tail

_MOUNT = Path("/var/run/deepseek_lab")
_READABLE = 0o440
"""By the group below, whoever the image runs as."""
_GROUP = 65534


class Kubernetes(Batch):
    """Submits with ``kubectl``. The profile is TOML: ``image``, which is needed, ``namespace``, and the tables
    ``[job]``, ``[pod]`` and ``[container]``, which are laid over those of the manifest.
    """

    name = "kubernetes"
    command = "kubectl"
    own_python = "python"  # of the image

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parent = Launcher.parent  # the connection file reaches pods as a Secret
        try:
            self._values = tomllib.loads(self._profile)
        except tomllib.TOMLDecodeError as error:
            raise BatchError(f"the profile is no TOML: {error}") from None

    def render(self, job: Job) -> str:
        """The manifest of the Job, and of the Secret without what is in it."""
        made = self.manifest(job, "deepseek-ranks")
        secret = self._secret("deepseek-ranks", "", "(the connection file, when it is submitted)")
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": [made, secret]}, indent=2)

    def manifest(self, job: Job, name: str) -> dict[str, Any]:
        """The Job."""
        profile = self._values
        if "image" not in profile:
            raise BatchError(
                "a Kubernetes job needs an image that has this package",
                hint='--profile FILE with the line: image = "REGISTRY/IMAGE:TAG"',
            )
        size = len(job.identities)
        inside = dataclasses.replace(job, connection=_MOUNT / "connection.json", directory=Path())
        container = {
            "name": "rank",
            "image": profile["image"],
            "command": inside.keeper("JOB_COMPLETION_INDEX"),
            "volumeMounts": [{"name": "connection", "mountPath": str(_MOUNT), "readOnly": True}],
            "env": [
                {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
            ],
        }
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"fsGroup": _GROUP},
            "containers": [_over(container, profile.get("container", {}))],
            "volumes": [
                {"name": "connection", "secret": {"secretName": name, "defaultMode": _READABLE}},
            ],
        }
        spec = {
            "completionMode": "Indexed",
            "completions": size,
            "parallelism": size,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 300,
            "template": {"spec": _over(pod, profile.get("pod", {}))},
        }
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": self._metadata(name), "spec": spec}
        made: dict[str, Any] = _over(whole, profile.get("job", {}))
        return made

    def submit(self, job: Job) -> str:
        """Make the Job, then the Secret, for which its pods wait."""
        name = f"deepseek-ranks-{secrets.token_hex(4)}"
        made = json.dumps(self.manifest(job, name))
        uid = self.run("kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.uid}", given=made).strip()
        try:
            content = base64.b64encode(job.connection.read_bytes()).decode()
            self.run("kubectl", "create", "-f", "-", given=json.dumps(self._secret(name, uid, content)))
        except BatchError:
            self.cancel(name)
            raise
        return name

    def state(self, name: str) -> str:
        """How many pods run, or why none does."""
        told = self.run("kubectl", *self._where, "get", "job", name, "-o", "json", fails=False)
        status = json.loads(told).get("status", {}) if told else {}
        if not told or any(one["type"] in {"Complete", "Failed"} for one in status.get("conditions", ())):
            return ""
        return f"with {status.get('active', 0)} pods active, {status.get('ready', 0)} ready"

    def cancel(self, name: str) -> None:
        """Remove the Job with its pods and its Secret."""
        words = ["delete", "job", name, "--ignore-not-found", "--cascade=background", "--wait=false"]
        self.run("kubectl", *self._where, *words, fails=False)

    def output(self, name: str) -> str:
        """The end of what pods wrote."""
        words = ["logs", f"--selector=job-name={name}", "--tail=20", "--prefix"]
        return tail(self.run("kubectl", *self._where, *words, fails=False).encode())

    @property
    def _where(self) -> list[str]:
        return ["--namespace", self._values["namespace"]] if "namespace" in self._values else []

    def _metadata(self, name: str) -> dict[str, Any]:
        space = {"namespace": self._values["namespace"]} if "namespace" in self._values else {}
        return {"name": name, "labels": {"app.kubernetes.io/name": "deepseek-ranks"}, **space}

    def _secret(self, name: str, uid: str, content: str) -> dict[str, Any]:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**self._metadata(name), "ownerReferences": [owner]},
            "data": {"connection.json": content},
        }


def _over(own: Any, other: Any) -> Any:
    """One value laid over another: tables by key, lists one after the other."""
    if isinstance(own, dict) and isinstance(other, dict):
        return {
            **own,
            **{key: _over(own[key], value) if key in own else value for key, value in other.items()},
        }
    if isinstance(own, list) and isinstance(other, list):
        return own + other
    return other
