"""The results of one endpoint or engine, for the terminal. Prints nothing."""

from serve_app.bench.requests import waits
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart, Trouble


def terminal(result: Result) -> list[TerminalPart]:
    """Counts and waits by model, then figures for all, then problems."""
    facts = result.facts
    by_model = {row["model"]: row for row in result.rows}
    counts = [
        [name, str(row["requests"]), str(row["lost"]), waits.rate(row)]
        for name, row in by_model.items()
    ]
    found: list[TerminalPart] = [
        Table("", ["model", "requests", "lost", "answers, tokens/s"], counts),
        "",
        waits.table("model", by_model),
        waits.WORDS,
    ]
    if facts["jain"] is not None:
        found.append(f"Jain index {facts['jain']:.3f} of {facts['jain_of']}")
    if facts["num_cut"]:
        found.append(f"{facts['num_cut']} requests were cut to fit a model's context")
    found.append(waits.client_words(facts["client"]))
    found += [Trouble(f"lost: {error}") for error in facts["errors"]]
    found += [Trouble(f"warning: {words}") for words in facts["warnings"]]
    return found
