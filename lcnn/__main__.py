"""LCNN without a search.

    python -m lcnn train    --config results/RUN/best_config.yaml --data COHORT --out DIR [--set train.epochs=20]
    python -m lcnn evaluate --model results/RUN --data COHORT [--out DIR]
    python -m lcnn predict  --model results/RUN --input FOLDER|FILE --out DIR
    python -m lcnn export   --model results/RUN --out DIR [--formats torch onnx]

``train`` splits the cohort by patient, trains, and keeps last.pt, best.pt and history.csv in DIR; the same command goes
on where it stopped. ``evaluate`` scores every patient of any cohort on its own pixel grid. ``predict`` needs no masks:
it takes slices (of a cohort, as its cohort.json says), a NIfTI file, the folder of a DICOM study, or a folder of any of
them, and writes overlays, lesion volumes (volumes.csv) and masks in the input's own grid: PNG, NIfTI, DICOM-SEG. A
DICOM-SEG names its patient as the series does; nothing else that is written or printed comes from identifying DICOM
fields. ``export`` writes a model's folder: weights, settings, model card, torch.export and ONNX graphs, a MONAI bundle;
a run's winner lies in such a folder, results/RUN/model.
"""

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.cohort.compiled import cache_folder, compile_cohort
from data_prep.cohort.layout import Cohort, open_cohort, spacing_of
from data_prep.cohort.normalisation import training_normalisation
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.split import SplitConfig, lock_split, read_split
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.common.wording import counted
from data_prep.intensity.window import WINDOWS, in_words
from data_prep.intensity.window_options import window_names
from lcnn.config import FORMATS, TrainingConfig
from lcnn.dotted import assign
from lcnn.export.model_card import read_evidence
from lcnn.export.model_folder import export_model, refuse_foreign
from lcnn.inference.model_file import MODEL, find_model, hash_split, load_model, read_settings
from lcnn.inference.model_windows import in_named_windows, other_window, pixels_for
from lcnn.inference.predict import predict_volume
from lcnn.inference.scans import InputOverrides, Scan, find_patients
from lcnn.inference.volumes import VOLUMES, VolumeRow, volume_row, write_volumes
from lcnn.outcome import Outcome
from lcnn.scoring.evaluate import THRESHOLD, PatientResult, evaluate
from lcnn.scoring.evaluation import METRICS, estimate_text, summarise, write_evaluation, write_patients
from lcnn.scoring.overlay import save_best_median_worst, save_prediction
from lcnn.settings_file import parse_assignment, read_yaml, validate
from lcnn.training.fit import EpochResult, TrainingData, fit


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m lcnn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,evaluate,predict,export}")
    train = commands.add_parser("train", help="train one configuration")
    train.add_argument("--config", type=Path, required=True, help="settings as YAML, such as a run's best_config.yaml")
    train.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints and history")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    train.add_argument("--split-seed", type=int, default=0, help="seed that draws the patient split (default 0)")
    evaluate_ = commands.add_parser("evaluate", help="score a model on a cohort")
    evaluate_.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    evaluate_.add_argument("--out", type=Path, help="folder for figures and overlays (default: only print)")
    predict = commands.add_parser("predict", help="segment slices that have no masks")
    predict.add_argument(
        "--input", type=Path, required=True, help="slices, a NIfTI file, a DICOM folder, or a folder of those"
    )
    predict.add_argument("--out", type=Path, required=True, help="folder for masks/, overlays/ and volumes.csv")
    predict.add_argument(
        "--window",
        type=window_names,
        metavar="NAME[,NAME...]",
        help=f"how HU become grey: {', '.join(WINDOWS)} (default: the model's, else the cohort's, else brain)",
    )
    predict.add_argument(
        "--hu-offset", type=int, metavar="N", help="what was added to the HU of 16-bit slices or NIfTI files"
    )
    predict.add_argument("--spacing-mm", type=float, nargs=3, metavar=("SLICE", "ROW", "COLUMN"),
                         help="of slices without a cohort.json that tells it; for volumes in ml")  # fmt: skip
    predict.add_argument("--series", type=int, metavar="NUMBER", help="the DICOM series to take, where several fit")
    export = commands.add_parser("export", help="write a model's folder, to be taken elsewhere")
    export.add_argument("--out", type=Path, required=True, help="the folder; a model that is there gives way")
    export.add_argument("--formats", nargs="*", choices=FORMATS, default=FORMATS, help="graphs to make (default: all)")
    for command in (evaluate_, predict, export):
        command.add_argument(
            "--model", type=Path, required=True, help="a run, model or training's folder, or a checkpoint"
        )
    for command in (train, evaluate_, predict):
        command.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
        command.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    for command in (train, evaluate_):
        command.add_argument(
            "--cache", type=Path, default=Path("results/.cache"), help="where compiled slices are kept"
        )
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> int:
    """The ``train`` command.

    Raises:
        InputError: bad settings or data, or a folder that holds another training.
    """
    data = read_yaml(options.config)
    for key, value in map(parse_assignment, options.set):
        assign(data, key.split("."), value, "command line")
    settings = validate(TrainingConfig, data, str(options.config))
    compiled = compile_cohort(options.data, options.cache, settings.picture)
    split = lock_split(options.out / "split.json", compiled.store, SplitConfig(seed=options.split_seed))
    normalisation = training_normalisation(compiled.store, split)
    training = TrainingData(compiled.store, split.train, split.val, normalisation)
    print(f"{split.size('train')} train, {split.size('val')} validate, {split.size('test')} are left for a test")
    epochs = fit(settings.training, training, device=device(options), folder=options.out)
    outcome = print_epochs(epochs)
    print(f"{outcome}; {options.out / 'best.pt'} holds the epoch of the best validation Dice")
    return 0 if outcome == Outcome.COMPLETED else 1


