"""Figures of the course of a search: its progress, its curves, its early stopping, its slots."""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from functools import partial

from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.console.words import minutes
from search.report.analysis import (
    FEWEST_RANKED,
    TOO_LOW,
    Effort,
    Step,
    best_so_far,
    finished,
    grace_warning,
    lanes,
    looks,
    rank_agreement,
    rungs,
    survival,
)
from search.report.evidence import Evidence
from search.report.figures.figure import WIDE, Body, Figure, LegendEntry, Option, Table, mark, plot, responsive
from search.report.figures.marks import Point, Scale, Shape, bar, dot, line, path, short, steps, text
from search.report.figures.trial_marks import (
    DICE,
    density,
    dice_range,
    drawn,
    outcome_class,
    outcome_legend,
    sample_note,
    shape_of,
    trial_tip,
    whole,
)
from search.report.figures.words import number
from search.study.ledger import DEFAULTS, TrialRecord


def progress_figure(evidence: Evidence) -> Figure:
    """Best value so far against trials, epochs and seconds."""
    title = "Best so far"
    by_effort = {effort: best_so_far(evidence.trials, evidence.spans, effort) for effort in Effort}
    walked = by_effort[Effort.TRIALS]
    shown = {trial.number for trial in drawn(evidence)}
    best = walked[-1].best if walked else None
    description = f"{counted(len(walked), 'finished trial')}; best {number(best)}"
    options = tuple(
        Option(
            effort.value,
            responsive(
                f"progress-{effort}",
                f"{title}, against {effort}",
                description,
                partial(_progress, course=course, shown=shown, effort=effort, unit=evidence.step),
            ),
        )
        for effort, course in by_effort.items()
    )
    return Figure(
        key="progress",
        title=title,
        reading="The line is the best validation Dice of any trial up to then, each mark one finished trial at its own "
        "best. Epochs and seconds are those of training, added up over trials.",
        options=options if walked else (),
        legend=outcome_legend(evidence.trials),
        table=_progress_table(by_effort),
        note=None if walked else "No trial has ended.",
    )


def _progress_table(by_effort: Mapping[Effort, Sequence[Step]]) -> Table:
    rows = zip(*by_effort.values(), strict=True)
    return Table(
        ("trial", "outcome", "own best", "best so far", *(f"{effort} so far" for effort in by_effort)),
        tuple(
            (
                at[0].trial.number,
                str(at[0].trial.outcome),
                at[0].trial.best,
                at[0].best,
                *(round(step.effort) for step in at),
            )
            for at in rows
        ),
    )


def _progress(width: float, course: Sequence[Step], shown: Set[int], effort: Effort, unit: str) -> Body:
    height = 300.0 if width >= WIDE else 260.0
    values = [step.trial.best for step in course if step.trial.best is not None]
    frame = plot(width, height, (0.0, max((step.effort for step in course), default=1.0)), dice_range(values))
    marks = [
        dot(
            *frame.at(step.effort, step.trial.best),
            shape_of(step.trial),
            outcome_class(step.trial),
            tip=trial_tip(step.trial, unit),
        )
        for step in course
        if step.trial.best is not None and step.trial.number in shown
    ]
    best = [frame.at(step.effort, step.best) for step in course if step.best is not None]
    if best:
        best.append((frame.x.stop, best[-1][1]))
    name = {Effort.TRIALS: "finished trials", Effort.EPOCHS: f"{unit}s", Effort.SECONDS: "seconds of training"}[effort]
    ticks = whole(frame.x.ticks()) if effort != Effort.SECONDS else None
    return height, frame.grid(name, DICE, x_ticks=ticks) + steps(best, "best") + "".join(marks)


