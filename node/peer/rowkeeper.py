"""A task's rows, read and checked once: trainer and verifier of a site share them."""

import asyncio
from collections.abc import Callable

from fl.dataset import leaves
from fl.model import Rows, prepare
from fl.sampling import Split, split
from node.client.client import Client
from node.peer.site import LocalData
from node.peer.stage import Stage
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Preprocessing, Site


class Rowkeeper:
    """Prepares a task's rows once: they are the same in every round."""

    def __init__(self, load: Callable[[Preprocessing], LocalData]) -> None:
        self._load = load
        self._of_task: dict[str, tuple[Rows, Split]] = {}

    async def rows(self, client: Client, stage: Stage, site: Site) -> tuple[Rows, Split]:
        """All rows and their three parts; raises `Refused` if they are not the registered ones."""
        found = self._of_task.get(stage.task.id)
        if found is None:
            dataset = await client.record(Dataset, site.dataset)
            if dataset is None:
                raise Refused("peer.dataset", f"expected dataset {site.dataset}, found none")
            found = await asyncio.to_thread(self._prepare, stage, dataset)
            self._of_task[stage.task.id] = found
        return found

    def _prepare(self, stage: Stage, dataset: Dataset) -> tuple[Rows, Split]:
        preprocessing = stage.task.terms.preprocessing
        data = self._load(preprocessing)
        data.require_root(dataset)
        rows = prepare(stage.base.spec, preprocessing, data.table, leaves(data.table, data.secret))
        return rows, split(data.secret, data.table.labels)
