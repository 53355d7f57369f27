"""Checkpoints as rows and back, and what no row may hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from shared_utils.persistence.checkpoints.lineage import Node
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint, Write
from shared_utils.persistence.errors import ValueRefused
from shared_utils.text import clean_json, clean_text

Row = Mapping[str, Any]

_KEY_BYTES: Final = 512
"""Of one part of a key: four of them fit into an index entry."""


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its parameters, but for its values."""
    return {
        "thread_id": checkpoint.thread_id,
        "namespace": checkpoint.namespace,
        "checkpoint_id": checkpoint.checkpoint_id,
        "parent_id": checkpoint.parent_id,
        "run_id": checkpoint.run_id,
        "kind": checkpoint.state.kind,
        "state": checkpoint.state.data,
        "metadata": json_text(checkpoint.metadata),
        "value_names": list(checkpoint.versions.keys()),
        "value_versions": list(checkpoint.versions.values()),
        "inherited": sorted(checkpoint.inherited),
    }


def write_row(write: Write) -> dict[str, Any]:
    """Its parameters, but for the checkpoint it belongs to."""
    return {
        "task_id": write.task_id,
        "task_index": write.index,
        "task_path": write.task_path,
        "name": write.name,
        "kind": write.blob.kind,
        "data": write.blob.data,
    }


def checkpoint_of(row: Row, values: Mapping[tuple[str, ...], Blob], writes: Sequence[Write]) -> Checkpoint:
    """The checkpoint of a row.

    Args:
        row: of ``agent_checkpoints``.
        values: by :func:`value_keys`.
        writes: its own, in order.
    """
    versions = _versions(row)
    place = (row["thread_id"], row["namespace"])
    found = {name: values.get((*place, name, version)) for name, version in versions.items()}
    return Checkpoint(
        thread_id=row["thread_id"],
        state=Blob(row["kind"], row["state"]),
        checkpoint_id=row["checkpoint_id"],
        namespace=row["namespace"],
        parent_id=row["parent_id"],
        run_id=row["run_id"],
        metadata=row["metadata"],
        versions=versions,
        values={name: blob for name, blob in found.items() if blob is not None},
        inherited=frozenset(row["inherited"]),
        writes=writes,
        created_at=row["created_at"],
    )


def value_keys(rows: Iterable[Row]) -> list[dict[str, str]]:
    """Which values these checkpoints refer to, each once."""
    keys = {
        (row["thread_id"], row["namespace"], name, version): None
        for row in rows
        for name, version in _versions(row).items()
    }
    return [dict(zip(("thread_id", "namespace", "name", "version"), key, strict=True)) for key in keys]


def blob_of(row: Row) -> Blob:
    """The bytes of a value or a write."""
    return Blob(row["kind"], row["data"])


def write_of(row: Row) -> Write:
    """The write of a row."""
    return Write(row["task_id"], row["task_index"], row["name"], blob_of(row), row["task_path"])


def node_of(row: Row, namespace: str) -> Node:
    """What the checkpoint of a row refers to."""
    return Node(namespace, row["checkpoint_id"], row["parent_id"], _versions(row), row.get("inherited", ()))


def json_text(metadata: Mapping[str, Any]) -> str:
    """The JSON object; what no database can hold in a text is replaced by U+FFFD.

    Raises:
        ValueRefused: JSON cannot hold a value.
    """
    parts = {}
    for key, value in metadata.items():
        try:
            parts[clean_text(key)] = json.loads(json.dumps(clean_json(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueRefused(
                f"the metadata {key!r} of a checkpoint cannot be written as JSON ({error}); keep it in the state"
            ) from error
    return json.dumps(parts, ensure_ascii=False)


def require_key(**parts: str | None) -> None:
    """Return if these can be parts of a key.

    Raises:
        ValueRefused: one is too long, or holds what no database can.
    """
    for name, text in parts.items():
        if text is None:
            continue
        if clean_text(text) != text:
            raise ValueRefused(f"the {name} {text[:40]!r} holds a NUL or half a surrogate pair; use another one")
        if len(text.encode()) > _KEY_BYTES:
            raise ValueRefused(f"the {name} {text[:40]!r}… is longer than {_KEY_BYTES} bytes; use a shorter one")


def require_size(limit: int, blobs: Mapping[str, Blob]) -> None:
    """Return if none of these is larger than ``limit`` bytes.

    Raises:
        ValueRefused: one is.
    """
    for name, blob in blobs.items():
        if len(blob.data) > limit:
            raise ValueRefused(
                f"{name} of a checkpoint takes {len(blob.data)} bytes, more than the maximum of {limit}; store large "
                "values elsewhere and refer to them"
            )


def _versions(row: Row) -> dict[str, str]:
    return dict(zip(row["value_names"], row["value_versions"], strict=True))
