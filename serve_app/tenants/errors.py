"""Errors about keys and those who hold them.

TenantError (ConfigError)
├── BadKeys      a keys file that cannot be read or taken up
└── UnknownKey   the keys file has no such key or tenant
"""

from serve_app.errors import ConfigError


class TenantError(ConfigError):
    """About the keys file: the user can mend it."""


class BadKeys(TenantError):
    """A keys file that cannot be read, or breaks a rule."""


class UnknownKey(TenantError):
    """The keys file has no such key."""
