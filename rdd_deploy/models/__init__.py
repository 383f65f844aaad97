"""Networks. ``HEADS`` names the decode heads that a recipe can choose; torch is imported when one is made.

A new head is a class like those in ``heads`` and a line here.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

HEADS = {
    "lraspp": Entry("rdd_deploy.models.heads:LRASPP"),
    "deeplabv3": Entry("rdd_deploy.models.heads:DeepLabV3"),
    "deeplabv3plus": Entry("rdd_deploy.models.heads:DeepLabV3Plus"),
    "pspnet": Entry("rdd_deploy.models.heads:PSPNet"),
}
