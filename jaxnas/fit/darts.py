"""DARTS as a method of the road: a mixture over any space, watched for a collapse, its space shrunk on the way."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated, ClassVar, Literal

from jaxnas.base import SearchSpace
from jaxnas.fit import seeds, watch
from jaxnas.fit.darts_search import DartsSearch, pictures, search
from jaxnas.fit.family import Variation, supernet_options, variant_of
from jaxnas.fit.problem import Prepared, Problem, search_split
from jaxnas.fit.searching import Epochs
from jaxnas.fit.settings import check_accumulate, image_shape_of
from jaxnas.ranges import (
    Between,
    Count,
    Depth,
    Limit,
    Natural,
    NotNegative,
    Positive,
    Share,
    UsedWith,
    Width,
    check_settings,
)
from jaxnas.search import limited_skips


@dataclasses.dataclass(frozen=True)
class Darts:
    """Differentiable search (Liu et al. 2019, https://arxiv.org/abs/1806.09055); the defaults are the paper's.

    >>> method = Darts(method="pc_darts", epochs=25, partial=2)  # the other settings are the paper's
    >>> method.batch_size, method.learning_rate
    (64, 0.025)
    """

    name: ClassVar[str] = "darts"
    runtime: ClassVar[tuple[str, ...]] = ("remat",)

    method: Variation = "darts"
    """DARTS, or a method that came after it (docs/differentiable.md). Each method has the constants of its paper, such
    as a temperature. Epochs, batches, learning rates and the decay of alpha are the settings below."""
    order: Literal["first", "second", "second-fd"] = "first"
    """How the hypergradient is computed: first order, exact second order, or second order by the finite difference of
    the paper. SNAS has a single level, so it has no hypergradient."""
    derive: str = "paper"
    """How an architecture is derived from the mixture. "paper" does what the method's paper does: "score" for setn, the
    rule of the space for the others. "perturbation" (DARTS-PT) removes options one at a time, and keeps those whose
    removal costs the supernet most accuracy; it works after any method. "score" draws `candidates` from the mixture,
    and takes the best on the validation part. The DARTS space also has "argmax". Under a budget, the architecture
    within it whose options have the largest product of weights is derived."""
    partial: Natural = 0
    """K sends one channel in K through the mixed operations (PC-DARTS); 1 sends all. 0 takes the method's own K: 4 for
    pc_darts, 1 for the others."""
    most_skips: Natural | None = None
    """The most skip connections that a derived cell may have, where it is derived as in the paper and there is no
    budget. By default 2 for p_darts, and no limit for the others."""
    candidates: Count = 100
    """How many architectures the mixture draws for derive "score"."""
    tune_epochs: Annotated[Count, UsedWith("derive", "perturbation")] = 5
    """For derive "perturbation": how many epochs the supernet is trained between two decisions, at a tenth of the
    learning rate."""
    epochs: Count = 50
    batch_size: Count = 64
    channels: Width = 16
    cells: Depth = 8
    learning_rate: Positive = 0.025
    last_learning_rate: NotNegative = 0.001
    momentum: Share = 0.9
    weight_decay: NotNegative = 3e-4
    clip: Positive | None = 5.0
    alpha_learning_rate: Positive = 3e-4
    alpha_weight_decay: NotNegative = 1e-3
    accumulate: Count = 1
    """Gradient accumulation: a batch is cut into this many parts, which are computed one after another."""
    remat: bool = False
    """Computes the edges of a cell again in the backward pass, in place of keeping their activations: less memory, more
    time. It is for GPUs."""
    warmup_epochs: Natural = 0
    """How many epochs at the start train only the weights, and not the architecture parameters."""
    valid_part: Between = 0.5
    """The share of the training split on which the architecture parameters learn, where there is no validation
    split."""
    limit: Limit = 0
    """The search uses at most this many images of the training split; 0 is all."""
    early_stop: bool = False
    """Ends the search before a collapse (DARTS-ES). watch.window, lag, ratio and first set the rule."""
    prune: tuple[Natural, ...] = ()
    """How many options every slot keeps ("none" counts). N numbers cut the epochs into N + 1 equal parts; after each
    part but the last, the weakest options go. 5 3 keeps five, then three. Parameters are carried over. By default all
    options stay, and p_darts keeps five eighths, then three eighths."""
    depths: tuple[Depth, ...] = ()
    """How many cells the supernet has in each part of the epochs. Every part then begins with new parameters, and has
    its own schedules and `warmup_epochs`. By default all parts share one supernet. For p_darts they have c, 2 c + 1 and
    3 c + 2 cells, where c is `cells`."""
    skip_dropout: tuple[Share, ...] = ()
    """For p_darts: the rate of dropout after skip connections, at the start of each part. By default 0.1, 0.4, 0.7."""
    watch: watch.Watch = watch.Watch()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        this = self.checked(problem)
        return Prepared(
            lambda run, stop: search(this, run, stop),
            pictures=lambda run, found, kept: pictures(this, run, found, kept),
        )

    def checked(self, problem: Problem) -> DartsSearch:
        """The search with these settings; raises as `prepare`."""
        check_settings("search", self, type(self))
        entry = problem.entry
        options = supernet_options(self.method, entry, self.partial, self.remat)
        supernet = problem.supernet(self.channels, self.cells, **options)
        if not callable(supernet.apply):
            raise ValueError(f"DARTS needs a mixture, and the supernet over {supernet.space.name} has no `apply`")
        space = supernet.space
        settings = self.resolved(len(entry.operations))
        settings._check(problem, space)
        alone = {"search.early_stop": self.early_stop, "search.prune": bool(self.prune and not settings.depths)}
        seeds.check(problem, alone)
        sizes = dict.fromkeys(("train", "valid"), ("search.batch_size", self.batch_size))
        split = search_split(problem.dataset, problem.seed, self.valid_part, self.limit, sizes, "search.")
        layout = seeds.layout(problem, image_shape_of(problem.dataset), self.batch_size, side_by_side=True)
        epochs = Epochs(problem.dataset, split, {"search": self.batch_size})
        this = DartsSearch(settings, problem, space, epochs, layout, options)
        variant_of(self.method, this.part(0, None))  # raises for a space that the method is not for
        return this

    def resolved(self, options: int) -> Darts:
        """With what the method's paper has where nothing else is asked for. options: of a slot."""
        if self.method == "setn" and self.derive == "paper":
            return dataclasses.replace(self, derive="score")
        if self.method != "p_darts":
            return self
        cells = (self.cells, 2 * self.cells + 1, 3 * self.cells + 2)
        shares = tuple(max(2, round(options * share)) for share in (5 / 8, 3 / 8))
        return dataclasses.replace(
            self,
            prune=self.prune or shares,
            depths=self.depths or cells,
            skip_dropout=self.skip_dropout or (0.1, 0.4, 0.7),
            most_skips=2 if self.most_skips is None and self.derive == "paper" else self.most_skips,
        )

    def _check(self, problem: Problem, space: SearchSpace) -> None:
        part = self.epochs // (len(self.prune) + 1) if self.depths else self.epochs
        if self.warmup_epochs >= part:
            raise ValueError(
                f"search.warmup_epochs {self.warmup_epochs} leaves the architecture none of the {part} search.epochs "
                f"{'of each part ' if self.depths else ''}to move in; choose fewer"
            )
        check_accumulate("search", self.accumulate, self.batch_size)
        watch.rule_of(self.watch, self.early_stop, self.epochs)
        rules = ("paper", "perturbation", "score", *problem.entry.derivations)
        if self.derive not in rules:
            raise ValueError(f"search.derive must be {' or '.join(rules)} over {space.name}, got {self.derive!r}")
        if self.candidates != Darts.candidates and self.derive != "score":
            raise ValueError(f"search.candidates {self.candidates} are for search.derive score: leave them out")
        if self.derive == "score" and self.method == "fair_darts":
            raise ValueError(
                "search.derive score draws by weights that add up to one, and those of fair_darts do not: give paper"
            )
        if self.most_skips is not None:
            if self.derive != "paper":
                drawn = self.method == "setn" and self.derive == "score"
                said = f"{self.derive}, which setn has by default" if drawn else self.derive
                raise ValueError(f"search.most_skips is for search.derive paper, got {said}: leave it out")
            limited_skips(space, problem.entry.operations, self.most_skips)  # raises where there are none
        if self.method == "snas" and self.order != "first":
            raise ValueError(f"search.order {self.order} is for two levels, and snas has one: leave it out")
        if self.method == "setn" and self.order != "first":
            raise ValueError(
                f"search.order {self.order} is for weights that depend on the architecture, and those of setn are "
                "trained by random paths: leave it out"
            )
        self._check_parts(problem, space)

    def _check_parts(self, problem: Problem, space: SearchSpace) -> None:
        if self.skip_dropout and self.method != "p_darts":
            raise ValueError(f"search.skip_dropout is of p_darts, and {self.method} drops nothing: leave it out")
        for name in ("depths", "skip_dropout"):
            given = getattr(self, name)
            if given and len(given) != len(self.prune) + 1:
                raise ValueError(
                    f"search.{name} must have {len(self.prune) + 1} numbers, one more than search.prune, "
                    f"got {list(given)}"
                )
        if not self.prune:
            return
        if problem.entry.narrowing is None:
            raise ValueError(
                f"search.prune shrinks no supernet over {space.name}: leave it out, or take --space darts or "
                "nasbench201"
            )
        most = max(value.shape[1] for value in space.template().values())
        if any(not 2 <= left < before for before, left in itertools.pairwise((most, *self.prune))):
            raise ValueError(f"search.prune must fall from under {most} to 2 at least, got {list(self.prune)}")
        if self.early_stop:
            other = "take another search.method than p_darts" if self.method == "p_darts" else "search.prune"
            raise ValueError(f"search.early_stop compares eigenvalues of one mixture: leave it out, or {other}")
        if len(self.prune) >= self.epochs:
            raise ValueError(f"search.epochs must be more than the {len(self.prune)} of search.prune")
