"""From a run folder to evidence, and the command that writes the page again."""

import json

import pytest

from data_prep.common.errors import InputError
from lcnn.outcome import Outcome
from search.console.display import Display
from search.report import __main__ as command
from search.report.evidence import read_evidence
from search.report.page import write_report
from search.run.folder import RunFolder, write_environment, write_spec
from search.run.opened import open_run
from search.spec.settings import validate_spec
from search.spec.space import SearchSpace
from search.study.ledger import Ledger

PATIENTS = """model,patient,dice,hd95,true_volume,predicted_volume,distance_unit,volume_unit
winner,good,0.8,3.5,20.0,19.0,mm,ml
winner,free,,,0.0,0.0,mm,ml
winner,bad,0.1,,2.0,9.0,mm,ml
defaults,good,0.7,4.0,20.0,25.0,mm,ml
"""
RANGES = {"T": {"choice": [1, 2]}, "optim.lr": {"log": [1e-4, 1e-2]}, "train.batch_size": {"int": [4, 8]}}


@pytest.fixture
def run(tmp_path):
    """A run folder as a finished run leaves it, with a real study of three trials."""
    run = RunFolder(tmp_path / "tiny-cpu")
    run.root.mkdir()
    spec = validate_spec({"search": RANGES, "train": {"epochs": 2}, "scheduler": {"grace": 1}}, "test")
    write_spec(run, spec)
    write_environment(run)
    ledger = Ledger(run.study_url, "search", SearchSpace(spec.search, spec.training, "test"), spec.sampler)
    for value, outcome in ((0.3, Outcome.COMPLETED), (0.5, Outcome.COMPLETED), (0.1, Outcome.DIVERGED)):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_epoch(number, 1, value, 4.0)
        ledger.finish(number, outcome, "NaN" if outcome == Outcome.DIVERGED else None)
    ledger.ask()
    estimate = {"mean": 0.45, "low": 0.1, "high": 0.8, "patients": 2}
    winner = {"dice": estimate, "lesion_free_patients": 1, "lesion_free_with_false_alarm": 0}
    content = {
        "cohort": "hospital",
        "synthetic": False,
        "winner": 1,
        "slots_busy": 0.5,
        "confirmation": None,
        "models": {"winner": winner},
    }
    run.evaluation.write_text(json.dumps(content))
    run.split.write_text(json.dumps({"cohort_hash": "abc", "train": ["a"], "val": ["b"], "test": ["c", "d"]}))
    run.patients.write_text(PATIENTS)
    run.log_test_opening("2 patients: final evaluation")
    return run


def opened(run):
    spec = run.read_spec()
    space = SearchSpace(spec.search, spec.training, "test")
    return Ledger(run.study_url, "search", space, spec.sampler), space


def test_the_files_of_a_run_become_evidence(run):
    evidence = read_evidence(run, *opened(run))
    assert (evidence.label.run, evidence.label.cohort, evidence.label.synthetic) == ("tiny-cpu", "hospital", False)
    assert [trial.outcome for trial in evidence.trials] == [*[Outcome.COMPLETED] * 2, Outcome.DIVERGED, None]
    assert evidence.winner is not None
    assert evidence.winner.number == 1
    assert [span.end is None for span in evidence.spans.values()] == [False, False, False, True]
    assert [(p.name, p.log, p.whole, p.choices) for p in evidence.parameters] == [
        ("T", False, False, (1, 2)),
        ("optim.lr", True, False, ()),
        ("train.batch_size", False, True, ()),
    ]
    # The winner's patients only, failures first; an undefined figure is no figure.
    assert [patient.name for patient in evidence.patients] == ["bad", "good", "free"]
    assert evidence.patients[0].figures == {"dice": 0.1, "true_volume": 2.0, "predicted_volume": 9.0}
    assert evidence.provenance.parts == {"train": 1, "val": 1, "test": 2}
    assert len(evidence.provenance.openings) == 1
    assert evidence.confirming == ()
    assert evidence.slices is None


def test_the_page_is_written_and_written_again_by_the_command(run, capsys):
    write_report(open_run(run.root, run.root.parent, Display()))
    first = run.report.read_text(encoding="utf-8")
    assert "Trial 1 won with test Dice 0.450" in first
    run.report.unlink()
    assert command.main([str(run.root)]) == 0
    assert run.report.read_text(encoding="utf-8") == first
    assert capsys.readouterr().out.strip() == str(run.report)


def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, capsys):
    assert command.main([str(tmp_path / "nothing")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    run.evaluation.unlink()
    assert command.main([str(run.root)]) == 2
    assert "not tested yet" in capsys.readouterr().err
    assert not run.report.exists()


@pytest.mark.parametrize("name", ["evaluation.json", "split.json"])
def test_a_damaged_file_is_named(run, name):
    (run.root / name).write_text("{")
    with pytest.raises(InputError, match=rf"{name}: damaged"):
        read_evidence(run, *opened(run))
