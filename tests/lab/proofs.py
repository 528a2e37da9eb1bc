"""How often verifiers find a spoofed proof, by the code of the chain, and what it costs both sides.

Every segment of a spoof is replayed once; then challenges are drawn under many secrets, and a draw
that holds a failing segment finds the spoof. So trials are draws, over several seeds of training.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb, sqrt

import numpy as np
import torch

from fl import trial
from fl.challenge import draw
from fl.fixed import distance, norm
from fl.replay import Replayed, check_batches, replay, suspicious
from fl.spec import logistic_regression, mlp, small_cnn
from fl.trace import Broken, Origin, check_trace, root
from fl.train import Snapshot
from fl.verify import norm_bound
from fl.weights import digest_ints
from tests.lab.data import Source
from tests.lab.spoof import (
    ADAM,
    EXACT,
    SEGMENTS,
    SGD,
    SPOOFS,
    Prover,
    Scene,
    Spoof,
    provers,
    scene,
    skipped,
)
from vm.digest import PRF, WEIGHTS, digest
from vm.shape import Digest

DRAWN = EXACT.segments  # of 100 segments, by each verifier
SHARES = (10, 20, 30, 40, 50, 60, 70, 80, 90)  # percent of the segments that are skipped
COSTS = (1, 2, 3, 5, 7, 10, 15, 20)  # segments that a verifier might draw, of 100
COST_SHARES = (10, 20, 50)  # percent skipped, of which detection is drawn over these costs
SEEDS_TRIED = 512  # by a primary that grinds the seed of challenges
GRIND_PART = 2  # of the draws one is ground: each takes some 160 seeds
Z = 1.96  # standard deviations on both sides of a 95 % interval


@dataclass(frozen=True, slots=True)
class Shown:
    """What verifiers can see of one spoof, had they replayed everything.

    `form` is the code with which the trace is refused before any replay, if it is; `failing` are
    the segments whose replay fails, `odd` says that the profile of moves leads to full replay.
    """

    form: str | None
    failing: frozenset[int]
    segments: int
    odd: bool
    steps: int
    steps_due: int


@dataclass(frozen=True, slots=True)
class Line:
    """One spoof over all seeds: how often one verifier finds it, and what it costs.

    `low` and `high` bound `caught` by Wilson's interval at 95 %. `caught_odd` counts full replay of
    what is suspicious as well. Costs are shares of honest training: the attacker's steps, and the
    segments that one verifier replays.
    """

    name: str
    seeds: int
    trials: int
    caught: float
    low: float
    high: float
    caught_odd: float
    failing: float
    form: tuple[str, ...]
    attacker: float
    verifier: float
    theory: float


@dataclass(frozen=True, slots=True)
class Cost:
    """How often a verifier that draws so many segments finds so many skipped ones.

    `low` and `high` bound `caught` by Wilson's interval at 95 %; all are shares.
    """

    skipped: float
    cost: float
    trials: int
    caught: float
    low: float
    high: float


def show(at: Scene, spoof: Spoof) -> Shown:
    """Replay every segment of a spoof."""
    own, trained = at.own, at.own.commit(spoof.ends)
    count = len(spoof.ends) - 1
    claim, failing, passed = own.claim(trained), set(), []
    check_batches(claim)
    for index in range(count):
        try:
            passed.append(replay(claim, own.opening(trained, index)))
        except Broken:
            failing.add(index)
    return Shown(
        _form(at, trained),
        frozenset(failing),
        count,
        _odd(at, trained, passed),
        spoof.steps,
        own.job.training.steps,
    )


def _form(at: Scene, trained: Sequence[Snapshot]) -> str | None:
    """With which code the update is refused before replay."""
    own, final = at.own, trained[-1]
    norms = [norm(ends[-1][0] - own.base) for ends in at.others]
    found = norm(final.weights - own.base)
    bound = norm_bound(trial.POLICY, [*norms, found])
    if found > bound:
        return "update.norm_bound"
    origin = Origin("lab", 1, "site-01.trainer", own.job.dataset)
    try:
        check_trace(
            origin,
            final.segments,
            count=len(trained) - 1,
            claimed=root(origin, final.segments),
            base=digest_ints(WEIGHTS, own.base),
            final=digest_ints(WEIGHTS, final.weights),
            norm=found,
            move_max=bound,
        )
    except Broken as broken:
        return broken.code
    return None


def _odd(at: Scene, trained: Sequence[Snapshot], passed: Sequence[Replayed]) -> bool:
    """Whether its moves beside those of the other sites lead a verifier to replay everything."""
    others = [
        [distance(after[0], before[0]) for before, after in pairwise(ends)] for ends in at.others
    ]
    moves = [segment.move for segment in trained[-1].segments]
    return suspicious(passed, moves, others, None, [], 0) is not None


def secrets(label: str, count: int) -> list[Digest]:
    """So many verifiers' secrets, each another."""
    return [digest(PRF, f"{label} {number}".encode()) for number in range(count)]


