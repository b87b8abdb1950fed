"""What whoever runs the image counts on, a row each: KubeRay, Triton, Kubernetes, an operator."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai

from tests.cluster.manifests import rendered
from tests.cluster.operators_key import write_operators_key
from tests.image_check.builder import USER, Image
from tests.image_check.pod import ADDRESS, Pod
from tests.serving.family import FAMILY, TOKENIZER, TinyFamily, text_after
from tests.support.row import Row, Short

COMMANDS = ("bash", "wget", "python", "ray", "serve", "cc", "expertpool")
_IMPORTS = "consolidation, representation, serve_app, ray, torch, s3fs, gcsfs, adlfs"
_COMPILED = (
    "from serve_app.engine.device.native.library import native;"
    "from consolidation.arithmetic.rounding import library;"
    "assert native() and library()"
)
_MODULE = (
    "cd $(mktemp -d) && echo '#include <Python.h>' > a.c && "
    "cc -shared -fPIC -I$(python -c 'import sysconfig; print(sysconfig.get_path(\"include\"))') "
    "a.c -o a.so && ls a.so"
)
"""What Triton does before its first kernel."""
MODELS = ("a", "b")
_ANSWER = 16
_PROMPT = "to be or not"


def commands(image: Image) -> Mapping[str, Any]:
    """KubeRay calls bash, wget and ray by their names."""
    absent = image.run(
        "bash", "-c", f"for c in {' '.join(COMMANDS)}; do type $c >&2 || echo $c; done"
    )
    if absent:
        raise Short(f"not on the PATH: {absent.split()}", {})
    return {"commands": " ".join(COMMANDS)}


def user(image: Image) -> Mapping[str, Any]:
    """Nobody is root, and what runs can write below its HOME."""
    told = image.run("bash", "-c", "id -u && cd && pwd && touch written && rm written").split()
    named = image.config()["User"]
    if told != [USER, "/home/expertpool"] or named != USER:
        raise Short(f"user {named}, who is {told}", {})
    return {"user": USER, "HOME": told[1]}


def imports(image: Image) -> Mapping[str, Any]:
    """All packages and extras, the compiled code, and a compiler with Python's headers."""
    image.run("python", "-c", f"import {_IMPORTS}")
    image.run("python", "-c", _COMPILED)
    image.run("bash", "-c", _MODULE)
    return {"imports": _IMPORTS, "compiler": image.run("cc", "--version").splitlines()[0]}


def command_line(image: Image) -> Mapping[str, Any]:
    """The command says what it is, and finds the manifests that it brings."""
    said = image.run("expertpool", "--help")
    if "consolidate" not in said:
        raise Short(f"--help says {said[:200]!r}", {})
    render = f"expertpool k8s render --family {FAMILY} --registry s3://b/r --set image=a:b"
    objects = image.run("bash", "-c", f"{render} --output set.yaml && grep -c ^kind set.yaml")
    return {"objects rendered": int(objects)}


def labels(image: Image) -> Mapping[str, Any]:
    """It says what it was built of, and holds neither tests nor the history."""
    told = image.config()["Labels"]
    found = {name: told.get(f"org.opencontainers.image.{name}") for name in ("version", "revision")}
    if not all(found.values()):
        raise Short("a label is empty", found)
    left = image.run("bash", "-c", "cd /opt/source && ls -d tests .git build .venv 2>&- || true")
    if left:
        raise Short(f"/opt/source has {left.split()}", found)
    return {**found, "GiB": image.num_bytes() / 2**30}


def serves(image: Image) -> Mapping[str, Any]:
    """Two models are consolidated and served in it, as the user of the pods."""
    family = _family(image.folder / "family")
    models = " ".join(f"--model {name}={family.root / name}" for name in MODELS)
    where = f"--registry {family.url} --family {FAMILY} --channel stable"
    consolidate = shlex.split(f"expertpool consolidate {models} {where}")
    image.run(*consolidate, within_s=300, volumes=[family.root])
    keys = family.root / "keys.yaml"
    key = write_operators_key(keys)
    keys.chmod(0o444)
    args = {"device": "cpu", "dtype": "float32", "keys": str(keys)}
    pod = Pod(image, rendered(family.url, image.out, 30, args, "cpu-dev"), family.root)
    try:
        return _seen(image, pod, family, key)
    finally:
        pod.close()


def _seen(image: Image, pod: Pod, family: TinyFamily, key: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"s until the head's probes pass": pod.until_started()}
    _, *test = image.config()["Healthcheck"]["Test"]
    healthcheck = shlex.join(test)
    pod.said(healthcheck)  # nothing is deployed yet, and the head is well
    pod.deploy()
    seen["s until a release serves"] = pod.until_ready()
    pod.said(healthcheck)
    prompt = TOKENIZER.encode(_PROMPT)
    client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key=key, timeout=60)
    for model in MODELS:
        answer = client.completions.create(
            model=model, prompt=_PROMPT, max_tokens=_ANSWER, temperature=0
        )
        wanted = text_after(prompt, family.generate(model, prompt, _ANSWER))
        if answer.choices[0].text != wanted:
            raise Short(f"{model} answers {answer.choices[0].text!r}, not {wanted!r}", seen)
    return seen


def _family(root: Path) -> TinyFamily:
    """Two models that belong to the image's user."""
    root.mkdir()
    family = TinyFamily(root)
    family.make_models(MODELS)
    for path in [root, *root.rglob("*")]:
        os.chown(path, int(USER), int(USER))
    return family


ROWS: tuple[Row[Image], ...] = (
    Row("commands", commands, "all on the PATH", most_s=60),
    Row("user", user, "not root; HOME can be written", most_s=60),
    Row("imports", imports, "packages, extras, compiled code, Python.h", most_s=300),
    Row("command line", command_line, "--help; manifests", most_s=120),
    Row("labels", labels, "version and revision; no tests", most_s=120),
    Row("a release served", serves, "answers of generate(); probes pass", most_s=900),
)
