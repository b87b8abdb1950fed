"""What `/openapi.json` says is what is answered: schemathesis asks whatever the document allows."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from serve_app.api.requests.deadline import TIMEOUT_HEADER
from tests.serving.listening import listening

NUM_REQUESTS = 1000
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening() as port:
        yield port


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_no_request_of_the_document_gets_a_fault_or_an_answer_that_is_not_in_it(port: int) -> None:
    import schemathesis
    from schemathesis.generation import GenerationMode

    schemathesis.checks.load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    found = [each.ok() for each in schema.get_all_operations()]
    wrong = [(each, GenerationMode.NEGATIVE) for each in found if each.body]
    asked = [*((each, GenerationMode.POSITIVE) for each in found), *wrong]
    statuses: dict[int, int] = {}

    def ask(case: schemathesis.Case) -> None:
        if case.meta.generation.mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = "a"  # else hardly any would get beyond 404
        case.headers.pop(TIMEOUT_HEADER, None)  # a time that is too short is a 504
        answer = case.call_and_validate(checks=checks)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    for operation, mode in asked:
        often = settings(
            max_examples=120 if operation.body else 20,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        of_it: Any = given(operation.as_strategy(generation_mode=mode))
        often(of_it(ask))()
    assert sum(statuses.values()) >= NUM_REQUESTS, statuses
    assert statuses[200] > NUM_REQUESTS / 5, statuses
