"""``rdd_deploy.distill`` as a program that puts a loss and a teacher of its own into the tables first."""

import sys

if __name__ == "forked_seams":  # forked: the package was imported without them
    for name in [name for name in sys.modules if name.partition(".")[0] == "rdd_deploy"]:
        del sys.modules[name]

from rdd_deploy.losses import LOSSES
from rdd_deploy.models.teachers import TEACHERS
from rdd_deploy.utils.tables import Entry

LOSSES["banked"] = Entry("toy_loss:BankedHint", {"size": int})
TEACHERS["colours"] = Entry("toy_teacher:load", {"sharpness": float, "maps": list})


def main() -> None:
    from rdd_deploy.distill import main

    main()


if __name__ == "__main__":
    main()
