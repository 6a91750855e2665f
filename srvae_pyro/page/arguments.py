"""The flags of the command demo."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from srvae_pyro.checked import MOST_THREADS, Above, AtLeast, Between
from srvae_pyro.config import Device
from srvae_pyro.errors import UserError
from srvae_pyro.system.cli import option


def host_name(host: str) -> str | None:
    """A ``Host`` header's name or address without port, dot or brackets; None if invalid."""
    try:
        parts = urlsplit(f"//{host}")
        name = (parts.hostname or "").removesuffix(".")
    except ValueError:  # brackets without an IPv6 address
        return None
    if not name or parts.netloc != host or "@" in host:
        return None
    try:
        return str(ip_address(name))
    except ValueError:
        return name


@dataclass
class DemoArguments:
    """Open a page in the browser that shows what a trained model does.

    Drop a photograph there to see it upscaled beside bicubic interpolation, with plausible outputs
    and a map of where they differ. Other tabs generate, reconstruct, interpolate and recombine
    images, and show the run's training curves and figures. Downloads are the files that the
    commands write with the same settings.

    Visitors share the model and queue for it. Only this computer can open the page unless --host
    exposes it; there is no password. It answers to localhost, 127.0.0.1 and [::1], to IP addresses
    if another --host is given, and to the names in --allow-host. It needs no network and contacts
    no other server. Each visitor's last images are kept in a temporary folder until the visitor
    leaves, half an hour passes, --disk-gb is reached or the command ends.
    """

    EXAMPLE: ClassVar = "pretrained"

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    host: Annotated[str, option("ADDRESS")] = "127.0.0.1"
    """address to listen on; 127.0.0.1: this computer only; 0.0.0.0: everyone on the network"""
    allow_host: Annotated[tuple[str, ...], option("NAME ...", "none")] = ()
    """further host names that the page answers to, such as demo.example.com of a proxy"""
    port: Annotated[int | None, Between(1, 65535), option("N", "the first free one from 7860")] = (
        None
    )
    """port to listen on"""
    megapixels: Annotated[float, Above(0)] = 16.0
    """maximum size of an image, in megapixels"""
    upload_mb: Annotated[int, AtLeast(1)] = 64
    """maximum size of a file, in megabytes"""
    disk_gb: Annotated[float, Above(0)] = 8.0
    """maximum disk space for all visitors' files, in GB; the oldest are removed first"""
    memory_gb: Annotated[float, Above(0)] = 4.0
    """gigabytes of memory for upscaling; larger images are upscaled in tiles"""
    waiting: Annotated[int, AtLeast(1)] = 32
    """number of requests that may queue; further ones are refused"""
    device: Device = "auto"
    """device to compute on; auto: a GPU if there is one"""
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0
    """CPU threads; 0: one per core that other processes leave free, checked every second"""

    def check(self) -> None:
        """Refuse an ``--allow-host`` that cannot be a host's name."""
        for name in self.allow_host:
            if "*" in name or host_name(name) is None:
                raise UserError(
                    f"`allow_host` must be a name such as demo.example.com, not {name!r}"
                )
