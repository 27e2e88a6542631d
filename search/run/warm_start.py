"""Points to start from: the best of another run, as far as they lie in this space."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from data_prep.common.errors import InputError, first_line
from search.run.database import STUDY_ERRORS
from search.run.folder import RunFolder
from search.spec.space import Params, SearchSpace, Value

BEST = 5
"""Points taken from another run."""
STUDY_MARK = "#"
"""Stands between the URL of a database and the name of a study in it."""


@dataclass(frozen=True)
class WarmStart:
    """What another run has to offer, best first."""

    points: tuple[Params, ...]
    refused: tuple[str, ...]
    """A line for each of its best trials that is no point of this space: which, and why."""


def read_warm_start(source: str, space: SearchSpace, most: int = BEST) -> WarmStart:
    """The best completed trials of another run, as points of this space.

    Of a run folder, a setting that is searched here and was fixed there comes from that run's space file. A database
    says nothing of settings that were fixed; there the defaults of this space are taken. What was searched there
    and is fixed here stays as it is here. The value of no setting is bent to fit: a trial with one outside its
    range is refused.

    Args:
        source: a run folder, or the URL of a study's database, with ``#name`` where it holds several studies.
        space: the space of the search that is to start.
        most: trials to look at.

    Raises:
        InputError: no run, no readable study, or none of its trials completed.
    """
    there: SearchSpace | None = None
    if "://" in source:
        url, _, name = source.partition(STUDY_MARK)
    else:
        run = RunFolder(Path(source))
        spec = run.read_spec()
        if spec.storage.study is None and not run.study.exists():
            raise InputError(f"{source}: holds no study ({run.study.name}); give a run that has searched")
        url, name = spec.storage.study or run.study_url, ""
        there = spec.space(run.spec)
    best = _best_trials(source, url, name, most)
    points: list[Params] = []
    refused: list[str] = []
    for trial in best:
        point = _translate(trial.params, space, there)
        if fault := space.fault(point):
            refused.append(f"trial {trial.number} of {source}: {fault}")
        elif point not in points:
            points.append(point)
    return WarmStart(tuple(points), tuple(refused))


def _translate(params: Mapping[str, Value], space: SearchSpace, there: SearchSpace | None) -> Params:
    """A trial's settings by the names of this space; what it does not say is missing."""
    if there is not None:
        return space.params(there.config(params))
    known = {**space.params(space.defaults), **params}
    return {searched.name: known[searched.name] for searched in space.parameters(known) if searched.name in known}


def _best_trials(source: str, url: str, name: str, most: int) -> list[FrozenTrial]:
    try:
        database = make_url(url)
        # Opening a file that is not there would make one.
        if database.drivername.startswith("sqlite") and not Path(database.database or "").is_file():
            raise InputError(f"{source}: no such file; give a run folder or the URL of its study")
        names = [name] if name else optuna.get_all_study_names(storage=url)
        if len(names) != 1:
            shown = ", ".join(names) or "none"
            raise InputError(f"{source}: holds several studies or none ({shown}); append {STUDY_MARK} and a name")
        study = optuna.load_study(study_name=names[0], storage=url)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    except KeyError as error:
        raise InputError(f"{source}: holds no study of that name; leave the name out to see them") from error
    except (*STUDY_ERRORS, ImportError) as error:
        raise InputError(f"{source}: not a readable study ({first_line(error)}); give a run folder") from error
    if not trials:
        raise InputError(f"{source}: none of its trials is completed; give a run that has searched")
    return sorted(trials, key=lambda trial: (-_score(trial), trial.number))[:most]


def _score(trial: FrozenTrial) -> float:
    """Best validation Dice."""
    return max(trial.intermediate_values.values(), default=trial.values[0])
