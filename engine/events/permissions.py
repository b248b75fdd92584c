"""What an agent may do, in the format's two languages: the older sandbox policy, and the permission profile.

A turn's context carries both, changed settings carry the profile. Pure. Source: codex_rollout.md 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Policy = Mapping[str, Any]

_KEPT = (".git", ".agents", ".codex")
"""Folders of a workspace that stay closed to writing."""


def profile_of(sandbox: Policy, cwd: str) -> dict[str, Any]:
    """The permission profile that a sandbox policy stands for."""
    match sandbox.get("type"):
        case "danger-full-access":
            return {"type": "disabled"}
        case "external-sandbox":
            return {"type": "external", "network": sandbox.get("network_access", "restricted")}
        case "workspace-write":
            entries = _writable(sandbox, cwd)
        case _:
            entries = []
    root = {"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}
    network = "enabled" if sandbox.get("network_access") is True else "restricted"
    return {
        "type": "managed",
        "file_system": {"type": "restricted", "entries": [root, *entries]},
        "network": network,
    }


def sandbox_of(policy: Policy, cwd: str) -> dict[str, Any]:
    """The sandbox policy nearest to a permission profile; a sandbox policy as it is."""
    match policy.get("type"):
        case "disabled":
            return {"type": "danger-full-access"}
        case "external":
            return {"type": "external-sandbox", "network_access": policy.get("network", "restricted")}
        case "managed":
            return _managed(policy, cwd)
        case _:
            return dict(policy)


def _writable(sandbox: Policy, cwd: str) -> list[dict[str, Any]]:
    folders = [cwd, *sandbox.get("writable_roots", ())]
    entries: list[dict[str, Any]] = [_entry({"type": "path", "path": folder}, "write") for folder in folders]
    if not sandbox.get("exclude_slash_tmp"):
        entries.append(_entry({"type": "special", "value": {"kind": "slash_tmp"}}, "write"))
    if not sandbox.get("exclude_tmpdir_env_var"):
        entries.append(_entry({"type": "special", "value": {"kind": "tmpdir"}}, "write"))
    closed = [_entry({"type": "path", "path": f"{cwd.rstrip('/')}/{name}"}, "read") for name in _KEPT]
    return entries + [{**entry, "missing_path_behavior": "skip"} for entry in closed]


def _entry(path: Policy, access: str) -> dict[str, Any]:
    return {"path": path, "access": access}


def _managed(profile: Policy, cwd: str) -> dict[str, Any]:
    writable = [entry["path"] for entry in profile["file_system"].get("entries", ()) if entry.get("access") == "write"]
    network = profile.get("network") == "enabled"
    if not writable:
        return {"type": "read-only", "network_access": True} if network else {"type": "read-only"}
    special = {path["value"]["kind"] for path in writable if path.get("type") == "special"}
    roots = [path["path"] for path in writable if path.get("type") == "path" and path["path"] != cwd]
    return {
        "type": "workspace-write",
        **({"writable_roots": roots} if roots else {}),
        "network_access": network,
        "exclude_tmpdir_env_var": "tmpdir" not in special,
        "exclude_slash_tmp": "slash_tmp" not in special,
    }