def curves_figure(evidence: Evidence) -> Figure:
    """Learning curves."""
    title = "Learning curves of all trials"
    shown = drawn(evidence)
    marked = looks(evidence.provenance.spec.scheduler, evidence.epochs)
    description = f"{counted(len(shown), 'curve')} over at most {counted(evidence.epochs, evidence.step)}"
    return Figure(
        key="curves",
        title=title,
        reading=f"Validation Dice after every {evidence.step}, a line a trial; faded lines were stopped, and end where "
        f"they were. Dotted verticals are the {evidence.step}s at which the scheduler looks.",
        drawings=responsive("curves", title, description, lambda width: _curves(width, evidence, shown, marked))
        if shown
        else (),
        legend=(
            LegendEntry(mark(line((1, 7), (17, 7), "curve winner")), "winner"),
            LegendEntry(mark(line((1, 7), (17, 7), "curve defaults")), "defaults"),
            LegendEntry(mark(line((1, 7), (17, 7), "curve outcome-completed")), "completed"),
            LegendEntry(mark(line((1, 7), (17, 7), "curve outcome-pruned")), "stopped"),
        )
        if shown
        else (),
        table=Table(
            ("trial", "outcome", *(f"{evidence.step} {epoch}" for epoch in range(1, evidence.epochs + 1))),
            tuple(
                (
                    trial.number,
                    str(trial.outcome or "unfinished"),
                    *trial.curve,
                    *([None] * (evidence.epochs - len(trial.curve))),
                )
                for trial in evidence.trials
            ),
        )
        if shown
        else None,
        note=sample_note(evidence, shown) if shown else f"No trial has finished its first {evidence.step}.",
    )


def _curves(width: float, evidence: Evidence, shown: Sequence[TrialRecord], marked: Sequence[int]) -> Body:
    height = 360.0 if width >= WIDE else 280.0
    values = [value for trial in shown for value in trial.curve]
    frame = plot(width, height, (1.0, max(float(evidence.epochs), 2.0)), dice_range(values))
    parts = [frame.grid(evidence.step, DICE, x_ticks=whole(frame.x.ticks(8)))]
    parts += [line(frame.at(rung, frame.y.low), frame.at(rung, frame.y.high), "rung") for rung in marked]
    winner = evidence.winner
    special = {DEFAULTS: "defaults"} | ({winner.number: "winner"} if winner else {})
    for trial in sorted(shown, key=lambda trial: trial.number in special):
        class_ = f"curve {special.get(trial.number, outcome_class(trial))} {density(shown)}"
        points = [frame.at(epoch, value) for epoch, value in enumerate(trial.curve, start=1)]
        if len(points) == 1:
            parts.append(dot(*points[0], Shape.DISC, class_, radius=2.5, tip=trial_tip(trial, evidence.step)))
        else:
            parts.append(path(points, class_, tip=trial_tip(trial, evidence.step)))
    return height, "".join(parts)


def survival_figure(evidence: Evidence) -> Figure:
    """How many trials reached each epoch."""
    title = f"How early stopping spent the {evidence.step}s"
    ran = [trial for trial in evidence.trials if trial.curve]
    levels = rungs(ran, evidence.provenance.spec.scheduler, evidence.epochs)
    reached = survival(ran, evidence.epochs)
    spent, full = sum(len(trial.curve) for trial in ran), len(ran) * evidence.epochs
    return Figure(
        key="survival",
        title=title,
        reading=f"Trials that reached each {evidence.step}. At a dotted line the scheduler looks, and the numbers say "
        "how many came to it and how many went on.",
        drawings=responsive(
            "survival",
            title,
            "; ".join(f"{evidence.step} {rung.epoch}: {rung.reached} came, {rung.went_on} went on" for rung in levels)
            or f"{counted(len(ran), 'trial')}, no rungs",
            lambda width: _survival(width, evidence, reached),
        )
        if ran
        else (),
        table=Table((evidence.step, "came", "went on"), tuple((r.epoch, r.reached, r.went_on) for r in levels))
        if levels
        else None,
        note=f"{spent} {evidence.step}s were trained, {spent / full:.0%} of the {full} that the same trials would have "
        "taken to their ends."
        if ran
        else f"No trial has finished its first {evidence.step}.",
    )


