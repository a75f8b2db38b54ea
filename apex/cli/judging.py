"""Measuring what was fitted, for the commands that fit: the last comparison, and refinement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli.output import Printer, Table, size
from apex.cli.progress import Stage, showing_stages
from apex.cli.running import ResidentArgument
from apex.errors import RunError, UsageError

if TYPE_CHECKING:
    from apex import Plan
    from apex.calibration import Text
    from apex.cli.fitted import Goal
    from apex.fitting import Fit, Fitter
    from apex.fitting.contest import Contest
    from apex.fitting.judging import Judge
    from apex.fitting.refining import Refined
    from apex.inference import RunOptions

__all__ = ["JudgeArguments", "Settling", "print_contest"]

CHECK = "Comparing what was fitted with tiers and file types, by running the model"


@dataclass(frozen=True, kw_only=True)
class JudgeArguments(ResidentArgument):
    """How what was fitted is measured."""

    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check",
            help="Do not run the model: predictions decide between the fit and its rivals.",
            rich_help_panel=CHECK,
        ),
    ] = False
    check_chunks: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Chunks of 512 tokens that were not measured over.",
            rich_help_panel=CHECK,
        ),
    ] = 8
    check_text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=WEIGHT]",
            help="A text to take them from. Repeatable; without any, the built-in set.",
            rich_help_panel=CHECK,
        ),
    ] = None
    refine: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Correct the sensitivity N times by measuring around the fitted file; what does "
            "not do better over chunks kept apart is not kept.",
            rich_help_panel=CHECK,
        ),
    ] = 0

    def check_judging(self) -> None:
        """Raise UsageError where options contradict each other, or a text cannot be read."""
        if self.no_check and self.refine:
            raise UsageError(
                "--refine measures, and --no-check forbids that.", "leave out one of the two"
            )
        self.texts()

    def texts(self) -> tuple[Text, ...]:
        """The texts that are given. Raises UsageError."""
        from apex.calibration import read_texts

        return read_texts(self.check_text) if self.check_text else ()


class Settling:
    """Decides what is written for a fit, with one resident model for all fits of a command."""

    def __init__(
        self, given: JudgeArguments, fitter: Fitter, run: RunOptions, printer: Printer
    ) -> None:
        given.check_judging()
        self._given = given
        self._fitter = fitter
        # As the model was measured, so that its chunks are known.
        length = fitter.sensitivity.text.context_length
        self._run = replace(run, context_length=length)
        self._printer = printer

    def settle(self, found: Fit, goal: Goal) -> tuple[Fit, Plan, Contest | None]:
        """The fit, refined where that is wanted, what is to be written, and the comparison.

        Without a comparison, predictions decide. Raises RunError, DataError.
        """
        if self._given.refine and goal.wish.is_open:
            raise UsageError(
                "--refine looks for the least KL divergence at a size, and no size is given.",
                "give --size, --bpw or --like, or leave out --refine",
            )
        if self._given.no_check:
            return found, found.best, None
        if self._fitter.source.missing:
            self._printer.note("only the model's header is there, so that predictions decide")
            return found, found.best, None
        if self._fitter.matrix is not None and not self._fitter.matrix.digest:
            self._printer.note("the importance matrix is not there yet, so that predictions decide")
            return found, found.best, None
        try:
            judge = self._judge
        except RunError as error:
            if self._given.refine:
                raise
            self._printer.note(f"the model is not run, so that predictions decide: {error.message}")
            return found, found.best, None
        if not judge.is_apart:
            self._printer.note("what is compared over may be among what was measured over")
        from apex.fitting.contest import contest

        refined = None
        with showing_stages(self._printer) as stage, judge.session():
            if self._given.refine:
                fitting, judge = judge.halves()
                refined = self._refined(found, goal, fitting, judge, stage)
                found = refined.fit
            result = contest(
                found, judge, lambda done, count, what: stage("comparing", done, count, what)
            )
        if refined is not None:
            self._print_rounds(refined)
        return found, result.best, result

    def _refined(
        self, found: Fit, goal: Goal, fitting: Judge, apart: Judge, stage: Stage
    ) -> Refined:
        from apex.fitting.refining import refine

        return refine(
            found,
            found.sensitivity,
            lambda corrected: self._fitter.with_sensitivity(corrected).fit(goal.wish, goal.name),
            fitting,
            apart,
            self._given.refine,
            lambda done, count, what: stage("refining", done, count, what),
        )

    def _print_rounds(self, refined: Refined) -> None:
        for number, made in enumerate(refined.rounds):
            kept = "kept" if made.is_kept else "not kept"
            self._printer.say(
                f"refinement {number + 1}: KL divergence {made.before.kl:.3g} -> "
                f"{made.after.kl:.3g} over chunks kept apart, {kept}"
            )

    @cached_property
    def _judge(self) -> Judge:
        from apex.fitting.judging import Judge

        given, fitter = self._given, self._fitter
        chunks = given.check_chunks * (2 if given.refine else 1)
        with showing_stages(self._printer) as stage:
            return Judge(
                fitter.source,
                fitter.matrix,
                fitter.sensitivity,
                given.texts(),
                self._run,
                chunks=chunks,
                resident=given.resident,
                rounding=fitter.options.get("rounding", "reference"),
                second_moments=fitter.moments,
                progress=lambda done, count: stage("running the model", done, count, ""),
            )


def print_contest(result: Contest, printer: Printer) -> None:
    """What was measured of the fitted file and of its rivals."""
    numbers = ("size", "predicted", "measured", "99.9 %", "maximum")
    table = Table("KL divergence over chunks that were kept apart", ("file", *numbers), numbers)
    fit = result.fit
    rows = [("fitted", fit.plan, fit.predicted, result.judged)]
    rows += [
        (f"{rival.name}, {rival.kind}", rival.plan, fit.kl(rival.loss), judged)
        for rival, judged in result.rivals
    ]
    for name, plan, predicted, judged in rows:
        table.add(
            name,
            size(plan.file_bytes),
            "unknown" if predicted is None else f"{predicted:.3g}",
            f"{judged.kl:.3g} ± {judged.error:.1g}",
            f"{judged.high:.3g}",
            f"{judged.most:.3g}",
        )
    printer.line()
    printer.table(table)
