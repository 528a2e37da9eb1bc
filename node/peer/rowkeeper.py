"""A task's rows, read and checked once: trainer and verifier of a site share them."""

import asyncio
from collections.abc import Callable

from fl.dataset import leaves
from fl.model import Rows, prepare
from fl.sampling import Split, split
from node.client.board import Board
from node.peer.site import LocalData
from node.peer.stage import Stage
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Preprocessing, Site

TASKS_KEPT_MAX = 8  # whose rows stay in memory; those of others are read again


class Rowkeeper:
    """Prepares a task's rows once: they are the same in every round."""

    def __init__(self, load: Callable[[Preprocessing], LocalData]) -> None:
        self._load = load
        self._of_task: dict[str, tuple[Rows, Split]] = {}  # longest unused first
        self._loading = asyncio.Lock()  # trainer and verifier want the same rows at once

    async def rows(self, board: Board, stage: Stage, site: Site) -> tuple[Rows, Split]:
        """All rows and their three parts; raises `Refused` if they are not the registered ones."""
        dataset = await board.record(Dataset, site.dataset)
        if dataset is None:
            raise Refused("peer.dataset", f"expected dataset {site.dataset}, found none")
        async with self._loading:
            found = self._of_task.pop(stage.task.id, None)
            if found is None:
                found = await asyncio.to_thread(self._prepare, stage, dataset)
            self._of_task[stage.task.id] = found
            if len(self._of_task) > TASKS_KEPT_MAX:
                del self._of_task[next(iter(self._of_task))]
        return found

    def _prepare(self, stage: Stage, dataset: Dataset) -> tuple[Rows, Split]:
        preprocessing = stage.task.terms.preprocessing
        data = self._load(preprocessing)
        data.require_root(dataset)
        rows = prepare(stage.base.spec, preprocessing, data.table, leaves(data.table, data.secret))
        return rows, split(data.secret, data.table.labels)
