"""``rdd-deploy data COMMAND``: what makes and checks data sets."""

from __future__ import annotations

from rdd_deploy.cli import Commands, choose

COMMANDS: Commands = {
    "check": (
        "rdd_deploy.data.report.__main__",
        "everything that training checks of a recipe's data, and a page of what looks wrong",
    ),
    "import": ("rdd_deploy.data.imports.command", "an annotation tool's export as a data set that recipes take"),
}


def main() -> None:
    """Run the command that the first argument names."""
    choose("rdd-deploy data", COMMANDS)


if __name__ == "__main__":
    main()
