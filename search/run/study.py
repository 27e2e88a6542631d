"""A run's study, wherever it lies."""

from data_prep.common.errors import InputError, first_line
from search.run.database import STUDY_ERRORS, StudyPlace, explaining_study, study_place
from search.run.folder import RunFolder
from search.spec.settings import Spec
from search.spec.space import SearchSpace
from search.study.ledger import Ledger
from search.study.objectives.pareto import cost_of


def study_of(spec: Spec, run: RunFolder) -> StudyPlace:
    """Where the run's study lies.

    Raises:
        InputError: a database that cannot be used.
    """
    return study_place(run.root.resolve().name, run.study_url, spec.storage)


def open_ledger(run: RunFolder, spec: Spec, space: SearchSpace) -> Ledger:
    """The run's study.

    Raises:
        InputError: the file is damaged, locked, or no study; the database does not answer.
    """
    place = study_of(spec, run)
    cost = cost_of(spec.objective)
    price = cost.of if cost else None
    if place.is_shared:
        with explaining_study(place):
            return Ledger(place.url, place.name, space, spec.sampler, price)
    try:
        return Ledger(place.url, place.name, space, spec.sampler, price)
    except STUDY_ERRORS as error:
        raise InputError(f"{run.study}: not a readable study ({first_line(error)}); restore it from a copy") from error
