"""The allowances of all tenants that have asked for something. Knows no HTTP."""

from serve_app.tenants.allowance import Allowance
from serve_app.tenants.keyring import Caller


class Allowances:
    """By tenant's name. Forgets no tenant: a keys file has few, and only they have keys."""

    def __init__(self) -> None:
        self._held: dict[str, Allowance] = {}

    def of(self, caller: Caller, now: float) -> Allowance:
        """The caller's tenant's, with the limits that its keys file gives it now."""
        held = self._held.get(caller.name)
        if held is None:
            held = self._held[caller.name] = Allowance(caller.name, caller.tenant, now)
        held.set_limits(caller.tenant, now)
        return held
