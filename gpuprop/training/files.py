"""The state of a training run in a file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuprop.io.files import replacing
from gpuprop.random import default_generator

if TYPE_CHECKING:
    from gpuprop.training.trainer import Trainer


def save(trainer: Trainer, path: str | os.PathLike) -> None:
    """Write an npz file: weights and the optimizer's state as arrays, the rest, as JSON, in the array ``meta``."""
    arrays, meta = state(trainer)
    with replacing(path, binary=True) as file:
        entries = {"meta": np.array(json.dumps(meta)), **{name: _plain(array) for name, array in arrays.items()}}
        np.savez(file, **entries)  # type: ignore[arg-type]


def load(trainer: Trainer, path: str | os.PathLike) -> None:
    """Read what `save` wrote; after an error the trainer is as it was."""
    with np.load(path, allow_pickle=False) as file:
        if "meta" not in file:
            raise ValueError(f"{path} is no checkpoint of a Trainer: it holds {', '.join(file.files) or 'nothing'}")
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    before = state(trainer)
    try:
        restore(trainer, arrays, meta)
    except BaseException as error:
        restore(trainer, *before)
        error.add_note(f"while loading {path}: the trainer is as it was")
        raise


def state(trainer: Trainer) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All that the rest of a run depends on: arrays in host memory by name, and what JSON can say."""
    optimizer = trainer.optimizer.state_dict()
    arrays = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    steps = {}
    for number, entry in optimizer["state"].items():
        steps[str(number)] = entry.get("step")
        arrays |= {f"optimizer.{number}.{name}": value for name, value in entry.items() if name != "step"}
    scheduler = {} if trainer.scheduler is None else trainer.scheduler.state_dict()
    meta = {"steps": steps, "groups": optimizer["param_groups"], "generator": default_generator.get_state(),
            "scheduler": {name: value for name, value in scheduler.items() if _survives(value)},
            "history": trainer.history.rows}
    return arrays, meta


def restore(trainer: Trainer, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Set what `state` returned."""
    parts: dict[str, dict] = {"model": {}, "optimizer": {}}
    for name, value in arrays.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    entries: dict[int, dict[str, Any]] = {int(n): {} if step is None else {"step": step}
                                          for n, step in meta["steps"].items()}
    for name, value in parts["optimizer"].items():
        number, _, rest = name.partition(".")
        entries[int(number)][rest] = value
    trainer.optimizer.load_state_dict({"state": entries, "param_groups": meta["groups"]})
    trainer.model.load_state_dict(parts["model"])
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(meta["scheduler"])
    default_generator.set_state(meta["generator"])
    trainer.history.rows[:] = meta["history"]


def _survives(value: Any) -> bool:
    """Is it the same after JSON?  What is not, such as functions, its owner's constructor was given."""
    try:
        return json.loads(json.dumps(value)) == value
    except TypeError:
        return False


def _plain(array: np.ndarray) -> np.ndarray:
    """bfloat16 as float32, which holds all of its values, and which an npz file knows."""
    return array.astype("float32") if array.dtype.kind == "V" else array
