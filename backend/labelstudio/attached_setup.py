"""Attach Tightloop to an existing Label Studio project, and detach it."""

from __future__ import annotations

from collections.abc import Mapping

from backend.base.errors import LabelStudioError
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.client import UNCERTAINTY_SAMPLING
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.project import OUR_DESCRIPTION
from backend.labelstudio.project_connection import BACKEND_TITLE, Address, is_our_backend
from backend.labelstudio.project_setup import ProjectSetup
from backend.store.project_record import FormerSettings

NAMES: Mapping[str, str] = {
    "sampling": "the order of the tasks (sampling)",
    "show_collab_predictions": "the setting that shows predictions to annotators",
    "description": "the description",
}


class AttachedSetup(ProjectSetup, AttachedProject):
    """The steps that attach Tightloop to a project or detach it.

    Each step may be repeated. No step creates, changes or deletes a task or an annotation.
    """

    def former_settings(self) -> FormerSettings:
        """Return the settings that detaching restores. Values that we set count as empty."""
        now = self._read()
        version, description = str(now["model_version"] or ""), now["description"]
        is_ours = self._our_version(version) or version == BACKEND_TITLE
        return FormerSettings(
            sampling=now["sampling"],
            model_version="" if is_ours else version,
            show_collab_predictions=bool(now["show_collab_predictions"]),
            description="" if self._is_our_description(description) else description,
        )

    def is_held_by_another(self, address: Address) -> bool:
        """Return whether another Tightloop receives this project's annotations."""
        return any(
            (hook["headers"] or {}).get(SECRET_HEADER, address.secret) != address.secret
            and hook["url"] != f"{address.url}/webhook"
            for hook in self._list("api/webhooks/")
        )

    def other_backends(self, url: str) -> list[str]:
        """Return the titles of the team's own ML backends."""
        return [row["title"] for row in self._list("api/ml/") if not is_our_backend(row, url)]

    def disconnect(self, address: Address) -> None:
        """Delete our webhook and our ML backend connection."""
        for row in self._list("api/ml/"):
            if is_our_backend(row, address.url):
                self._server.request("DELETE", f"api/ml/{row['id']}", may_be_gone=True)
        for hook in self._list("api/webhooks/"):
            is_ours = (hook["headers"] or {}).get(SECRET_HEADER) == address.secret
            if is_ours or hook["url"] == f"{address.url}/webhook":
                self._server.request("DELETE", f"api/webhooks/{hook['id']}/", may_be_gone=True)

    def delete_our_predictions(self) -> None:
        """Delete the predictions of all our versions.

        When Label Studio 1.23 deletes a version, it does not update the tasks' counts of
        predictions. Therefore, its column "Total predictions" still counts them.
        """
        for version in self.model_versions():
            self.delete_predictions(version)

    def restore(self, former: FormerSettings, *, is_blind: bool) -> list[str]:
        """Delete our predictions, and restore the project's former settings.

        Settings that the team has changed since Tightloop was attached are not restored. Returns a
        sentence for each of these settings, and for a former model version without predictions.
        """
        now = self._read()
        ours: dict[str, bool] = {
            "sampling": now["sampling"] == UNCERTAINTY_SAMPLING,
            "show_collab_predictions": now["show_collab_predictions"] == (not is_blind),
            "description": self._is_our_description(now["description"]),
        }
        wanted = former.model_dump(include={*ours})
        changes = {k: v for k, v in wanted.items() if ours[k] and now[k] != v}
        version = str(now["model_version"] or "")
        if self._our_version(version) or version in ("", BACKEND_TITLE):
            version = former.model_version
        self.delete_our_predictions()
        if changes:
            self._change(**changes)
        left = [
            f"{NAMES[name]} was not restored, because the team has changed it since then"
            for name, value in wanted.items()
            if not ours[name] and now[name] != value
        ]
        return left + self._restore_version(version)

    def _restore_version(self, version: str) -> list[str]:
        """Restore the model version that orders the tasks. Deleting predictions may clear it."""
        if self._read()["model_version"] == version:
            return []
        try:
            self._change(model_version=version)
        except LabelStudioError:
            return [
                f'the former model version "{version}" was not restored, because it no longer has '
                "predictions"
            ]
        return []

    def _is_our_description(self, text: str | None) -> bool:
        return (text or "").startswith(OUR_DESCRIPTION)