def print_epochs(epochs: Generator[EpochResult, None, Outcome]) -> Outcome:
    """Print a line an epoch; how the training ended."""
    while True:
        try:
            result = next(epochs)
        except StopIteration as end:
            return end.value
        dice = "" if result.val_dice is None else f"  validation Dice {result.val_dice:.3f}"
        print(f"epoch {result.epoch:>3}  loss {result.loss:.4f}{dice}  {result.seconds:.1f} s", flush=True)


def evaluate_cohort(options: argparse.Namespace) -> int:
    """The ``evaluate`` command.

    Raises:
        InputError: no model or no cohort at the given places.
    """
    model = load_model(options.model, device(options))
    cohort = open_cohort(options.data, cache_folder(options.data, options.cache))
    if line := other_window(model, {cohort.name: pixels_for(model, pixels_of(cohort), cohort.name)}):
        print(line, flush=True)
    noun = "scans" if any(patient.group is not None for patient in cohort.patients) else "patients"
    if known := trained_on(find_model(options.model), cohort):
        print(
            f"WARNING: {len(known)} of the {len(cohort.patients)} {noun} trained or validated this model, {known[0]} "
            "the first; figures over them say nothing of new patients",
            flush=True,
        )
    results: list[PatientResult] = []
    for patient in cohort.patients:
        results += evaluate(model, cohort, options.data, [patient.id])
        print(f"{patient.id}  Dice {results[-1].dice:.3f}", flush=True)
    summary = summarise({"model": results})
    label = " (synthetic)" if cohort.synthetic else ""
    figures = summary["models"]["model"]
    units = {"hd95": figures["distance_unit"], "volume_difference": figures["volume_unit"]}
    for metric in METRICS:
        print(f"{metric:<23} {estimate_text(figures[metric], units.get(metric, ''))}{label}")
    for name, share in figures["detection"].items():
        print(f"{name:<23} {estimate_text(share)}{label}")
    if options.out:
        write_patients(options.out / "patients.csv", {"model": results})
        write_evaluation(
            options.out / "evaluation.json", {"cohort": cohort.name, "synthetic": cohort.synthetic, **summary}
        )
        save_best_median_worst(options.out / "overlays", results, model, cohort, options.data)
        print(f"figures and pictures: {options.out}")
    return 0


SPLIT_WITHIN = 4
"""Folders of a run, from one of its checkpoints upwards: trials/4/fold-0/best.pt is the lowest."""


def trained_on(model: Path, cohort: Cohort) -> list[str]:
    """Patients of a cohort who trained or validated a model, as far as the split that it belongs to tells."""
    # A run's split lies beside its model, and up to four folders above its trainings' checkpoints.
    beside = (folder / "split.json" for folder in model.resolve().parents[:SPLIT_WITHIN])
    file = next((file for file in beside if file.is_file()), None)
    if file is None:
        return []
    split = read_split(file)
    return sorted((*split.train, *split.val)) if split.cohort_hash == cohort.hash else []


def refuse_own_input(source: Path, out: Path) -> None:
    """See that masks are not written among the scans, where the next run would take them for patients.

    Raises:
        InputError: they would be.
    """
    if source.is_dir() and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out}: lies in the input, among the scans; name a folder elsewhere")


