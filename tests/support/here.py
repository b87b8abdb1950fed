"""What stands in for Ray: the commands compute in this process."""

from typing import Any, Self

from consolidation.run.executor import LocalExecutor


class Here(LocalExecutor):
    """Takes what `LazyRay` takes."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
