"""One family's releases in one place: blobs, manifests, channels. Interprets no tensor."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from pydantic import ValidationError

from consolidation.release.aliases import Alias, Aliases
from consolidation.release.canaries import Canary
from consolidation.release.channels import (
    ANYTHING,
    Anything,
    Channel,
    ChannelStore,
    family_address,
)
from consolidation.release.errors import (
    Damaged,
    NewerSchema,
    NotFound,
    ReleaseError,
    first_fault,
)
from consolidation.release.manifest import (
    RELEASE_ID_LENGTH,
    SCHEMA_VERSION,
    BackboneBlob,
    Blob,
    Manifest,
    release_id,
)
from consolidation.release.pointers import Pointers
from consolidation.release.storage import Storage, open_storage
from consolidation.release.tensors import (
    decode_tensors,
    encode_tensors,
    tensor_digest,
)
from representation.canonical import canonical_json
from representation.json_text import parse_json
from representation.names import NAME_RULE, valid_name

REPORT = "report.html"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """A line in the list of releases. `problem` says why a release cannot be read."""

    id: str
    at: datetime | None
    models: tuple[str, ...]
    expert_bytes_before: int
    expert_bytes_after: int
    channels: tuple[str, ...]
    problem: str | None = None


class Registry:
    """The releases of one family under a local path or an fsspec address.

    Everything is verified against its digest when it is read. A failure raises a `ReleaseError`
    that names the file, and changes nothing.
    """

    def __init__(
        self,
        url: str,
        family: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.storage_url = family_address(url, family)
        self.url = url
        self.family = family
        self.storage: Storage = open_storage(self.storage_url)
        self._channels = ChannelStore(self.storage)
        self._canaries = Pointers(self.storage, "canaries", Canary, "a canary")
        self._aliases = Pointers(self.storage, "aliases", Aliases, "a list of aliases")
        self._now = now

    # Blobs

    def write_blob(self, data: bytes, *, suffix: str = "safetensors") -> Blob:
        """Store content under its digest. Writes nothing if it is already there and intact."""
        blob = Blob(digest=hashlib.sha256(data).hexdigest(), bytes=len(data))
        path = blob_path(blob, suffix)
        size = self.storage.size(path)
        if size != blob.bytes or self.storage.read(path, blob.bytes) != data:
            self.storage.write(path, data)
        return blob

    def write_backbone(
        self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32
    ) -> BackboneBlob:
        """Store tensors of a backbone in one file, as `write_blob` does. dtype: the release's."""
        blob = self.write_blob(encode_tensors(tensors))
        digests = {name: tensor_digest(tensors[name]) for name in sorted(tensors)}
        wide = [n for n in digests if tensors[n].dtype == torch.float32 and dtype != torch.float32]
        return BackboneBlob(
            digest=blob.digest, bytes=blob.bytes, tensors=digests, in_float32=tuple(wide)
        )

    def has_blob(self, blob: Blob, *, suffix: str = "safetensors") -> bool:
        """Whether a file with that name and size exists. Does not read it."""
        return self.storage.size(blob_path(blob, suffix)) == blob.bytes

    def read_bytes(self, blob: Blob, *, suffix: str = "bin") -> bytes:
        """A blob's content. Raises `Damaged`."""
        path = blob_path(blob, suffix)
        name, data = self.storage.name(path), self.storage.read(path, blob.bytes)
        if data is None:
            raise Damaged(f"{name} is missing")
        if len(data) != blob.bytes:
            raise Damaged(f"{name} has {len(data)} bytes instead of {blob.bytes}")
        if hashlib.sha256(data).hexdigest() != blob.digest:
            raise Damaged(f"{name} was altered: its content does not match its digest")
        return data

    def read_tensors(self, blob: Blob) -> dict[str, torch.Tensor]:
        """A blob's tensors, copied into memory of this process. Raises `Damaged`."""
        data = self.read_bytes(blob, suffix="safetensors")
        try:
            return decode_tensors(data)
        except ValueError as error:
            name = self.storage.name(blob_path(blob, "safetensors"))
            raise Damaged(f"{name}: {error}") from error

    # Releases

    def publish(
        self, manifest: Manifest, report: str | None = None, recipe: str | None = None
    ) -> str:
        """Make a release visible. Its blobs must be there already. Returns its id.

        `report` is a page about it, for people; `report_name` says where it is. `recipe` says what
        it was made from, as `recipe.yaml` beside it; nothing here reads it. The manifest is written
        last, so a run that dies before that leaves nothing visible.
        Publishing the same manifest again changes nothing.
        """
        data = manifest.to_bytes()
        release = release_id(data)
        for blob, suffix in manifest_blobs(manifest):
            if not self.has_blob(blob, suffix=suffix):
                name = self.storage.name(blob_path(blob, suffix))
                raise Damaged(f"{name} is missing, or its size is not {blob.bytes} bytes")
        if self.storage.read(f"releases/{release}/manifest.json") != data:
            at = canonical_json({"at": self._now().isoformat()})
            self.storage.write(f"releases/{release}/published.json", at)
            for name, text in ((REPORT, report), (RECIPE, recipe)):
                if text is not None:
                    self.storage.write(f"releases/{release}/{name}", text.encode())
            self.storage.write(f"releases/{release}/manifest.json", data)
        return release

    def report_name(self, release: str) -> str | None:
        """The full name of the page about a release; None if there is none."""
        path = f"releases/{release}/{REPORT}"
        return self.storage.name(path) if self.storage.size(path) is not None else None

    def read_manifest(self, release: str) -> Manifest:
        """A release's manifest. Raises `NotFound`, `Damaged` or `NewerSchema`."""
        path = f"releases/{release}/manifest.json"
        name = self.storage.name(path)
        if not is_release_id(release):
            raise NotFound(f"{release!r} is not the id of a release")
        data = self.storage.read(path)
        if data is None:
            if self.storage.names(f"releases/{release}"):
                raise Damaged(f"{name} is missing: the release is only half written")
            raise NotFound(f"no release {release} of family {self.family!r} in {self.url}")
        if release_id(data) != release:
            raise Damaged(f"{name} was altered or truncated: its content is not that of {release}")
        try:
            content = parse_json(data)
            version = content["schema_version"]
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise NewerSchema(
                    f"{name} has schema_version {version}; this program reads up to "
                    f"{SCHEMA_VERSION}"
                )
            return Manifest.model_validate(content)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{name} is not a manifest: {_reason(error)}") from error

    def releases(self) -> list[ReleaseSummary]:
        """All published releases, oldest first. Half-written ones are not published."""
        pointing: dict[str, list[str]] = {}
        for name, channel in self.channels().items():
            pointing.setdefault(channel.release, []).append(name)
        found = []
        for release in self.storage.names("releases"):
            if not is_release_id(release):
                continue
            if self.storage.size(f"releases/{release}/manifest.json") is not None:
                found.append(self._summary(release, tuple(pointing.get(release, ()))))
        oldest = datetime.min.replace(tzinfo=UTC)
        return sorted(found, key=lambda summary: (summary.at or oldest, summary.id))

    def other_families(self) -> list[str]:
        """What else the registry holds releases of, sorted: to tell who mistyped a family."""
        place = open_storage(self.url)
        names = [name for name in place.names("") if valid_name(name) and name != self.family]
        return [name for name in names if place.names(f"{name}/releases")]

    def _summary(self, release: str, channels: tuple[str, ...]) -> ReleaseSummary:
        at = self.published_at(release)
        try:
            manifest = self.read_manifest(release)
        except (Damaged, NewerSchema) as error:
            return ReleaseSummary(release, at, (), 0, 0, channels, problem=str(error))
        return ReleaseSummary(
            release,
            at,
            tuple(sorted(manifest.models)),
            manifest.expert_bytes_before,
            manifest.expert_bytes_after,
            channels,
        )

    def published_at(self, release: str) -> datetime | None:
        """When a release was published; None if there is no readable record."""
        data = self.storage.read(f"releases/{release}/published.json")
        try:
            return datetime.fromisoformat(parse_json(data or b"")["at"])
        except (ValueError, KeyError, TypeError):
            return None

    # Channels

    def channel(self, name: str) -> Channel | None:
        """Where a channel points now, or None. Raises `Damaged`."""
        return self._channels.read(_checked(name))

    def channels(self) -> dict[str, Channel]:
        """All channels by name, sorted."""
        found = {name: self._channels.read(name) for name in self._channels.names()}
        return {name: channel for name, channel in found.items() if channel is not None}

    def move_channel(
        self, name: str, release: str, *, expected: str | Anything | None = ANYTHING
    ) -> Channel:
        """Point a channel at a release that can be read; see `ChannelStore.move`."""
        self.read_manifest(release)
        return self._channels.move(_checked(name), release, self._now(), expected)

    # What lies beside a channel

    def canary(self, channel: str) -> Canary | None:
        """The canary of a channel, or None. Raises `Damaged`."""
        found = self._canaries.read(_checked(channel))
        return None if found is None or found.release is None else found

    def canaries(self) -> dict[str, Canary]:
        """All canaries there are, by channel, sorted."""
        found = {name: self.canary(name) for name in self._canaries.names()}
        return {name: canary for name, canary in found.items() if canary is not None}

    def change_canary(
        self, channel: str, by: Callable[[Canary | None, datetime], Canary]
    ) -> Canary:
        """Replace what is said of a channel's canary; see `Pointers.change`."""
        return self._canaries.change(_checked(channel), lambda before: by(before, self._now()))

    def aliases(self, channel: str) -> Aliases | None:
        """The aliases of a channel, or None. Raises `Damaged`."""
        return self._aliases.read(_checked(channel))

    def change_aliases(
        self, channel: str, by: Callable[[Mapping[str, Alias]], Mapping[str, Alias]]
    ) -> Aliases:
        """Replace a channel's aliases; see `Pointers.change`."""

        def change(before: Aliases | None) -> Aliases:
            now = by({} if before is None else before.aliases)
            return Aliases(aliases=dict(sorted(now.items())), at=self._now())

        return self._aliases.change(_checked(channel), change)


