"""The flags of the command demo."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from srvae_pyro.checked import Above, AtLeast, Between
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

    A photograph that is dropped there is upscaled, beside bicubic, with plausible outputs and where
    they differ; images are generated, reconstructed, interpolated and recombined; the run's
    training curves and figures are shown. What the page gives to download are the files that the
    commands write with the same settings.

    Visitors share the model and queue for it. Only this computer can open the page unless --host
    exposes it; there is no password. It answers to localhost, 127.0.0.1 and [::1], with another
    --host to addresses, and to names given by --allow-host. It needs no network and calls nowhere;
    each visitor's last images are kept in a temporary folder until the visitor leaves, half an hour
    passes, --disk-gb is reached or the command ends.
    """

    run: str
    """a run's name under runs/, its folder, pretrained, or a Hub id"""
    host: Annotated[str, option("ADDRESS")] = "127.0.0.1"
    """who may look: 127.0.0.1 this computer alone, 0.0.0.0 whoever reaches it by the network"""
    allow_host: Annotated[tuple[str, ...], option("NAME ...", "none")] = ()
    """further names that the page answers to, such as demo.example.com, which a proxy may have"""
    port: Annotated[int | None, Between(1, 65535), option("N", "the first free from 7860 on")] = (
        None
    )
    """of the page's address"""
    megapixels: Annotated[float, Above(0)] = 16.0
    """the most that an image may have"""
    upload_mb: Annotated[int, AtLeast(1)] = 64
    """megabytes that a file may have"""
    disk_gb: Annotated[float, Above(0)] = 8.0
    """gigabytes that the files of all visitors may take; the oldest are removed first"""
    memory_gb: Annotated[float, Above(0)] = 4.0
    """gigabytes for upscaling, as of upscale; what needs more is done in tiles"""
    waiting: Annotated[int, AtLeast(1)] = 32
    """how many requests may queue; further ones are refused"""
    device: Device = "auto"
    """auto takes a GPU if there is one"""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads; 0: as many as other processes leave cores for, checked each second"""

    def check(self) -> None:
        """Refuse an ``--allow-host`` that cannot be a host's name."""
        for name in self.allow_host:
            if "*" in name or host_name(name) is None:
                raise UserError(f"`allow_host` takes a name such as demo.example.com, not {name!r}")
