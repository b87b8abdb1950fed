"""Keys that a test holds itself, in place of a file."""

from serve_app.tenants.key_text import digest_of
from serve_app.tenants.keyring import Keyring
from serve_app.tenants.keys_file import KeysFile


class HeldKeys:
    """`Keys` with one tenant, `acme`. keys: by text, their scopes and more."""

    def __init__(self, keys: dict[str, dict[str, object]], **tenant: object) -> None:
        held = [{"sha256": digest_of(key), **more} for key, more in keys.items()]
        file = KeysFile.model_validate({"tenants": {"acme": {**tenant, "keys": held}}})
        self._keyring = Keyring(file)
        self.is_broken = False

    async def keyring(self) -> Keyring:
        return self._keyring
