"""cosign: signatures beside the image, with a local key and no transparency log."""

from __future__ import annotations

import pytest

from tests.client.conftest import Registry
from tests.client.layout import Layout
from tests.client.test_skopeo import push
from tests.client.tools import Client

PLAIN = "--allow-http-registry"
OFFLINE_SIGN = ("--yes", "--use-signing-config=false", "--tlog-upload=false")


@pytest.fixture
def signed_image(skopeo: Client, registry: Registry, layout: Layout, request: pytest.FixtureRequest) -> str:
    image = layout.image([layout.layer({"signed": b"this"})])
    name = f"cosign/{request.node.callspec.id}"
    push(skopeo, registry, layout.tag(image, "v1"), f"{name}:v1")
    return f"{registry.address}/{name}@{image['digest']}"


@pytest.mark.parametrize("form", ["bundle", "legacy"])
def test_sign_and_verify(cosign: Client, registry: Registry, signed_image: str, form: str) -> None:
    """As a bundle that refers to the image (version 3's own way), and as the older tag made of the image's digest."""
    cosign("generate-key-pair")
    name, _, digest = signed_image.partition("/")[2].partition("@")
    bundle = f"--new-bundle-format={str(form == 'bundle').lower()}"
    verify = ("verify", PLAIN, "--insecure-ignore-tlog", bundle, "--key", "cosign.pub", signed_image)
    cosign.refused(*verify)
    cosign("sign", PLAIN, *OFFLINE_SIGN, bundle, "--key", "cosign.key", signed_image)
    assert digest in cosign(*verify)
    if form == "bundle":
        assert len(registry.referrers(name, digest)) == 1
        assert registry.tags(name) == ["v1"]
    else:
        assert registry.tags(name) == [digest.replace(":", "-") + ".sig", "v1"]
