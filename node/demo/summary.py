"""What the demo says in the end: the JSON document, and tables for people."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from node.audit.check import EVIDENCE
from node.demo.splits import Figures
from vm.learning import Round, UpdateStatus
from vm.refusal import Refused
from vm.terms import Evidence

MODELS = (
    ("alone", "alone"),
    ("federated", "federated"),
    ("pooled", "pooled, as many row visits (reference only)"),
)
ERRORS = 2  # standard errors that a difference must exceed to be called one


def round_line(found: Round, evidence: Evidence) -> str:
    """A round in one line, with what backs its updates."""
    accepted = [o.organisation for o in found.outcomes if o.status is UpdateStatus.ACCEPTED]
    line = (
        f"round {found.number}: accepted {len(accepted)} of {len(found.outcomes)} "
        f"({evidence}: {EVIDENCE[evidence]})"
    )
    if found.score_bp is not None:
        line += f", held-out log-loss {found.score_bp / 10_000:.2f} nat"
    for outcome in found.outcomes:
        if outcome.status is not UpdateStatus.ACCEPTED:
            line += (
                f"\n  {outcome.trainer} {outcome.status.value}: {outcome.code} ({outcome.reason})"
            )
    return line if found.model_version is not None else f"{line}\n  failed: {found.reason}"


def document(
    *,
    wall_s: float,
    validators: list[dict[str, Any]],
    rounds: tuple[Round, ...],
    figures: Figures,
    audit: dict[str, Any],
    verified: bool,
    transactions: int,
) -> dict[str, Any]:
    """The result as JSON values."""
    names = [name for name, _ in MODELS]
    return {
        "wall_s": round(wall_s, 1),
        "validators": validators,
        "rounds": [_round(found) for found in rounds],
        "auc": {name: round(figures.means[name], 4) for name in names},
        "auc_own": {name: round(figures.means[f"own_{name}"], 4) for name in names},
        "auc_standard_error": {name: round(figures.errors[name], 4) for name in names},
        "auc_own_standard_error": {name: round(figures.errors[f"own_{name}"], 4) for name in names},
        "auc_chain_split": {name: round(value, 4) for name, value in figures.chain.items()},
        "gain": {name: [round(x, 4) for x in pair] for name, pair in figures.gains.items()},
        "splits": figures.splits,
        "chain_reproduced": figures.reproduced,
        "audit": {"verified": verified, "checked_steps": audit["steps"]},
        "transactions": transactions,
    }


def check(result: dict[str, Any], poisoned_round: int, attacker: str) -> None:
    """Raise `Refused` with `demo.*` unless the result shows all that the demo is there to show."""
    rejected = [
        item["member"]
        for found in result["rounds"]
        for item in found["rejected"]
        if found["round"] == poisoned_round
    ]
    if attacker not in rejected:
        raise Refused(
            "demo.poisoned",
            f"expected the update of {attacker} in round {poisoned_round} rejected, found "
            f"rejected: {', '.join(rejected) or 'none'}",
        )
    if not result["audit"]["verified"]:
        raise Refused("demo.audit", "expected the final model verified, found another report")
    if not result["chain_reproduced"]:
        raise Refused(
            "demo.reproduced",
            "expected the chain's split, run again in one process, to give the chain's model "
            "digest, found another",
        )


def _round(found: Round) -> dict[str, Any]:
    accepted = [o.trainer for o in found.outcomes if o.status is UpdateStatus.ACCEPTED]
    others = [
        {"member": o.trainer, "status": o.status.value, "code": o.code, "reason": o.reason}
        for o in found.outcomes
        if o.status is not UpdateStatus.ACCEPTED
    ]
    return {
        "round": found.number,
        "accepted": accepted,
        "rejected": [o for o in others if o["status"] == UpdateStatus.REJECTED],
        "others": [o for o in others if o["status"] != UpdateStatus.REJECTED],
        "score_bp": found.score_bp,
        "model_version": found.model_version,
    }


def tables(result: dict[str, Any]) -> RenderableType:
    """The result for people."""
    validators = Table("validator", "height", "state root", title="Validators agree")
    for validator in result["validators"]:
        validators.add_row(
            validator["name"], str(validator["height"]), validator["state_root"][:32]
        )
    auc = Table(
        "model",
        "all hospitals' test rows",
        "each on its own hospital's test rows",
        title=f"AUC on test rows, mean and standard error of {result['splits']} splits",
    )
    for name, label in MODELS:
        auc.add_row(
            label,
            f"{result['auc'][name]:.3f} ± {result['auc_standard_error'][name]:.3f}",
            f"{result['auc_own'][name]:.3f} ± {result['auc_own_standard_error'][name]:.3f}",
        )
    rejected = [
        f"round {found['round']}: {item['member']} rejected, {item['code']} ({item['reason']})"
        for found in result["rounds"]
        for item in found["rejected"]
    ]
    steps = [f"  verified: {step}" for step in result["audit"]["checked_steps"]]
    reproduced = "gave" if result["chain_reproduced"] else "DID NOT GIVE"
    return Group(
        validators,
        auc,
        _finding(result),
        f"The chain's split, run again in one process, {reproduced} the chain's model digest.",
        *rejected,
        "The auditor, with the genesis file alone:",
        *steps,
        f"{result['transactions']} transactions, {len(result['rounds'])} rounds, "
        f"{result['wall_s']:.0f} s",
    )


def _finding(result: dict[str, Any]) -> str:
    """What the figures say, also when it does not flatter."""
    (gain, gain_error), (own, own_error) = result["gain"]["everywhere"], result["gain"]["own"]
    if abs(gain) <= ERRORS * gain_error:
        everywhere = "not clearly better"
    else:
        everywhere = "better" if gain > 0 else "worse"
    if abs(own) <= ERRORS * own_error:
        at_home = "on its own patients a hospital's own model does about as well as the shared one"
    elif own > 0:
        at_home = "on its own patients too the shared model does better"
    else:
        at_home = "on its own patients a hospital's own model does better than the shared one"
    return (
        f"Over all hospitals the shared model is {everywhere} than one trained alone "
        f"(AUC {gain:+.3f} ± {gain_error:.3f}); {at_home} ({own:+.3f} ± {own_error:.3f})."
    )


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    Console().print(tables(result))
