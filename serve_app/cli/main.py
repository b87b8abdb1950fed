"""The entry point of `expertpool`: its commands, and how the process ends."""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import typer

from serve_app.cli import errors, output
from serve_app.cli.bench.group import bench
from serve_app.cli.consolidate import consolidate
from serve_app.cli.evaluation import evaluate
from serve_app.cli.gc_command import gc
from serve_app.cli.k8s.k8s_commands import k8s
from serve_app.cli.keys import keys
from serve_app.cli.processes import Interruption, adopt_orphans, end_children
from serve_app.cli.releases import inspect, promote, releases, rollback, verify
from serve_app.cli.serve.serve_command import serve
from serve_app.cli.serving import demo, plan_memory
from serve_app.cli.traffic.aliases_command import aliases
from serve_app.cli.traffic.canary_command import canary
from serve_app.cli.usage import usage
from serve_app.cli.watching.monitoring import monitoring

app = typer.Typer(
    name="expertpool",
    help="Put fine-tunes of a mixture-of-experts model into one pool of experts, and serve them. "
    "To see it work, run `expertpool demo`.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command()(consolidate)
app.command()(releases)
app.command()(inspect)
app.command()(verify)
app.command()(evaluate)
app.command()(promote)
app.command()(rollback)
app.command()(gc)
app.command("plan-memory")(plan_memory)
app.command()(serve)
app.command()(usage)
app.command()(monitoring)
app.command()(demo)
app.add_typer(canary, name="canary")
app.add_typer(aliases, name="aliases")
app.add_typer(keys, name="keys")
app.add_typer(k8s, name="k8s")
app.add_typer(bench, name="bench")

CHILDREN_GRACE_S = 5.0


def main() -> None:
    """Run one command, then exit and end every process it started."""
    interruption = Interruption()
    adopt_orphans()
    interruption.install()
    code = errors.FAILURE
    try:
        code = run(sys.argv[1:], interruption)
    except KeyboardInterrupt:  # between the lines above and the command
        code = 128 + (interruption.number or 0)
    finally:
        end_children(CHILDREN_GRACE_S)
        with suppress(OSError):
            sys.stdout.flush()
    sys.exit(code)


def run(arguments: Sequence[str], interruption: Interruption | None = None) -> int:
    """Run one command in this process; return its exit code.

    If a signal ended the command, the code is 128 + the signal's number. Every other error is
    printed on stderr in words, and `errors` gives its code.
    """
    stopped = interruption or Interruption()
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=list(arguments), prog_name="expertpool", standalone_mode=False, obj=stopped
        )
    except KeyboardInterrupt:
        code = None
    except SystemExit as leaving:
        code = leaving.code
        if code == signal.SIGTERM:  # Ray's own handler, which is set while Ray starts
            stopped.number = signal.SIGTERM
    except Exception as error:  # noqa: BLE001 - the last place where it can be put in words
        code = errors.report(error, output.err())
    if stopped.number is not None:
        output.err().print(f"stopped by {stopped.name}")
        return 128 + stopped.number
    return code if isinstance(code, int) else errors.DONE


if __name__ == "__main__":
    main()
