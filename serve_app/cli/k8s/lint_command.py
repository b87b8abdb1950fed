"""`expertpool k8s lint`: its options. What is wrong, `serve_app.k8s.lint` knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.errors import FAILURE
from serve_app.cli.options import AsJson

if TYPE_CHECKING:
    from serve_app.k8s.lint.mistake import Finding


def lint(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES…",
            exists=True,
            dir_okay=False,
            help="YAML files of manifests, judged together.",
        ),
    ],
    schemas: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            show_default=False,
            help="Schemas of custom objects: what `kubectl get crd NAME -o yaml` prints, or a "
            "folder of such files. Repeat for more.",
        ),
    ] = None,
    kubernetes: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", show_default="the newest that is known", help="Such as 1.33."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with manifests, before a cluster does, or instead of it.

    Looks at fields and their values, Pod Security, the Serve config, the times that a long request
    needs, and whether all replicas find a place. Exits with 1 if anything is wrong.
    """
    from serve_app.k8s.lint.manifest_files import read
    from serve_app.k8s.lint.rules import findings
    from serve_app.k8s.lint.schemas import Schemas, read_schemas

    objects = [one for file in files for one in read(file)]
    known = Schemas(read_schemas(schemas or []), kubernetes)
    found = findings(objects, known)
    notices = list(known.notices(objects))
    wrong = [each for each in found if each.is_error]
    if as_json:
        output.print_json(
            {
                "objects": len(objects),
                "mistakes": [_fact(each) for each in wrong],
                "doubts": [_fact(each) for each in found if not each.is_error],
                "notices": notices,
            }
        )
    else:
        for line in notices:
            output.err().print(f"notice: {line}", markup=False, soft_wrap=True)
        for each in found:
            kind = "" if each.is_error else "doubtful: "
            output.out().print(f"{kind}{each}", markup=False, soft_wrap=True)
        said = f"{len(objects)} objects, {len(wrong)} mistakes"
        output.err().print(said, markup=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(FAILURE)


def _fact(finding: Finding) -> dict[str, object]:
    return {
        "file": finding.file,
        "object": finding.about,
        "field": finding.field,
        "value": finding.value,
        "right": finding.right,
    }
