"""The network as a graph that runs without our code: torch.export and ONNX, each compared with torch.

One input, ``image``: grey values 0..255, float32 (B, C, S, S), as `lcnn.network.stacks` lays them out: the patient's
overview, then slice by slice all windows of the stack. One output, ``logits``: log-odds of lesion on the centre slice,
float32 (B, 1, S, S). Pose, warping and normalisation are inside; the size of the batch is free.

Legend: B stacks, C = OVERVIEW + (2T + 1) * K channels, K windows, S side of the picture.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from data_prep.common.errors import first_line
from lcnn.network.model import LCNN
from lcnn.network.stacks import OVERVIEW

INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-4
"""Largest difference from torch's logits that an exported graph may show, in logits or, where the largest logit is
above 1, as a share of it."""
CHECKED_BATCHES = (1, 3)
"""Sizes of the batches on which a graph is compared; it is traced with another."""
TRACED_BATCH = 2
ORT_FAULTS = (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.NotImplemented, ort.RuntimeException)


class ExportFailed(RuntimeError):
    """A graph could not be made, or does not compute what the network computes. One line."""


class LogitNetwork(nn.Module):
    """LCNN with one tensor in and one out, which is all that graphs and bundles ask for."""

    def __init__(self, net: LCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of grey values 0..255 (B, C, S, S)."""
        logits_BSS: Tensor = self.net(image).logits_BHW
        return logits_BSS.unsqueeze(1)


def grey_noise(net: LCNN, side: int, batch: int) -> Tensor:
    """Grey values to try a graph on, the same ones for a size."""
    generator = torch.Generator().manual_seed(batch)
    return 255 * torch.rand(batch, OVERVIEW + net.slices * net.windows, side, side, generator=generator)


def trace(network: LogitNetwork, side: int) -> ExportedProgram:
    """The network's graph for pictures of ``side`` pixels.

    Raises:
        ExportFailed: torch cannot trace it.
    """
    example = grey_noise(network.net, side, TRACED_BATCH)
    with explaining("torch.export"), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}})
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    for node in chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # holds paths of this machine, which are nobody's business elsewhere
    return program


def write_torch(program: ExportedProgram, network: LogitNetwork, side: int, path: Path) -> float:
    """Write the graph for ``torch.export.load``; how far it is from the network at most, in logits.

    Raises:
        ExportFailed: it cannot be written, or is further away than TOLERANCE.
    """
    with explaining(path.name):
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        return largest_difference(network, side, loaded, path.name)


def write_onnx(program: ExportedProgram, network: LogitNetwork, side: int, path: Path) -> float:
    """Write the graph as ONNX; how far onnxruntime's result is from the network at most, in logits.

    Raises:
        ExportFailed: it cannot be written, or is further away than TOLERANCE.
    """
    with explaining(path.name), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its tree specifications
        converted = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes={INPUT: {0: "batch"}}, verbose=False
        )
        assert converted is not None
        converted.save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return largest_difference(
            network, side, lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0]), path.name
        )


@torch.no_grad()
def largest_difference(network: LogitNetwork, side: int, graph: Callable[[Tensor], Tensor], name: str) -> float:
    """Largest difference in logits between the network and its graph, over several sizes of batch.

    Raises:
        ExportFailed: it is above TOLERANCE.
    """
    largest = 0.0
    for batch in CHECKED_BATCHES:
        image = grey_noise(network.net, side, batch)
        expected = network(image)
        difference = float((graph(image) - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:  # NaN is refused too
            raise ExportFailed(
                f"{name}: {difference:.2g} off torch's logits in a batch of {batch}; {allowed:.2g} allowed"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Turn what the exporters raise into one line."""
    try:
        yield
    except ExportFailed:
        raise
    except (RuntimeError, *ORT_FAULTS) as error:
        raise ExportFailed(f"{name}: {first_line(error)}") from error
