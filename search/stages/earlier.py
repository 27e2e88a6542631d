"""Runs of versions that kept no records of their stages: what they had done stands in their evaluation."""

from search.run.evaluation import read_evaluation
from search.run.opened import Run
from search.stages import confirm, export, report, train_finally


def adopt_earlier(run: Run) -> None:
    """Write the records of a finished run that has none.

    Raises:
        InputError: its evaluation is damaged, or of a version whose figures are not today's.
    """
    if run.folder.course.exists() or not run.folder.evaluation.exists():
        return
    evaluation = read_evaluation(run.folder)
    known = {key: evaluation.get(key) for key in confirm.made_for(run)}
    if known != confirm.made_for(run) or evaluation.get("exported") != evaluation["winner"]:
        return
    roles = {"winner": evaluation["winner"], "defaults": 0}
    jobs = {role: {"trial": roles[role], "epochs": epochs} for role, epochs in evaluation["epochs"].items()}
    left = {"finalists": [], "summary": evaluation["confirmation"]}
    run.course.record(confirm.NAME, confirm.made_for(run), left)
    run.course.record(train_finally.NAME, train_finally.made_for(run), jobs)
    run.course.record(export.NAME, export.made_for(run), {"graphs": []})
    run.course.record(report.NAME, report.made_for(run), {})
