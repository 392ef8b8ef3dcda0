"""The best checkpoint of a run, by val.csv, and deletion of old checkpoints. Imports no torch."""

from __future__ import annotations

from charrnn.storage.csv_log import read_rows
from charrnn.storage.json_file import write_json
from charrnn.storage.run_dir import Run


def mark_best(run: Run) -> None:
    """Write best.json from val.csv, if there is a validation."""
    losses = _losses(run)
    if losses:
        step = min(losses, key=losses.__getitem__)
        name = run.checkpoint_file(step).relative_to(run.path).as_posix()
        write_json(run.best_file, {"iteration": step, "val_loss": losses[step], "checkpoint": name})


def count_stale(run: Run) -> int:
    """Return the number of validations after the best one."""
    losses = list(_losses(run).values())
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def delete_old(run: Run, keep: int) -> None:
    """Delete all checkpoints except the newest ``keep`` and the best one; 0 keeps all."""
    if keep:
        best = (run.best() or {}).get("iteration")
        for old in run.checkpoints()[:-keep]:
            if int(old.stem) != best:
                old.unlink()


def _losses(run: Run) -> dict[int, float]:
    """Return the validation losses in nats by iteration, in order."""
    rows = read_rows(run.val_file) if run.val_file.exists() else []
    return {int(row["iteration"]): float(row["val_loss"]) for row in rows}
