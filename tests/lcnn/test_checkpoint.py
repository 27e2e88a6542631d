"""Checkpoints: whole or not at all, read without running code, refused where they are not ours."""

import json
import pickle

import numpy as np
import pytest
import torch

from data_prep.common.errors import InputError
from lcnn.checkpoint import FORMAT, KIND, load_checkpoint, save_checkpoint


def test_tensors_and_plain_values_come_back(tmp_path):
    content = {"weights": {"a": torch.randn(3)}, "history": [{"epoch": 1, "dice": None}], "text": "x", "lr": 0.1 + 0.2}
    save_checkpoint(tmp_path / "deep" / "c.pt", content)
    found = load_checkpoint(tmp_path / "deep" / "c.pt")
    assert torch.equal(found.pop("weights")["a"], content.pop("weights")["a"])
    assert found == {"kind": KIND, "format": FORMAT, **content}


def test_a_failed_save_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(path, {"big": torch.zeros(100_000), "bad": lambda: None})
    assert load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_failed_first_save_leaves_no_file(tmp_path):
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(tmp_path / "c.pt", {"bad": lambda: None})
    assert list(tmp_path.iterdir()) == []


def test_a_save_replaces_the_former_file(tmp_path):
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "c.pt", {"epoch": epoch})
    assert load_checkpoint(tmp_path / "c.pt")["epoch"] == 2


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_loading_runs_no_code(tmp_path):
    torch.save({"kind": KIND, "format": FORMAT, "trap": Trap(tmp_path / "sprung")}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.randn(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"c\.pt: truncated or not a checkpoint; delete it"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        json.dumps({"kind": KIND}).encode(),
        pickle.dumps({"kind": KIND, "path": np.float64(1.0)}, protocol=2),
        b"epoch,loss\n1,0.5\n",
        b"search:\n",
        b"hello",
    ],
    ids=["png", "json", "pickle", "csv", "yaml", "text"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.pt"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [{"model": torch.zeros(2)}, [1, 2], torch.zeros(2), {"kind": "other", "format": 1}])
def test_a_file_of_another_program_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"c\.pt: a file of another program"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("other", [FORMAT + 1, None])
def test_another_format_is_refused_by_number(tmp_path, other):
    torch.save({"kind": KIND, "format": other}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=f"checkpoint format {other}, this program reads {FORMAT}"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path)
