"""OCI image layouts made by hand: the same bytes on every run, and shapes that no builder would give."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.client.tools import tool

Descriptor = dict[str, Any]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tarball(files: Mapping[str, bytes]) -> bytes:
    """A tar of plain executable files, owned by root at the epoch."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def busybox_files() -> dict[str, bytes]:
    """A root file system that runs: one static program."""
    return {"bin/busybox": Path(tool("busybox")).read_bytes()}


class Layout:
    """A folder as image-spec's image-layout.md describes it; tools address it as oci:<folder>:<tag>."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._diff_ids: dict[str, str] = {}
        self._tagged: list[Descriptor] = []
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def read(self, descriptor: Descriptor) -> bytes:
        return (self.folder / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()

    def blob(self, data: bytes, media_type: str, **more: Any) -> Descriptor:
        digest = digest_of(data)
        (self.folder / "blobs" / digest.replace(":", "/")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def document(self, content: Mapping[str, Any], media_type: str, **more: Any) -> Descriptor:
        return self.blob(json.dumps(content, indent=1).encode(), media_type, **more)

    def layer(self, files: Mapping[str, bytes], compression: str = "gzip", **more: Any) -> Descriptor:
        plain = tarball(files)
        if compression == "gzip":
            made = self.blob(gzip.compress(plain, mtime=0), f"{LAYER}+gzip", **more)
        elif compression == "zstd":
            packed = subprocess.run([tool("zstd"), "-q", "-c"], input=plain, capture_output=True, check=True).stdout
            made = self.blob(packed, f"{LAYER}+zstd", **more)
        else:
            made = self.blob(plain, LAYER, **more)
        self._diff_ids[made["digest"]] = digest_of(plain)
        return made

    def foreign_layer(self, files: Mapping[str, bytes], url: str) -> Descriptor:
        """A layer that clients fetch from its URL: it is described here, and no registry gets its bytes."""
        plain = tarball(files)
        packed = gzip.compress(plain, mtime=0)
        self._diff_ids[digest_of(packed)] = digest_of(plain)
        return {"mediaType": FOREIGN_LAYER, "digest": digest_of(packed), "size": len(packed), "urls": [url]}

    def image(self, layers: Sequence[Descriptor], architecture: str = "amd64", **more: Any) -> Descriptor:
        platform = {"architecture": architecture, "os": "linux"}
        config = self.document(
            {
                **platform,
                "config": {"Cmd": ["/bin/busybox", "echo", "it runs"]},
                "rootfs": {"type": "layers", "diff_ids": [self._diff_ids[layer["digest"]] for layer in layers]},
            },
            CONFIG,
        )
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers)}
        return self.document(manifest | more, MANIFEST, platform=platform)

    def artifact(self, artifact_type: str, layers: Sequence[Descriptor] = (), **more: Any) -> Descriptor:
        """As image-spec's manifest.md tells: an empty config, and the empty blob where there is no content."""
        empty = self.blob(b"{}", EMPTY)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type, "config": empty}
        return self.document(manifest | {"layers": list(layers) or [empty]} | more, MANIFEST)

    def index(self, manifests: Sequence[Descriptor], **more: Any) -> Descriptor:
        return self.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)} | more, INDEX)

    def tag(self, descriptor: Descriptor, name: str) -> str:
        """Make the descriptor known as oci:<folder>:<name>; returns that."""
        self._tagged.append(descriptor | {"annotations": {"org.opencontainers.image.ref.name": name}})
        top = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._tagged}
        (self.folder / "index.json").write_text(json.dumps(top))
        return f"oci:{self.folder}:{name}"


def multi_arch(layout: Layout) -> Descriptor:
    """An index of two platforms with a layer in common."""
    shared = layout.layer(busybox_files())
    return layout.index(
        [layout.image([shared, layout.layer({f"etc/{cpu}": cpu.encode()})], cpu) for cpu in ("amd64", "arm64")],
        annotations={"org.opencontainers.image.title": "two platforms"},
    )


def forty_layers(layout: Layout) -> Descriptor:
    first = layout.layer(busybox_files())
    return layout.image([first, *(layout.layer({f"srv/{n:02}": f"layer {n}\n".encode() * 500}) for n in range(1, 40))])