def blob_path(blob: Blob, suffix: str) -> str:
    """The path of a blob, relative to the family."""
    return f"blobs/{blob.digest}.{suffix}"


def manifest_blobs(manifest: Manifest) -> list[tuple[Blob, str]]:
    """Every distinct blob a release needs, with its suffix: experts, then models' own, in order."""
    found: dict[tuple[str, str], tuple[Blob, str]] = {}
    for layer in manifest.layers:
        for part in (*layer.slots, *layer.residuals):
            found.setdefault((part.digest, "safetensors"), (part, "safetensors"))
    for name in sorted(manifest.models):
        model = manifest.models[name]
        for blob in model.backbone:
            found.setdefault((blob.digest, "safetensors"), (blob, "safetensors"))
        for file in sorted(model.tokenizer_files):
            own = model.tokenizer_files[file]
            found.setdefault((own.digest, "bin"), (own, "bin"))
    return list(found.values())


def is_release_id(text: str) -> bool:
    """Whether it could be the id of a release."""
    return len(text) == RELEASE_ID_LENGTH and all(c in "0123456789abcdef" for c in text)


def _checked(name: str) -> str:
    if not valid_name(name):
        raise ReleaseError(f"channel {name!r} is not a name: {NAME_RULE}")
    return name


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_fault(error)
    return f"{type(error).__name__}: {error}"
