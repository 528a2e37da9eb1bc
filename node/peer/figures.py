"""How well a model does on this hospital's test rows; the figures stay here."""

import numpy as np
import torch

from fl.fixed import Int32s, Ints
from fl.metric import Figures, Numbers, binary_figures, class_figures
from fl.model import Rows, build, load
from vm.record import ModelSpec, Output

LOGIT_MAX = 1e6  # a diverged model's: beyond, squares would overflow


def evaluate(spec: ModelSpec, grid_bits: int, weights: Ints | Int32s, rows: Rows) -> Figures:
    """The figures of a model with these weights, [parameters], on some rows, one or more."""
    module = build(spec)
    load(module, weights, grid_bits)
    with torch.no_grad():
        found: Numbers = module(rows.inputs).numpy()
    logits = np.clip(np.nan_to_num(found), -LOGIT_MAX, LOGIT_MAX)
    labels = rows.labels.numpy()
    match spec.output:
        case Output.BINARY:
            return binary_figures(labels, logits[:, 0])
        case Output.CLASSES:
            return class_figures(labels, logits)