def caught(
    failing: Collection[int], segments: int, label: str, draws: int, drawn: int = DRAWN
) -> list[bool]:
    """Of draws under so many secrets, which hold a failing segment."""
    seed, update = digest(PRF, label.encode()), digest(PRF, f"update {label}".encode())
    return [
        not set(draw(seed, update, secret, segments, drawn)).isdisjoint(failing)
        for secret in secrets(label, draws)
    ]


def measure(name: str, shown: Sequence[Shown], draws: int) -> Line:
    """The line of one spoof, from what it showed on every seed."""
    hits = [
        hit
        for number, one in enumerate(shown)
        for hit in caught(one.failing, one.segments, f"{name} {number}", draws)
    ]
    hits_odd = [
        hit or (shown[place // draws].odd and bool(shown[place // draws].failing))
        for place, hit in enumerate(hits)
    ]
    # at most: a verifier stops at the first segment that fails
    replayed = [one.segments if one.odd else DRAWN for one in shown]
    return Line(
        name,
        len(shown),
        len(hits),
        *interval(sum(hits), len(hits)),
        sum(hits_odd) / len(hits_odd),
        float(np.mean([len(one.failing) / one.segments for one in shown])),
        tuple(sorted({one.form for one in shown if one.form is not None})),
        float(np.mean([one.steps / one.steps_due for one in shown])),
        float(np.mean([cost / one.segments for cost, one in zip(replayed, shown, strict=True)])),
        float(np.mean([bound(len(one.failing), one.segments) for one in shown])),
    )


def interval(hits: int, trials: int) -> tuple[float, float, float]:
    """A share and its interval at 95 % (Wilson 1927)."""
    share = hits / trials
    spread = Z * sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    middle, scale = share + Z**2 / (2 * trials), 1 + Z**2 / trials
    return share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def bound(failing: int, segments: int) -> float:
    """With what probability a uniform draw of DRAWN segments holds a failing one."""
    return 1 - comb(segments - failing, DRAWN) / comb(segments, DRAWN)


def spoofs(
    data: Source, seeds: int, draws: int, names: Sequence[str] = tuple(SPOOFS)
) -> list[Line]:
    """The line of every spoof, and those of a primary that grinds for a trainer."""
    scenes = [scene(data, seed) for seed in range(seeds)]
    lines = [measure(name, [show(at, SPOOFS[name](at)) for at in scenes], draws) for name in names]
    half = [show(at, skipped(at, _chosen(at, 50))) for at in scenes]
    return [*lines, *grind(half, -(-draws // GRIND_PART))]


def grind(shown: Sequence[Shown], draws: int) -> list[Line]:
    """Half is skipped, and a primary picks the seed by which a known secret misses all of it.

    The first line is of the verifier whose secret the coalition knows, the second of one whose
    secret it does not.
    """
    known_hits, honest_hits = [], []
    for number, one in enumerate(shown):
        update = digest(PRF, f"ground {number}".encode())
        for trial_number, (known, honest) in enumerate(
            zip(secrets(f"known {number}", draws), secrets(f"honest {number}", draws), strict=True)
        ):
            seed = _ground(one, update, known, trial_number)
            drawn = [draw(seed, update, secret, one.segments, DRAWN) for secret in (known, honest)]
            known_hits.append(not one.failing.isdisjoint(drawn[0]))
            honest_hits.append(not one.failing.isdisjoint(drawn[1]))
    usual = measure("", shown, 1)
    return [
        Line(
            name,
            len(shown),
            len(hits),
            *interval(sum(hits), len(hits)),
            sum(hits) / len(hits),
            usual.failing,
            usual.form,
            usual.attacker,
            DRAWN / shown[0].segments,
            usual.theory,
        )
        for name, hits in (
            ("ground seed: the verifier whose secret is known", known_hits),
            ("ground seed: an honest verifier", honest_hits),
        )
    ]


def _ground(shown: Shown, update: Digest, secret: Digest, number: int) -> Digest:
    """The first seed, of those that a primary tries, under which the secret's draw misses."""
    for attempt in range(SEEDS_TRIED):
        seed = digest(PRF, f"block {number} {attempt}".encode())
        if shown.failing.isdisjoint(draw(seed, update, secret, shown.segments, DRAWN)):
            break
    return seed


def skipping(data: Source, seeds: int) -> dict[int, list[Shown]]:
    """By percent of the segments that are skipped, in places of the attacker's choice."""
    scenes = [scene(data, seed) for seed in range(seeds)]
    return {share: [show(at, skipped(at, _chosen(at, share))) for at in scenes] for share in SHARES}


def shares(shown: Mapping[int, Sequence[Shown]], draws: int) -> list[Line]:
    """Detection by the share of segments that are skipped."""
    return [
        measure(f"{share} % of the segments skipped", found, draws)
        for share, found in shown.items()
    ]


def costs(shown: Mapping[int, Sequence[Shown]], draws: int) -> list[Cost]:
    """Detection by the share of the training that one verifier repeats."""
    return [_cost(share, shown[share], drawn, draws) for share in COST_SHARES for drawn in COSTS]


def _cost(share: int, shown: Sequence[Shown], drawn: int, draws: int) -> Cost:
    hits = [
        hit
        for number, one in enumerate(shown)
        for hit in caught(one.failing, one.segments, f"{share} {number}", draws, drawn)
    ]
    cost = drawn / shown[0].segments
    return Cost(share / 100, cost, len(hits), *interval(sum(hits), len(hits)))


def _chosen(at: Scene, percent: int) -> frozenset[int]:
    count = at.own.job.training.steps // at.own.job.training.snapshot_steps
    return frozenset(at.random.permutation(count)[: count * percent // 100].tolist())


def false_alarms(data: Source, seeds: int) -> dict[str, tuple[int, int]]:
    """Honest segments that replay fails, and all of them, by model and optimizer.

    Training has one thread; every other segment is replayed under two.
    """
    columns = len(data.preprocessing.columns)
    side = int(sqrt(columns))
    specs = {"logistic": logistic_regression(columns), "mlp": mlp(columns, (16,), 2)}
    if side * side == columns:
        specs["cnn"] = small_cnn(1, side, 2)
    recipes = {"sgd": SGD, "adam": ADAM}
    found = {}
    threads = torch.get_num_threads()
    try:
        for model, spec in specs.items():
            for recipe, training in recipes.items():
                runs = [_alarms(provers(data, seed, training, spec)[0]) for seed in range(seeds)]
                found[f"{model}, {recipe}"] = sum(runs), seeds * SEGMENTS
    finally:
        torch.set_num_threads(threads)
    return found


def _alarms(own: Prover) -> int:
    torch.set_num_threads(1)
    trained = own.commit(own.trained())
    claim, alarms = own.claim(trained), 0
    for index in range(len(trained) - 1):
        torch.set_num_threads(1 + index % 2)
        try:
            replay(claim, own.opening(trained, index))
        except Broken:
            alarms += 1
    return alarms


def markdown(lines: Sequence[Line]) -> str:
    """The table for people."""
    head = (
        "| spoof | draws | found | 95 % | uniform draws | and suspicion | failing | before replay "
        "| attacker's steps | segments replayed |\n" + "|---" * 10 + "|\n"
    )
    return head + "".join(_row(one) for one in lines)


def _row(one: Line) -> str:
    cells = (
        one.name,
        str(one.trials),
        f"{one.caught:.4f}",
        f"{one.low:.4f} to {one.high:.4f}",
        f"{one.theory:.4f}",
        f"{one.caught_odd:.4f}",
        f"{100 * one.failing:.0f} %",
        ", ".join(f"`{code}`" for code in one.form),
        f"{100 * one.attacker:.0f} %",
        f"{100 * one.verifier:.0f} %",
    )
    return "| " + " | ".join(cells) + " |\n"


def cost_table(costs: Sequence[Cost]) -> str:
    """Detection by cost, one row for each, one column for each share that is skipped."""
    skipped = sorted({one.skipped for one in costs})
    head = "| training repeated |" + "".join(f" {100 * one:.0f} % skipped |" for one in skipped)
    rows = [
        (cost, [one for one in costs if one.cost == cost])
        for cost in sorted({one.cost for one in costs})
    ]
    return f"{head}\n|---{'|---' * len(skipped)}|\n" + "".join(
        f"| {100 * cost:.0f} % |"
        + "".join(
            f" {one.caught:.4f} ({one.low:.4f} to {one.high:.4f}) |"
            for one in sorted(of, key=lambda one: one.skipped)
        )
        + "\n"
        for cost, of in rows
    )


def alarm_table(alarms: Mapping[str, tuple[int, int]]) -> str:
    """Honest segments by model and optimizer, and in all."""
    rows = [*alarms.items(), ("all", tuple(map(sum, zip(*alarms.values(), strict=True))))]
    head = "| honest | segments | false alarms |\n" + "|---" * 3 + "|\n"
    return head + "".join(f"| {name} | {count} | {found} |\n" for name, (found, count) in rows)