def predict(options: argparse.Namespace) -> int:
    """The ``predict`` command.

    Raises:
        InputError: no model, no slices, or slices that cannot be read.
    """
    model = load_model(options.model, device(options))
    overrides = InputOverrides(options.series, options.hu_offset, spacing_of(options.spacing_mm))
    refuse_own_input(options.input, options.out)
    patients = find_patients(options.input, overrides)
    if options.window:
        named = in_named_windows(model, options.window)
        if model.windows and named.windows != model.windows:
            print(f"window: {in_words(named.windows)}, in place of the model's {in_words(model.windows)}", flush=True)
        model = named
    seen = {patient.name: pixels_for(model, patient.pixels, patient.name) for patient in patients}
    if line := other_window(model, seen):
        print(line, flush=True)
    is_announced = bool(model.windows)
    seconds = 0.0
    rows: list[VolumeRow] = []
    faults: list[InputError] = []
    for patient in patients:
        try:
            scan = patient.open(seen[patient.name])
            if scan.assumed and not is_announced:
                is_announced = True
                print(f"window: {scan.assumed}, for the model keeps none; if another, name it by --window", flush=True)
            started = time.perf_counter()
            predicted_ZHW = predict_volume(model, scan.image_ZKHW, scan.spacing_mm) >= THRESHOLD
            seconds += time.perf_counter() - started
            write_prediction(options.out, patient.name, scan, predicted_ZHW)
        except InputError as error:
            # The others are predicted all the same; this one is reported at the end, where it is not overlooked.
            faults.append(error)
            continue
        rows.append(volume_row(patient.name, scan, predicted_ZHW))
        write_volumes(options.out / VOLUMES, rows)
        print(f"{patient.name}: {rows[-1]}{f' ({scan.note})' if scan.note else ''}", flush=True)
    if rows:
        slices = sum(row.slices for row in rows)
        print(f"{slices / seconds:.1f} slices/s predicting ({slices} slices, {model.device}); results in {options.out}")
    refuse_all(faults, len(patients))
    return 0


def refuse_all(faults: Sequence[InputError], patients: int) -> None:
    """Say what was wrong with each patient that could not be predicted.

    Raises:
        InputError: there is one.
    """
    if len(faults) == patients:
        # Most likely all for one reason, such as an option, so that one line says it.
        others = f" (none of {patients} patients could be predicted)" if patients > 1 else ""
        raise InputError(f"{faults[0]}{others}")
    if faults:
        sys.stderr.writelines(f"{fault}\n" for fault in faults)
        raise InputError(f"{len(faults)} of {counted(patients, 'patient')} could not be predicted; see above")


def export(options: argparse.Namespace) -> int:
    """The ``export`` command.

    Raises:
        InputError: no model, or ``--out`` holds something else.
    """
    place = find_model(options.model)
    refuse_foreign(options.out)
    is_folder = place.is_dir()
    graphs = export_model(
        options.out,
        load_model(place),
        formats=tuple(options.formats),
        split_hash=read_settings(place).split_hash if is_folder else hash_split(place.parent),
        evidence=read_evidence(place.resolve().parent) if is_folder and place.resolve().name == MODEL else None,
        on_step=lambda step: print(f"exporting: {step}", flush=True),
    )
    for graph in graphs:
        print(graph)
    print(f"model card, weights, settings and MONAI bundle: {options.out}")
    return 0 if all(graph.fault is None for graph in graphs) else 1


def write_prediction(out: Path, name: str, scan: Scan, predicted_ZHW: NDArray[np.bool_]) -> None:
    """The mask in the input's own grid, and overlays of the slices with lesion."""
    scan.write_mask(out / "masks", predicted_ZHW)
    for slice_name, image_HW, predicted_HW in zip(scan.slice_names, scan.image_ZHW, predicted_ZHW, strict=True):
        if predicted_HW.any():
            save_prediction(out / "overlays" / name / f"{slice_name}.png", image_HW, predicted_HW)


def device(options: argparse.Namespace) -> str:
    """The torch device of the options; also sets the number of threads.

    Raises:
        InputError: the device is unknown or absent.
    """
    if options.threads is not None:
        if options.threads < 1:
            raise InputError(f"--threads {options.threads}: at least one")
        torch.set_num_threads(options.threads)
    has_gpu = torch.cuda.is_available()
    if options.device == "auto":
        return "cuda" if has_gpu else "cpu"
    if options.device not in ("cpu", "cuda"):
        raise InputError(f"--device {options.device}: choose cpu, cuda or auto")
    if options.device == "cuda" and not has_gpu:
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    return str(options.device)


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = parse(arguments)
    commands = {"train": train, "evaluate": evaluate_cohort, "predict": predict, "export": export}
    return commands[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
