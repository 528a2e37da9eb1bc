"""A seeded run of real validators under faults, judged after every effect.

A run has two parts. At first messages are lost, delayed, repeated and overtaken, links break one
way, both ways or for some only, processes end between any two steps and lose what they had not
synced, disks fill up, clocks disagree, and up to f validators lie. Then everything heals but the
liars, in some runs right after a power cut and without new requests, and all that waits must be
done within a bound of simulated time. One seed and its options give one run, whatever the machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

from consensus.event import Effect, Fault, Rejected
from consensus.journal import Entry
from consensus.message import Body, Envelope
from node.program import program
from node.validator.runtime import DEADLINE_GRACE_MS
from tests.harness import START_MS, key_of, organisation
from tests.simulation import alarm
from tests.simulation.accident import POWER_CUT, Accidents
from tests.simulation.bounds import TIMING, short_bounds
from tests.simulation.client import Clients, Wish
from tests.simulation.council import CHANGE_EVERY_MS, Council, genesis_with_guests
from tests.simulation.joiner import SNAPSHOT_BLOCKS, Joiner
from tests.simulation.judge import Judge, Violation
from tests.simulation.network import Network, Parcel
from tests.simulation.options import Options, Report
from tests.simulation.shell import TURN_MS_MAX, Crashed, Proof, Shell, through_bytes
from tests.simulation.signatures import remembered
from tests.simulation.trace import Trace, tell, tell_effect
from tests.simulation.traitor import Plot
from tests.simulation.views import Views
from tests.simulation.world import CALM, Weather, World
from vm.epoch import ruling
from vm.quorum import faults
from vm.state import State

GUESTS = (0, 0, 1, 2, 3)  # organisations without a seat at first
SIZES = (4, 4, 4, 5, 6, 7)  # of the first set of validators, if not given
WINDOWS = (2, 4, 8)
ROTATIONS = (0, 0, 0, 3, 10)  # stable checkpoints until the primary's turn is over; 0: never
SKEW_MS_MAX = 10_000  # of honest clocks: a third of what backups bear
HEALED_MS_MAX = 60_000  # a dozen of the longest view timeouts
ALARM_SHARE = 0.2  # of runs: with deadlines
DEADLINE_MS_MAX = DEADLINE_GRACE_MS + 2 * SKEW_MS_MAX  # from when one is due to where all see it
REQUEST_EVERY_MS = 60
CALM_REQUEST_EVERY_MS = 20  # so that some request waits all the time
QUIET_SHARE = 0.8  # of the steps, after which a quiet run has no new requests
CODEC_SHARE = 0.05  # of messages that go through their bytes
DOWN_MS_MAX = 3_000
EXECUTION_MS = (0, 0, 5, 20)  # until an executed block is reported
LOOK_EVERY = 10  # events between looks at whether all is done
FAR_MS = (*(0,) * 11, 120)  # each way, once healed: the last is too far for the first timeout
CALM_FAR_MS = (0, 25)  # each way, in a calm run: the last takes half the first timeout for a block
CALM_SHARE = 0.1  # of runs: without faults, in which nobody has reason to change the view
ABSENT_SHARE = 0.5  # of guests, that come later and begin with a snapshot
ABSENT_MS_MAX = 1_000
RESYNC_SHARE = 0.5  # of restarts of a validator that is so far behind: the others fetch blocks
BOUNDED_EVERY = 500  # events between looks at the replicas' memory
KINDS = tuple(kind.TAG for kind in get_args(Body))  # of messages
LOSSES = ("", "", *KINDS)
PATIENCE = 10  # times longer are timeouts where what is lost is said again after status periods


class Simulation:
    """One run; also the surroundings of its shells."""

    def __init__(self, options: Options, trace: Trace | None = None) -> None:
        self.options = options
        self.world = World(options.seed)
        rng = self.world.rng
        n = rng.choice(SIZES) if options.replicas is None else options.replicas
        guests = rng.choice(GUESTS)
        self.genesis = replace(
            genesis_with_guests(n, guests),
            window=rng.choice(WINDOWS),
            rotation=rng.choice(ROTATIONS),
        )
        self._ticks = rng.random() < ALARM_SHARE
        self.program = program()
        if self._ticks:
            self.program = replace(self.program, hooks=(*self.program.hooks, alarm.strike))
        self.limits = replace(TIMING, window=self.genesis.window, rotation=self.genesis.rotation)
        self.crashes = 0
        self.rejected: set[str] = set()  # codes of messages that replicas dropped
        drawn_calm = rng.random() < CALM_SHARE and options.far_ms is None
        self._calm = options.calm or drawn_calm
        self._lost = options.lost or (rng.choice(LOSSES) if drawn_calm else "")
        if self._lost:
            self.limits = replace(
                self.limits,
                view_timeout_ms=PATIENCE * TIMING.view_timeout_ms,
                pace_ms=PATIENCE * TIMING.pace_ms,
            )
        self._carried: set[tuple[str, str, Body]] = set()  # sender, receiver and what was lost
        self.weather = CALM if self._calm else Weather.draw(rng)
        self._trace = trace
        self._far_ms = rng.choice(CALM_FAR_MS if self._calm else FAR_MS)
        self._healed, self._made_before = False, 0  # how many wishes were made until then
        self._quiet = rng.random() < 0.5  # the run ends with a power cut, without requests
        names = [f"{organisation(i + 1)}.validator" for i in range(n + guests)]
        f = faults(n)
        count = options.traitors if options.traitors is not None else rng.choice((*range(f + 1), f))
        if self._calm and options.traitors is None:
            count = 0
        liars = sorted(rng.sample(names[:n], count))
        keys = {name: key_of(name) for name in liars}
        self.judge = Judge(self.genesis, liars)
        self.views = Views(self.world, self.judge.epochs, liars, self.genesis.rotation)
        self.plot = Plot(
            self.world,
            self.genesis.chain,
            keys,
            names,
            lambda epoch: self.judge.epochs[epoch].first - 1,
            options.mood,
        )
        if options.far_ms is not None:
            self._far_ms = options.far_ms
        self.network = Network(self.world, names, self.weather)
        if self._calm:
            self.network.heal(far_ms=self._far_ms)
        self.clients = Clients(self.world, self.genesis, n, self._ask)
        self.shells = {name: self._shell(name) for name in names}
        self.council = Council(
            self.world,
            self.clients,
            names[n:],
            give=lambda name, key: self.shells[name].hold(key),
            holds=lambda name, public: public in self.shells[name].keys,
        )
        self.council.faulty.update(liars)
        self._accidents = Accidents(self.world, self.council, self.judge, self.views, self._say)
        absent = {name for name in names[n:] if rng.random() < ABSENT_SHARE}
        self.absent = set() if self._calm else absent  # whose turn it is to lead, is there
        self.honest = [shell for name, shell in self.shells.items() if name not in liars]

    def run(self) -> Report:
        """Run to the end; raises `Violation`."""
        with remembered(), short_bounds():
            try:
                return self._run()
            except Violation:
                raise
            except Exception as error:
                raise Violation(f"bug: {type(error).__name__}: {error}") from error

    def _run(self) -> Report:
        for name, shell in self.shells.items():
            if name in self.absent:
                self.world.later(
                    self.world.rng.randint(1, ABSENT_MS_MAX), partial(self._join, shell)
                )
            else:
                shell.start()
        self._request()
        self._govern()
        while self.world.events < self.options.steps:
            self.world.step()
            self._disturb()
        self._heal()
        healed_ms = self.world.now_ms
        while self.world.events % LOOK_EVERY or not self._done():
            if self.world.now_ms > healed_ms + HEALED_MS_MAX + self._ticks * DEADLINE_MS_MAX:
                raise Violation(f"liveness: {self._describe()}")
            self.world.step()
        for shell in self.honest:
            self.judge.kept(shell)
            self.views.rotated(shell)
            self.judge.bounded(shell)
        return self._report(healed_ms)

    def _shell(self, name: str) -> Shell:
        rng = self.world.rng
        return Shell(
            name,
            key_of(name),
            self,
            drift=rng.uniform(0.8, 1.25),
            skew_ms=rng.randint(-SKEW_MS_MAX, SKEW_MS_MAX),
            execution_ms=rng.choice(EXECUTION_MS),
        )

    # Surroundings of a shell

    def next_deadline(self, state: State) -> int | None:
        """When a block is due without transactions."""
        return alarm.next_deadline(state) if self._ticks else None

    def now_ms(self, shell: Shell) -> int:
        """The shell's own clock."""
        return START_MS + self.world.now_ms + shell.skew_ms

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Act after the delay."""
        self.world.later(delay_ms, action)

    def turn_ms(self) -> int:
        """How long until a turn begins."""
        return self.world.rng.randint(0, TURN_MS_MAX)

    def send(self, sender: str, receiver: str | None, parcel: Parcel) -> None:
        """Carry a message, as honest or twisted as its sender is."""
        if receiver is not None:
            self._transmit(sender, receiver, parcel)
            return
        for name in self.shells:
            if name != sender:
                self._transmit(sender, name, parcel)

    def gossip(self, sender: str, packed: bytes) -> None:
        """Carry a transaction to all other validators."""
        for name, shell in self.shells.items():
            if name != sender:
                self.network.carry(sender, name, partial(shell.submit, packed))

    def strike(self, shell: Shell) -> None:
        """Between two steps of an honest validator its process may end."""
        if self.world.chance(self.network.weather.crash) and shell in self.honest:
            raise Crashed

    def ended(self, shell: Shell, why: str) -> None:
        """A process has ended, alone or by a power cut: it starts again some time later."""
        self.crashes += 1
        self.judge.ended(shell)
        self.views.ended(shell)
        self._accidents.end(shell, why)
        if not self._healed and shell in self.honest:
            self._accidents.lose(shell)
        if not self._healed:
            delay_ms = self.world.rng.randint(1, DOWN_MS_MAX)
            self.world.later(delay_ms, lambda: self._restart(shell))

    def watch(self, shell: Shell, effect: Effect) -> None:
        """An effect was run."""
        if self._trace is not None:
            told = tell_effect(effect)
            if told is not None:
                self._say(shell.name, told[0], **told[1])
        if isinstance(effect, Rejected):
            self.rejected.add(effect.code)
        if shell in self.honest:
            self.judge.watch(shell, effect)
            self.views.watch(shell, effect)
            if self._calm and not (self._quiet and self._healed):  # after a power cut one may leave
                self.views.expect_calm(shell, effect)
            if isinstance(effect, Fault):
                self.council.report(effect.evidence, shell.name, self.judge.certified)

    def rotated(self, shell: Shell, entries: Sequence[Entry]) -> None:
        """The journal was made anew."""
        if shell in self.honest:
            self.judge.rotated(shell, entries)

    def draw(self, shell: Shell, drawn: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """What of these transactions is proposed."""
        return self.plot.draw(shell.name, drawn)

    def floods(self, shell: Shell) -> bool:
        """Whether it proposes blocks that nobody wants."""
        return self.plot.floods(shell.name)

    # Messages and requests

    def _transmit(self, sender: str, receiver: str, parcel: Parcel) -> None:
        for delay_ms, envelope in self.plot.twist(sender, receiver, parcel.envelope):
            item = parcel if envelope is parcel.envelope else Parcel(envelope)
            if delay_ms:
                self.world.later(delay_ms, partial(self._carry, sender, receiver, item))
            else:
                self._carry(sender, receiver, item)

    def _carry(self, sender: str, receiver: str, parcel: Parcel) -> None:
        self.judge.hear(parcel.envelope)
        if self._loses(sender, receiver, parcel.envelope.body):
            return
        shell = self.shells[receiver]
        self.network.carry(sender, receiver, lambda: self._arrive(shell, parcel))

    def _loses(self, sender: str, receiver: str, body: Body) -> bool:
        """Whether this is the first copy on its link of a message of the kind that gets lost."""
        if body.TAG != self._lost or (sender, receiver, body) in self._carried:
            return False
        self._carried.add((sender, receiver, body))
        return True

    def _arrive(self, shell: Shell, parcel: Parcel) -> None:
        if self.world.chance(CODEC_SHARE):
            parcel = through_bytes(parcel)
        if self._trace is not None and shell.up:
            self._told_of(shell, parcel.envelope)
        self.views.arrived(shell, parcel.envelope)
        shell.receive(parcel)

    def _ask(self, wish: Wish) -> None:
        """A client's way to some validator, there and back."""
        shell = self.world.rng.choice(list(self.shells.values()))
        client = "client"

        def arrive() -> None:
            if not shell.up:
                return
            proof, height = shell.submit(wish.packed, forward=True), shell.certified
            self.network.carry(shell.name, client, lambda: self._answer(wish, proof, height))

        self.network.carry(client, shell.name, arrive)

    def _answer(self, wish: Wish, proof: Proof | None, height: int) -> None:
        if proof is not None:
            self.judge.acknowledge(proof)
            wish.proof = proof
        elif height >= wish.valid_until_height:
            if wish.patient:
                raise Violation(f"liveness: a transaction of {wish.sender} waited until it expired")
            wish.given_up = True

    def _request(self) -> None:
        self.clients.enrol(self.judge.certified)
        more = self._is_censored() if self._healed else not self._is_quiet()
        if more:
            every_ms = CALM_REQUEST_EVERY_MS if self._calm else REQUEST_EVERY_MS
            self.world.later(self.world.rng.randint(1, 2 * every_ms), self._request)

    def _is_censored(self) -> bool:
        """Whether somebody waits whose requests a primary leaves out, and keeps doing so."""
        if self.plot.mood != "censoring" or self._quiet or not self.plot.traitors:
            return False
        before = self.clients.wishes[: self._made_before]
        return any(wish.open and wish.sender == self.plot.victim for wish in before)

    def _govern(self) -> None:
        epochs, certified = self.judge.epochs, self.judge.certified
        self.council.look(ruling(epochs, certified + 1))
        self.council.go_on(epochs[-1], certified)
        if not (self._healed or self._is_quiet()):
            self.world.later(self.world.rng.randint(1, 2 * CHANGE_EVERY_MS), self._govern)

    def _is_quiet(self) -> bool:
        return self._quiet and self.world.events > QUIET_SHARE * self.options.steps

    # What goes wrong

    def _disturb(self) -> None:
        """Between two events: links break and mend, disks fill up and are cleared."""
        said = self.network.disturb()
        if said:
            self._say("network", said)
        for shell in self.honest:
            disk = shell.disk
            if disk.database.full:
                if self.world.chance(0.02):
                    disk.database.full = disk.journal.full = False
            elif self.world.chance(self.network.weather.full):
                disk.database.full = disk.journal.full = True
                self._say(shell.name, "disk full")
        if self.world.events % BOUNDED_EVERY == 0:
            for shell in self.honest:
                if shell.name not in self.absent:
                    self.judge.bounded(shell)

    def _restart(self, shell: Shell) -> None:
        if not shell.up and shell.name not in self.absent:
            self.absent.add(shell.name)
            self._synchronise(shell, RESYNC_SHARE)

    def _join(self, shell: Shell) -> None:
        """A newcomer fetches a snapshot, if there is one, or else every block."""
        if self.judge.certified < SNAPSHOT_BLOCKS:
            if self._healed:
                self._arrived(shell)
            else:
                self.world.later(ABSENT_MS_MAX // 10, partial(self._join, shell))
            return
        self._synchronise(shell, 1)

    def _synchronise(self, shell: Shell, share: float) -> None:
        Joiner(
            shell,
            self.world,
            self.network,
            self.genesis.chain,
            peers={name: peer for name, peer in self.shells.items() if peer is not shell},
            epochs=self.judge.epochs,
            liars=self.plot.traitors,
            share=share,
            done=partial(self._arrived, shell),
        ).begin()

    def _arrived(self, shell: Shell) -> None:
        self.absent.discard(shell.name)
        self._say(shell.name, "starts")
        self._start(shell)

    def _start(self, shell: Shell) -> None:
        shell.start()
        if shell.up and shell in self.honest:
            self.judge.restarted(shell)
            self.views.restarted(shell)

    def _heal(self) -> None:
        self._healed, self._made_before = True, len(self.clients.wishes)
        self.network.heal(far_ms=self._far_ms)
        self._say("network", "heals")
        for shell in self.honest:
            shell.disk.database.full = shell.disk.journal.full = False
            if self._quiet and shell.up:
                self.ended(shell, POWER_CUT)  # what is left undone now, no request will mend
        for shell in self.shells.values():
            self._restart(shell)
        if not self._quiet:
            self._request()

    # The end

    def _done(self) -> bool:
        if self.absent or self.clients.open:
            return False
        height = max(shell.chain.head.height for shell in self.honest)
        return height >= self.judge.certified and all(
            self._at_rest(shell, height) for shell in self.honest
        )

    def _at_rest(self, shell: Shell, height: int) -> bool:
        """Whether it has every block, nothing waits, and replica and store have it certified."""
        stable = shell.replica.stable
        return (
            shell.chain.head.height == height
            and not len(shell.mempool)
            and not shell.replica.turning
            and self.next_deadline(shell.chain.state()) is None
            and (0 if stable is None else stable.height) == height
            and (height == 0 or shell.chain.store.certificate(height) is not None)
        )

    def _describe(self) -> str:
        lines = (
            f"{name} view {shell.replica.view}{'' if shell.replica.active else '?'}"
            f" height {shell.chain.head.height} waiting {len(shell.mempool)}"
            for name, shell in self.shells.items()
            if name not in self.absent
        )
        who = f"{self.plot.mood} {self.plot.traitors}"
        waiting = f"clients wait for {self.clients.open}, {len(self.absent)} are absent"
        return f"{who}; {'; '.join(lines)}; {waiting}"

    def _report(self, healed_ms: int) -> Report:
        liars = len(self.plot.traitors)
        return Report(
            seed=self.options.seed,
            replicas=len(self.shells),
            events=self.world.events,
            simulated_ms=self.world.now_ms,
            height=len(self.judge.decided),
            view=max(shell.replica.view for shell in self.honest),
            epochs=len(self.judge.epochs),
            crashes=self.crashes,
            transactions=len(self.judge.acknowledged),
            traitors=f"{liars} {self.plot.mood}" if liars else "none",
            healed_ms=self.world.now_ms - healed_ms,
        )

    # The trace

    def _say(self, node: str, what: str, **fields: str | int | bool | list[int] | None) -> None:
        if self._trace is not None:
            self._trace.say(self.world.now_ms, node, what, **fields)

    def _told_of(self, shell: Shell, envelope: Envelope) -> None:
        told = tell(envelope.body)
        self._say(shell.name, "receive", sender=envelope.sender, **told)
