"""Requests that go where their model is, releases that are staged in turn, engines by load."""

import time
from collections.abc import Mapping
from typing import Any

import openai
import yaml

from tests.chaos.endpoint import ROOT, wait_until
from tests.chaos.ledger import counts, reasons
from tests.cluster.cluster import RUNNING_S, Cluster
from tests.cluster.manifests import Manifests
from tests.cluster.pages import metric
from tests.cluster.site import CHANNEL, MODELS, Site
from tests.support.row import Short

CLIENTS = 8
ANSWERED = 160
MISSES = "backbone_misses_total"
HITS = "prefix_hit_tokens_total"
CONVERSATIONS, TURNS, BLOCK, REUSED = 12, 4, 16, 0.9
INSTRUCTIONS = "Be brief."
"""Short: what conversations have in common is known everywhere."""
STAGED_S = 60.0
SCALED_S = 90.0
OVERLAY = "k8s/overlays/multi-gpu/engines.yaml"


def one_model_each(site: Site) -> Mapping[str, Any]:
    """Two engines with one place each, and as many models: each engine loads one and keeps it."""
    cluster = site.serving(2)
    _changed(cluster, site.manifests.with_changes(engines=2, args={"num_places": 1}), 2)
    before = {node.address: metric(node.address, MISSES) for node in cluster.workers}
    seen = _asked(site, cluster, ANSWERED)
    misses = [metric(address, MISSES) - count for address, count in before.items()]
    seen["loads by engine"] = misses
    if seen["right"] != seen["requests"]:
        raise Short("some were not right", seen)
    if sum(misses) > len(MODELS) * 4:
        raise Short("models were loaded again and again", seen)
    return seen


def conversations(site: Site) -> Mapping[str, Any]:
    """Two engines that hold all models, and conversations whose turns come by any ingress: a turn
    goes where keys and values of the turns before it are.
    """
    cluster = site.serving(2)
    addresses = [node.address for node in cluster.workers]
    hits, known = sum(metric(each, HITS) for each in addresses), 0
    clients = [
        openai.OpenAI(base_url=f"{node.proxy}/v1", api_key=site.key, max_retries=0)
        for node in cluster.workers
    ]
    talks: list[list[Any]] = [
        [{"role": "system", "content": INSTRUCTIONS}] for _ in range(CONVERSATIONS)
    ]
    before = [0] * CONVERSATIONS
    for turn in range(TURNS):
        for number, talk in enumerate(talks):
            talk.append({"role": "user", "content": f"Question {turn} of {number}. " * 8})
            answer = clients[(turn + number) % 2].chat.completions.create(
                model=MODELS[number % 2], messages=talk, max_tokens=8
            )
            assert answer.usage is not None
            known += before[number] // BLOCK * BLOCK
            before[number] = answer.usage.prompt_tokens
            talk.append({"role": "assistant", "content": answer.choices[0].message.content})
    hits = sum(metric(each, HITS) for each in addresses) - hits
    seen = {
        "conversations": CONVERSATIONS,
        "turns": TURNS,
        "tokens of turns before": known,
        "of them reused": hits / known,
        "prompts by engine": [metric(each, "prompt_tokens_total") for each in addresses],
    }
    if hits < REUSED * known:
        raise Short("turns went where nothing was known of them", seen)
    return seen


def one_stages(site: Site) -> Mapping[str, Any]:
    """A channel moves there and back under load, and both engines follow: one stages at a time."""
    other = site.another_release()
    cluster = site.serving(2)
    both, took = 0, []
    try:
        with site.clients(cluster) as clients:
            clients.begin(CLIENTS)
            for release in (other, site.release):
                begun = time.monotonic()
                site.family.registry.move_channel(CHANNEL, release)
                both += _until_all_follow(cluster)
                took.append(time.monotonic() - begun)
            outcomes = [each.outcome for each in clients.end()]
    finally:
        site.publish()
    seen = {
        "requests": len(outcomes),
        "right": counts(outcomes)["right"],
        "looks at which both staged": both,
        "s until both serve": took,
        **reasons(outcomes),
    }
    if seen["right"] != seen["requests"] or both:
        raise Short("some were not right, or both engines staged at once", seen)
    return seen


def scaled(site: Site) -> Mapping[str, Any]:
    """By the policy of the manifests, with shorter delays: many requests, then none."""
    cluster = site.serving(1)
    scaling = _policy() | {
        "min_replicas": 1,
        "max_replicas": 2,
        "upscale_delay_s": 2,
        "downscale_delay_s": 5,
        "look_back_period_s": 4,
        "metrics_interval_s": 1,
    }
    changed = site.manifests.with_changes(args={"max_sequences": 4}, scaling=scaling)
    _changed(cluster, changed, 1)
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        up_s = cluster.until_running(2, SCALED_S)
        aim = clients.num_answered + ANSWERED
        while clients.num_answered < aim:
            time.sleep(0.1)
        outcomes = [each.outcome for each in clients.end()]
    down_s = cluster.until_running(1, SCALED_S)
    seen = {
        "requests": len(outcomes),
        "right": counts(outcomes)["right"],
        "s until 2 engines": up_s,
        "s until 1 engine": down_s,
        **reasons(outcomes),
    }
    if seen["right"] != seen["requests"]:
        raise Short("some were not right", seen)
    return seen


def _asked(site: Site, cluster: Cluster, number: int) -> dict[str, Any]:
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        while clients.num_answered < number:
            time.sleep(0.1)
        outcomes = [each.outcome for each in clients.end()]
    return {
        "requests": len(outcomes),
        "right": counts(outcomes)["right"],
        **reasons(outcomes),
    }


def _changed(cluster: Cluster, manifests: Manifests, engines: int) -> None:
    """Other `args`: all engines are made anew."""
    before = set(cluster.pids("Engine").values())
    cluster.deploy(manifests)
    wait_until(
        lambda: before.isdisjoint(cluster.pids("Engine").values()), RUNNING_S, "other engines run"
    )
    cluster.until_running(engines)
    cluster.until_reached()


def _until_all_follow(cluster: Cluster) -> int:
    """Until all engines serve what the channel names. -> looks at which two staged, twice in a row:
    one page is read after the other.
    """
    addresses = [node.address for node in cluster.workers]
    found, last, until = 0, False, time.monotonic() + STAGED_S
    switched = [metric(each, "release_switches_total") for each in addresses]
    while time.monotonic() < until:
        now = sum(metric(each, "staging") for each in addresses) > 1
        found, last = found + (now and last), now
        if all(
            metric(each, "release_switches_total") > num
            for each, num in zip(addresses, switched, strict=True)
        ):
            return found
    raise TimeoutError(f"not both engines had followed within {STAGED_S:g} s")


def _policy() -> dict[str, Any]:
    """The `autoscaling_config` of `multi-gpu`."""
    patches = yaml.safe_load((ROOT / OVERLAY).read_text(encoding="utf-8"))
    [text] = [each["value"] for each in patches if each["path"] == "/spec/serveConfigV2"]
    [app] = yaml.safe_load(text)["applications"]
    [engine] = [each for each in app["deployments"] if each["name"] == "Engine"]
    scaling: dict[str, Any] = engine["autoscaling_config"]
    return scaling
