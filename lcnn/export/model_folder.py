"""The folder in which a model leaves: weights, settings, card, graphs, bundle; whole or absent."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch.export import ExportedProgram

from data_prep.common.errors import InputError
from data_prep.common.files import replacing_folder, require_room
from lcnn.config import FORMATS, Format
from lcnn.export.bundle import write_bundle
from lcnn.export.graph import ExportFailed, LogitNetwork, trace, write_onnx, write_torch
from lcnn.export.model_card import Evidence, Graph, model_card
from lcnn.inference.model_file import WEIGHTS, TrainedModel, model_settings, save_model
from lcnn.network.model import LCNN

Writer = Callable[[ExportedProgram, LogitNetwork, int, Path], float]
OnStep = Callable[[str], None]
FILES: Mapping[Format, str] = {"torch": "exports/model.pt2", "onnx": "exports/model.onnx"}
WRITERS: Mapping[Format, Writer] = {"torch": write_torch, "onnx": write_onnx}


def export_model(
    out: Path,
    model: TrainedModel,
    *,
    formats: tuple[Format, ...] = FORMATS,
    split_hash: str | None = None,
    evidence: Evidence | None = None,
    on_step: OnStep = lambda step: None,
) -> list[Graph]:
    """Write the model's folder. A graph that fails is left out, and reported.

    Args:
        out: the folder; what is there gives way (see `refuse_foreign`).
        model: on the CPU.
        formats: graphs to make.
        split_hash: of the split file that says who trained it.
        evidence: what its run measured.
        on_step: called with every step before it begins; graphs take minutes.

    Raises:
        TypeError: the network is not LCNN.
        OSError: the disk has no room for it.
    """
    if not isinstance(model.net, LCNN):
        raise TypeError(f"only LCNN is exported, not {type(model.net).__name__}")
    network = LogitNetwork(model.net).eval()
    settings = model_settings(model, split_hash)
    # Asked for at once: not every exporter says that the disk was full.
    weights = sum(value.nbytes for value in network.state_dict().values())
    out.parent.mkdir(parents=True, exist_ok=True)
    require_room(out.parent, (2 + len(formats)) * weights)
    with replacing_folder(out, keep_existing=False) as partial:
        on_step("weights and settings")
        save_model(partial, model, split_hash)
        graphs = write_graphs(partial, network, model.picture.image_size, formats, on_step)
        on_step("MONAI bundle and model card")
        write_bundle(partial / "bundle", network, settings, evidence.figures("winner") if evidence else {})
        parameters = sum(parameter.numel() for parameter in model.net.parameters())
        card = model_card(settings, evidence, graphs, parameters)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return graphs


def write_graphs(
    folder: Path, network: LogitNetwork, side: int, formats: tuple[Format, ...], on_step: OnStep
) -> list[Graph]:
    """Make the graphs that can be made, traced once for all."""
    if not formats:
        return []
    (folder / "exports").mkdir()
    on_step("tracing the network")
    try:
        program = trace(network, side)
    except ExportFailed as error:
        return [Graph(FILES[name], None, str(error)) for name in formats]
    graphs = []
    for name in formats:
        on_step(f"{FILES[name]}, compared with torch")
        graphs.append(_write_graph(folder / FILES[name], name, program, network, side))
    return graphs


def _write_graph(path: Path, name: Format, program: ExportedProgram, network: LogitNetwork, side: int) -> Graph:
    try:
        return Graph(FILES[name], WRITERS[name](program, network, side, path))
    except ExportFailed as error:
        path.unlink(missing_ok=True)
        return Graph(FILES[name], None, str(error))


def refuse_foreign(out: Path) -> None:
    """Check, where a person names the folder, that nothing but a model is about to give way.

    Raises:
        InputError: the folder holds something else.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / WEIGHTS).is_file()):
        raise InputError(f"{out}: holds something else than a model; choose another folder")
