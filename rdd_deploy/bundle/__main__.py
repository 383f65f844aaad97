"""``rdd-deploy bundle COMMAND``: a bundle as a thing, on any machine."""

from __future__ import annotations

from rdd_deploy.cli import Commands, choose

COMMANDS: Commands = {
    "show": (
        "rdd_deploy.bundle.show",
        "what it is: classes, input, target, sizes, accuracy, latency where it was benchmarked",
    ),
    "verify": (
        "rdd_deploy.bundle.verify",
        "whether it is whole and what was exported: all files, hashes, manifest, graph",
    ),
    "pack": ("rdd_deploy.bundle.pack", "as one .tar, the same bytes for the same bundle"),
    "unpack": ("rdd_deploy.bundle.unpack", "a folder from such a .tar, whole or not at all"),
}


def main() -> None:
    """Run the command that the first argument names."""
    choose("rdd-deploy bundle", COMMANDS)


if __name__ == "__main__":
    main()
