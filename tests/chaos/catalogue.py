"""Every fault by its name, in the order in which they run."""

from functools import partial

from tests.chaos.fault import Fault, Setting
from tests.chaos.faults import (
    backbones,
    consolidations,
    files,
    leaks,
    processes,
    releases,
    requests,
    templates,
)
from tests.chaos.ground import Ground

FAULTS: tuple[Fault[Ground], ...] = (
    Fault("nothing", processes.nothing),
    Fault("engine killed", processes.engine_killed),
    Fault("ingress killed", processes.ingress_killed, may_cut=True),
    Fault("text process killed", processes.text_killed),
    Fault("controller killed", processes.controller_killed),
    Fault("engine stopped and continued", processes.engine_stopped),
    Fault("clients leave at random", requests.clients_leave),
    Fault("hostile requests", requests.hostile),
    Fault("KV blocks run out", requests.blocks_run_out),
    Fault("20 releases in a row and back", releases.in_a_row),
    Fault("a canary, its file damaged, and promoted", releases.canary),
    *(Fault(f"a release with {bad}", partial(releases.refused, bad=bad)) for bad in releases.BAD),
    *(
        Fault(f"a template that {bad}", partial(templates.chat, bad=bad))
        for bad in templates.TEMPLATES
    ),
    Fault("files of a new release damaged", files.new_release),
    Fault("files of the served release damaged", files.served_release),
    Fault("a bad file when an engine starts", files.bad_at_start),
    Fault("channel file damaged", files.channel),
    Fault("alias file damaged", files.aliases),
    Fault("keys file damaged", files.keys),
    Fault("the registry's disk full", consolidations.disk_full),
    Fault("consolidation's worker killed", consolidations.worker_killed),
    Fault("consolidation killed", consolidations.command_killed),
    Fault("two consolidations at once", consolidations.two_at_once),
    Fault("60 reloads", leaks.reloads, is_quiet=True),
    Fault("2,000 aborts", leaks.aborts, is_quiet=True),
    Fault("backbones damaged in place", files.served_release, setting=Setting.HELD),
    Fault("nothing, two places", processes.nothing, setting=Setting.TIGHT),
    Fault("backbones damaged, to be read", files.backbones_to_be_read, setting=Setting.TIGHT),
    Fault("registry gone", backbones.registry_gone, setting=Setting.TIGHT),
    Fault("200 backbone loads", leaks.backbone_loads, setting=Setting.TIGHT, is_quiet=True),
    Fault("storage slow, then failing", backbones.slow_then_failing, setting=Setting.REMOTE),
    Fault("told to end", processes.told_to_end, ends=True),
)