def _survival(width: float, evidence: Evidence, reached: Sequence[int]) -> Body:
    height = 260.0
    ran = [trial for trial in evidence.trials if trial.curve]
    frame = plot(width, height, (0.0, float(evidence.epochs)), (0.0, max(1.0, reached[0] * 1.12)))
    widest = (frame.x.stop - frame.x.start) / evidence.epochs
    parts = [frame.grid(evidence.step, "trials", x_ticks=whole(frame.x.ticks(8)))]
    for epoch, reaching in enumerate(reached[1:], start=1):
        left, y = frame.at(epoch - 1, reaching)
        parts.append(
            bar(
                left + widest * 0.08,
                y,
                widest * 0.84,
                frame.y.start - y,
                "fill",
                tip=f"{evidence.step} {epoch}: {counted(reaching, 'trial')}",
            )
        )
    for rung in rungs(ran, evidence.provenance.spec.scheduler, evidence.epochs):
        x, top = frame.at(rung.epoch, frame.y.high)
        parts.append(line((x, frame.y.start), (x, top), "rung"))
        parts.append(text(x + 4, top + 9, f"{rung.reached} \N{RIGHTWARDS ARROW} {rung.went_on}", class_="value"))
    return height, "".join(parts)


def timeline_figure(evidence: Evidence) -> Figure:
    """Who ran when, and in which slot."""
    title = "Who ran when"
    stays = lanes(finished(evidence.trials), evidence.spans)
    sessions = [datetime.fromisoformat(s["started"]) for s in evidence.provenance.sessions if "started" in s]
    resumed = [at for at in sessions if stays and stays[0].start < at < max(stay.end for stay in stays)]
    slots = 1 + max((stay.lane for stay in stays), default=0)
    return Figure(
        key="timeline",
        title=title,
        reading="A row a trial slot, a bar a trial from its start to its end, marked by how it ended. Empty stretches "
        "are slots that waited.",
        drawings=responsive(
            "timeline",
            title,
            f"{counted(len(stays), 'trial')} in {counted(slots, 'slot')}",
            lambda width: _timeline(width, evidence, resumed),
        )
        if stays
        else (),
        legend=outcome_legend(evidence.trials),
        table=Table(
            ("trial", "slot", "began (UTC)", "minutes", "outcome"),
            tuple(
                (
                    stay.trial.number,
                    stay.lane + 1,
                    stay.start.strftime("%Y-%m-%d %H:%M:%S"),
                    round((stay.end - stay.start).total_seconds() / 60, 1),
                    str(stay.trial.outcome),
                )
                for stay in stays
            ),
        )
        if stays
        else None,
        note=_timeline_note(len(resumed), bool(stays)),
    )


def _timeline_note(resumed: int, has_figure: bool) -> str | None:
    if not has_figure:
        return "No trial has ended."
    if not resumed:
        return None
    return (
        f"The run was resumed {counted(resumed, 'time')} (dashed lines); a trial that was interrupted spans the pause "
        "before it."
    )


def _timeline(width: float, evidence: Evidence, resumed: Sequence[datetime]) -> Body:
    stays = lanes(finished(evidence.trials), evidence.spans)
    slots = 1 + max(stay.lane for stay in stays)
    begin, end = min(stay.start for stay in stays), max(stay.end for stay in stays)
    length = max((end - begin).total_seconds(), 1.0)
    unit, name = (3600.0, "hours") if length >= 3 * 3600 else (60.0, "minutes") if length >= 180 else (1.0, "seconds")
    pitch = 26.0 if slots <= 16 else max(6.0, 416.0 / slots)
    top = 10.0
    bottom = top + pitch * slots
    scale = Scale(0.0, length / unit, 46, width - 14)
    parts = [line((scale(v), top), (scale(v), bottom), "rule") for v in scale.ticks(6)]
    parts += [text(scale(v), bottom + 16, short(v), class_="tick", anchor="middle") for v in scale.ticks(6)]
    for stay in stays:
        x, x_end = (scale((at - begin).total_seconds() / unit) for at in (stay.start, stay.end))
        y = top + pitch * stay.lane + 3
        # A bar too thin to be pointed at needs no words.
        tip = (
            f"{trial_tip(stay.trial, evidence.step)}; {minutes((stay.end - stay.start).total_seconds())}"
            if x_end - x > 2
            else None
        )
        gap = min(1.0, (x_end - x) / 5)
        parts.append(bar(x + gap / 2, y, x_end - x - gap, pitch - 6, f"stay {outcome_class(stay.trial)}", tip=tip))
        # Where there is no room for both, how it ended goes before which it was: colour alone must not say it.
        if pitch >= 20 and x_end - x > 36:
            parts.append(text(x + 5, y + pitch - 12, str(stay.trial.number), class_="in-bar"))
        if pitch >= 20 and x_end - x > 12:
            mark_x = x_end - 9 if x_end - x > 36 else (x + x_end) / 2
            class_ = f"{outcome_class(stay.trial)} on-bar"
            parts.append(dot(mark_x, y + pitch / 2 - 3, shape_of(stay.trial), class_, radius=3.5))
    if pitch >= 12:
        parts += [text(38, top + pitch * (i + 0.5) + 4, str(i + 1), class_="tick", anchor="end") for i in range(slots)]
    for at in resumed:
        x = scale((at - begin).total_seconds() / unit)
        parts.append(line((x, top - 4), (x, bottom), "reference"))
    parts.append(line((scale.start, bottom), (scale.stop, bottom), "axis"))
    parts.append(text(scale.start - 30, bottom + 32, "slot", class_="axis-title"))
    parts.append(
        text(scale.stop, bottom + 32, f"{name} since the first trial began", class_="axis-title", anchor="end")
    )
    return bottom + 40, "".join(parts)


