"""Epochs with the steps that lead to them: what a light client follows from genesis."""

from dataclasses import fields

from node.api.answer import BUSY, Answer, Path, Read
from node.api.context import ApiContext
from node.api.resource import EPOCHS_PATH, STEPS_MAX
from node.api.views import EpochPage, EpochsQuery, StepView, base64_text, checkpoint_view
from node.audit.prove import prove_steps
from node.home.document import dump
from vm.inclusion import CertifiedHeader
from vm.quorum import Epoch
from vm.shape import pack
from vm.succession import Step


def _read_epochs(context: ApiContext, _: Path, query: EpochsQuery) -> Answer:
    steps = prove_steps(context.chain, int(query.after), STEPS_MAX)
    more = len(steps) == STEPS_MAX
    return Answer(
        EpochPage(
            items=[_view(step) for step in steps],
            next=str(steps[-1].epoch.number) if more else None,
        )
    )


def _view(step: Step) -> StepView:
    return StepView(
        epoch=dump(step.epoch),
        checkpoint=checkpoint_view(CertifiedHeader(step.header, step.certificate, None)),
        proof=base64_text(pack(step)),
    )


READS = (
    Read(
        EPOCHS_PATH,
        EpochsQuery,
        _read_epochs,
        "The steps to the epochs after a number, for who holds the genesis alone",
        EpochPage,
        BUSY,
        columns=tuple(field.name for field in fields(Epoch)),
        turn="after",
    ),
)
