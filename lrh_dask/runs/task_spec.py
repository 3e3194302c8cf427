"""The one door to Dask's own task objects, which it has not made public yet."""

from __future__ import annotations

from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph

__all__ = ["DataNode", "Task", "TaskRef", "convert_legacy_graph"]
