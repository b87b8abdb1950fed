"""All of `bench load`: arrivals become jobs, an arm answers them, a result says how. Shows none."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.bench.arms.answering import ArmResult, run_arm
from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.load import queue_waits
from serve_app.bench.requests.workload import Asked, JobList, RequestArrival, make_jobs
from serve_app.bench.result.environment import Environment, environment
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.result.result import Result


def measure_load(
    spec: ArmSpec,
    asked: Sequence[Asked],
    arrivals: Sequence[RequestArrival],
    settings: Mapping[str, Any],
    device: str,
    on_progress: OnProgress,
) -> Result:
    """What became of the arrivals. The endpoint itself, if one is asked, says who waited there.

    settings: as they are recorded; of them `skew`, `seed`, `drain_s` and `url` are read.
    Raises: EngineError where the arm cannot be opened, or breaks.
    """
    jobs = make_jobs(arrivals, asked, skew=settings["skew"], seed=settings["seed"])
    here = environment(device)
    url, looks = settings.get("url"), []
    answered = run_arm(
        spec,
        jobs.jobs,
        drain_s=settings["drain_s"],
        on_progress=on_progress,
        on_ready=lambda: looks.append(queue_waits.read(url) if url else None),
    )
    waited = queue_waits.between(looks[0], queue_waits.read(url)) if url and looks else {}
    return _result(answered, jobs, settings, here, waited)


def _result(
    answered: ArmResult,
    jobs: JobList,
    settings: Mapping[str, Any],
    here: Environment,
    waited: Mapping[str, dict[str, float] | None],
) -> Result:
    """waited: in an endpoint's queue, by model and of all, as far as it says."""
    row = answered.to_json()
    by_model = row["models"] | {"all": row["all"]}
    rows = [{"model": name, **numbers} for name, numbers in by_model.items()]
    for one in rows:
        one["queue_s"] = one["queue_s"] or waited.get(one["model"])
    facts = {name: row[name] for name in ("jain", "jain_of", "device_bytes", "errors", "client")}
    facts |= {"warnings": row["warnings"], "num_cut": jobs.num_cut, "lost": row["all"]["lost"]}
    facts["arrivals_s"] = jobs.jobs[-1].at_s
    facts["requests"] = [
        {
            "at_s": one.job.at_s,
            "model": one.job.model,
            "prompt_tokens": len(one.job.prompt),
            "answer_tokens": one.num_tokens,
            "submitted_s": one.submitted_s,
            "first_s": one.first_s,
            "finished_s": one.finished_s,
            "error": one.error,
        }
        for one in answered.outcomes
    ]
    return Result("load", here, settings, rows, facts)
