"""A file of keys with one that may do everything."""

from pathlib import Path

from serve_app.tenants.key_changes import Wanted, with_new_key
from serve_app.tenants.keys_file import KeyScope, KeysFile


def write_operators_key(path: Path) -> str:
    """-> the key"""
    file, key = with_new_key(KeysFile(), Wanted("operator", scopes=frozenset(KeyScope)))
    path.write_text(file.text(), encoding="utf-8")
    return key
