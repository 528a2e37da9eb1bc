"""Which part of a case file serves which duty of the EU AI Act, Regulation (EU) 2024/1689.

The sentences are ours and give no legal advice. A provider of a high-risk system owes far more than
a chain can show; `UNCOVERED` says what it has to bring from elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Serves:
    """A part of the file, the provisions that it serves, what it shows, and what it does not."""

    part: str
    provisions: tuple[str, ...]
    shows: str
    lacks: str


ARTICLES = (
    Serves(
        "Model and versions",
        ("Article 11(1)", "Annex IV 1(a)", "Annex IV 6"),
        "the model's owner, the purpose that each task states, and every version with what came "
        "before it: changes over the lifecycle cannot be left out or put in another order",
        "the name under which a system is placed on the market, and its instructions for use",
    ),
    Serves(
        "Tasks and their terms",
        ("Article 11(1)", "Annex IV 2(a)", "Annex IV 2(b)", "Annex IV 2(c)"),
        "how the model was trained: layers, preprocessing, optimizer, rule of aggregation and "
        "policy of acceptance, fixed before the first update and approved by each site",
        "why these choices were made, the rest of the system around the model, and the computing "
        "that it took",
    ),
    Serves(
        "Datasets and use conditions",
        ("Article 10(2)(b)", "Article 10(2)(e)", "Article 10(4)", "Annex IV 2(d)"),
        "which hospital's data were used, in which region, since when, with which columns and "
        "units, how many rows in bands, and under which conditions of use; a commitment to the "
        "rows was registered before training",
        "how data were collected, labelled and cleaned at the hospital; whether they are "
        "representative or biased, Article 10(2)(f) to (h) and 10(3)",
    ),
    Serves(
        "Rounds, verdicts and reasons",
        ("Article 12(1)", "Article 12(2)", "Article 19(1)", "Annex IV 2(g)"),
        "an event for each update, verdict and aggregate, signed by its sender, ordered and timed "
        "by a quorum; what was accepted, rejected or left undecided, each with a reason",
        "logs of the deployed system in its hospital, and tests of the finished system",
    ),
    Serves(
        "Evidence and attestations",
        ("Article 10(2)", "Article 12(2)", "Annex IV 2(g)", "Annex IV 2(h)"),
        "what backs each update: replayed by verifiers, committed for later, or scored alone; and "
        "which traces an auditor of another organisation has replayed at the hospital",
        "that unaudited updates came from the registered rows: a commitment alone proves no "
        "training",
    ),
    Serves(
        "Contributions and scores",
        ("Annex IV 3", "Annex IV 4"),
        "scores of each round on rows of other hospitals, and each site's part in the aggregate",
        "accuracy for groups of people, limits of performance in use, and why the log-loss is the "
        "right measure",
    ),
    Serves(
        "Recorded uses",
        ("Article 12(1)", "Article 12(2)(c)", "Article 19(1)", "Annex IV 9"),
        "which member used which version, when, for which purpose and how often, as it recorded "
        "this itself; single uses can be opened and held against the batch",
        "uses that nobody recorded, and the outputs of the model",
    ),
    Serves(
        "Members and keys",
        ("Article 12(1)", "Article 18(1)"),
        "who could sign for whom, in which role, and from which height on",
        "who the people behind the members are: organisations know that",
    ),
    Serves(
        "Marks",
        ("Article 12(2)(a)", "Annex IV 6"),
        "that a failed audit has reached this version, and what its steward has decided",
        "the provider's own system of risk management and corrective action, Articles 9 and 20",
    ),
    Serves(
        "Proofs, summary and signature",
        ("Article 18(1)", "Article 19(1)"),
        "that all of this stood on the chain at one certified height: whoever keeps this file can "
        "show it for as long as it has to be kept, without the network",
        "the keeping itself: ten years for documentation, six months at least for logs",
    ),
)

UNCOVERED = (
    "The system of risk management (Article 9, Annex IV 5)",
    "Harmonised standards and the declaration of conformity (Annex IV 7 and 8)",
    "The plan for monitoring after the market (Article 72, Annex IV 9)",
    "Human oversight and instructions for use (Articles 13 and 14, Annex IV 1(h), 2(e))",
    "Examination of the data for bias, gaps and fitness for the people concerned "
    "(Article 10(2)(f) to (h), 10(3))",
    "Logs of the system in use beyond the uses that members have recorded (Article 12)",
)
