"""How new weights reach a server."""

from typing import ClassVar, Protocol

from torch import Tensor

from a2tgpo.engines.weight_sync.weights import Served
from a2tgpo.policies.policy import Policy
from a2tgpo.system.http_client import HttpClient


class WeightSync(Protocol):
    """Brings new weights to a server that an engine samples from."""

    keeps: ClassVar[bool]
    """Are saved weights kept, so that they can be loaded once more when the policy has moved on?"""

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Write `weights` where the server finds them; `base` names the model that the server was started with."""
        ...

    def load(self, server: HttpClient, served: Served) -> None:
        """Have the server sample from them; nothing where it already does."""
        ...

    def drop(self, server: HttpClient, served: Served) -> None:
        """Forget weights that were replaced."""
        ...
