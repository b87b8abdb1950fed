"""All rules over all objects. Each rule has a file of its own."""

from collections.abc import Callable, Iterator, Sequence

from serve_app.k8s.lint.capacity import capacity
from serve_app.k8s.lint.graces_rule import graces
from serve_app.k8s.lint.mistake import Described, Finding
from serve_app.k8s.lint.pod_security import pod_security
from serve_app.k8s.lint.schemas import Schemas
from serve_app.k8s.lint.serve_fields import serve_fields
from serve_app.k8s.lint.twice import twice
from serve_app.k8s.lint.upgrades import upgrades

_FORMS = (AttributeError, KeyError, TypeError, ValueError)
Rule = Callable[[Sequence[Described]], Iterator[Finding]]
RULES: tuple[Rule, ...] = (twice, pod_security, serve_fields, graces, capacity, upgrades)


def findings(objects: Sequence[Described], schemas: Schemas) -> list[Finding]:
    """Everything that is wrong, or doubtful. What breaks its schema is judged by nothing else."""
    broken = list(schemas.problems(objects))
    names = {(one.file, one.about) for one in broken}
    sound = [one for one in objects if (one.file, one.label) not in names]
    return broken + [found for rule in RULES for found in _judged(rule, sound)]


def _judged(rule: Rule, objects: Sequence[Described]) -> list[Finding]:
    """By object, where they cannot be judged together: without schemas, they may have any form."""
    try:
        return list(rule(objects))
    except _FORMS as error:
        if len(objects) > 1:
            return [found for one in objects for found in _judged(rule, [one])]
        words = f"a field has another form than it should: {error!r}"
        return [one.wrong("the object", None, words) for one in objects]