def agreement_figure(evidence: Evidence) -> Figure:
    """Whether early values tell the end."""
    title = f"Do early {evidence.step}s tell the end?"
    agreement = rank_agreement(evidence.trials, evidence.epochs)
    marked = looks(evidence.provenance.spec.scheduler, evidence.epochs)
    completed = sum(trial.outcome == Outcome.COMPLETED for trial in evidence.trials)
    enough = completed >= FEWEST_RANKED and any(a.spearman is not None for a in agreement)
    points = [(float(a.epoch), a.spearman) for a in agreement if a.spearman is not None]
    return Figure(
        key="agreement",
        title=title,
        reading=f"Rank correlation (Spearman) of the trials' best values up to some {evidence.step} with their best at "
        f"the end. At the dotted lines trials are stopped by it: below {TOO_LOW:g} the wrong ones are.",
        drawings=responsive(
            "agreement",
            title,
            f"{counted(completed, 'completed trial')}",
            lambda width: _agreement(width, evidence, points, marked),
        )
        if enough
        else (),
        table=Table(
            (evidence.step, "rung", "Spearman", "Kendall tau-b", "completed trials"),
            tuple((a.epoch, "yes" if a.epoch in marked else "", a.spearman, a.kendall, a.trials) for a in agreement),
        )
        if enough
        else None,
        note="Only trials that completed have an end to compare with; being the better ones they differ less, so the "
        f"correlation over all would be higher. Here {completed} of them."
        if enough
        else f"Too few trials: {completed} completed, and {FEWEST_RANKED} with different values are the fewest "
        "for a rank correlation.",
        warning=grace_warning(agreement, marked[0] if marked else None, evidence.step) if enough else None,
    )


def _agreement(width: float, evidence: Evidence, points: Sequence[Point], marked: Sequence[int]) -> Body:
    height = 240.0
    low = min(0.0, *(rho for _, rho in points))
    frame = plot(width, height, (1.0, max(2.0, float(evidence.epochs))), (-1.0 if low < 0 else 0.0, 1.0))
    parts = [frame.grid(evidence.step, "rank correlation with the end", x_ticks=whole(frame.x.ticks(8)))]
    parts += [line(frame.at(rung, frame.y.low), frame.at(rung, frame.y.high), "rung") for rung in marked]
    parts.append(line(frame.at(frame.x.low, TOO_LOW), frame.at(frame.x.high, TOO_LOW), "reference"))
    parts.append(path([frame.at(*point) for point in points], "best"))
    parts += [
        dot(*frame.at(epoch, rho), Shape.DISC, "main", tip=f"{evidence.step} {epoch:g}: {rho:.2f}")
        for epoch, rho in points
    ]
    return height, "".join(parts)
