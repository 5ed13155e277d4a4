"""The service ~/reload_model: serves another version of the model folder, between two frames, losing none."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rise_msgs.srv import ReloadModel

from rise_perception.core.errors import ConfigError, RiseError
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.inference.segmenter import Segmenter
from rise_perception.nodes.spin import pause

POLL_PERIOD = 0.1  # seconds


class ModelService:
    """Serves the request; versions come from one folder, by name, and only with the right checksum.

    Args:
        node: whose service it is.
        folder: gives that of the versions, as the learner writes it; empty: every request is refused.
        serving: the segmenter, None while there is none.
        changed: called in the executor when another version serves.
    """

    def __init__(
        self,
        node: Node,
        folder: Callable[[], str],
        serving: Callable[[], Segmenter | None],
        changed: Callable[[], None],
    ) -> None:
        self._node, self._folder, self._serving, self._changed = node, folder, serving, changed
        self._busy = False
        # A call that waits holds its callback group.
        group = ReentrantCallbackGroup()
        self._service = node.create_service(
            ReloadModel, "~/reload_model", self._on_reload, callback_group=group
        )

    def damaged(self) -> list[str]:
        """A sentence for everything in the folder that cannot be read."""
        root = Path(self._folder()).expanduser()
        return ModelStore(root).damaged() if self._folder() and root.is_dir() else []

    def begin(self, segmenter: Segmenter) -> str:
        """Serve from the start what served last; gives why that is not possible, empty when it is.

        A folder without any version yet is no problem: the learner may come later.
        """
        name = self._folder()
        root = Path(name).expanduser()
        if not name or not root.is_dir() or not ModelStore(root).versions():
            return ""
        try:
            folder = self._find("")
        except RiseError as error:
            return str(error)
        problems: list[str] = []
        segmenter.swap(folder, problems.append).join()
        return "; ".join(filter(None, problems))

    def _find(self, version: str) -> Path:
        """Folder of a version, checked; of the one that the learner says serves, without a name."""
        name = self._folder()
        if not name:
            raise ConfigError("no model folder is configured (parameter 'model_store'); nothing is reloaded")
        store = ModelStore(Path(name).expanduser())
        return (store.find(version) if version else store.serving()).folder

    async def _on_reload(
        self, request: ReloadModel.Request, response: ReloadModel.Response
    ) -> ReloadModel.Response:
        segmenter = self._serving()
        if segmenter is None or self._busy:
            response.message = "another version is being loaded" if self._busy else "no model is loaded yet"
            return response
        self._busy = True
        try:
            folder = self._find(request.version)

            def serves() -> bool:
                return folder.name in [model.card.version for model in segmenter.models]

            if serves():  # a learner asks at its start, too
                response.success, response.message = True, f"{folder.name} serves"
            else:
                said: list[str] = []
                segmenter.swap(folder, said.append)
                while not said:
                    await pause(self._node, POLL_PERIOD)
                # With torch in place of its engine it serves all the same, and the message says so.
                response.success, response.message = serves(), said[0] or f"{folder.name} serves"
                if response.success:
                    self._changed()
        except (RiseError, OSError) as error:
            response.message = str(error)
        except Exception as error:
            self._node.get_logger().error(traceback.format_exc())
            response.message = f"internal error, its trace is in the log: {error!r}"
        finally:
            self._busy = False
        response.version = segmenter.version
        return response
